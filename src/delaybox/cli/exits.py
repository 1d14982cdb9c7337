"""Exit codes: what each means, and which error ends with which. docs/cli.md holds this table."""

from __future__ import annotations

from enum import IntEnum

from delaybox.core.errors import (
    ConfigError,
    DelayBoxError,
    InvalidTask,
    Overloaded,
    StoreRefused,
    StoreUnavailable,
    TaskNotFound,
)


class Exit(IntEnum):
    """What a command ends with."""

    DONE = 0
    FAILED = 1
    WRONG_INPUT = 2
    NO_SERVER = 3
    NOT_ALLOWED = 4
    NOT_FOUND = 5
    CONFLICT = 6
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.DONE: "done; of `serve`: stopped by a signal in order",
    Exit.FAILED: "it failed (a taken port is here); `fsck` or `doctor` found a problem; some of several tasks or lines "
    "were refused",
    Exit.WRONG_INPUT: "wrong usage, configuration or input: the message names what, and how to mend it",
    Exit.NO_SERVER: "no server that can be used: nothing answers, or it is overloaded, starting, or of the wrong kind",
    Exit.NOT_ALLOWED: "the token is missing, wrong, or lacks a scope; or the node has this task type switched off",
    Exit.NOT_FOUND: "no such task, queue or path, or the task has finished",
    Exit.CONFLICT: "the task runs right now; or the idempotency key belongs to a task with another body",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
}


def of_status(status: int) -> Exit:
    """For an HTTP answer that is an error."""
    match status:
        case 401 | 403:
            return Exit.NOT_ALLOWED
        case 404 | 410:
            return Exit.NOT_FOUND
        case 409:
            return Exit.CONFLICT
        case 408 | 429 | 502 | 503 | 504:
            return Exit.NO_SERVER
        case 400 | 405 | 413 | 414 | 415 | 422 | 431:
            return Exit.WRONG_INPUT
    return Exit.FAILED


def of_error(error: DelayBoxError) -> Exit:
    """For an error that ends a command."""
    own = getattr(error, "exit", None)
    if isinstance(own, Exit):
        return own
    match error:
        case ConfigError() | InvalidTask():
            return Exit.WRONG_INPUT
        case StoreRefused() | StoreUnavailable() | Overloaded():
            return Exit.NO_SERVER
        case TaskNotFound():
            return Exit.NOT_FOUND
    return Exit.NO_SERVER if error.code == "embedded_server" else Exit.FAILED
