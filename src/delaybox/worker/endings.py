"""How a function says that its attempt ended badly, and how any exception becomes a failure."""

from __future__ import annotations

import traceback
from typing import Final

from delaybox.core.errors import NotDecodable, NotEncodable
from delaybox.core.texts import head
from delaybox.wire.gen import worker_pb2 as pb

TRACEBACK_BYTES: Final = 16_384


class Reject(Exception):
    """Raised by a function: another attempt would not help. The task becomes a dead letter with these words."""


class RetryLater(Exception):
    """Raised by a function: this attempt failed, try again in ``after`` seconds (the back-off when not given).

    An attempt is charged as for any failure.
    """

    def __init__(self, reason: str = "the function asked to be tried again", *, after: float | None = None) -> None:
        super().__init__(reason)
        if after is not None and after < 0:
            raise ValueError(f"after={after} is negative; give the seconds to wait, 0 or more")
        self.after = after


class Stopped(Exception):
    """Raised by `Context.check`: somebody cancelled the task, its time is over, or others have it now."""


class MisfitArguments(TypeError):
    """The task's arguments do not fit the function."""


FINAL: Final = (Reject, NotDecodable, NotEncodable, MisfitArguments)


def failure(error: BaseException, *, cancelled: bool = False) -> pb.Failed:
    """What is said of an attempt that ended with ``error``."""
    if isinstance(error, Stopped):
        return failed(str(error) or "cancelled", cancelled=cancelled)
    words = str(error)
    if isinstance(error, Reject | RetryLater):
        reason = words or type(error).__name__
    else:
        reason = f"{type(error).__name__}: {words}" if words else type(error).__name__
    said = failed(reason, final=isinstance(error, FINAL), cancelled=cancelled)
    if isinstance(error, RetryLater) and error.after is not None:
        said.retry_after_ms = round(error.after * 1000)
    said.output = _details(error)
    return said


def failed(reason: str, *, final: bool = False, cancelled: bool = False) -> pb.Failed:
    """A failure in words, cut where the contract cuts it."""
    return pb.Failed(reason=head(reason), final=final, cancelled=cancelled)


def timed_out(timeout_ms: int) -> pb.Failed:
    """The attempt took longer than it may."""
    return failed(f"timed out after {timeout_ms / 1000:g} s")


def _details(error: BaseException) -> bytes:
    """The traceback from the user's first frame on; its end where it is long."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__package__") == __package__ and frames.tb_next:
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except Exception as worse:  # noqa: BLE001 - an exception whose __str__ raises must not take the worker along
        text = f"{type(error).__name__} (its traceback cannot be shown: {type(worse).__name__})"
    return text.encode("utf-8", "replace")[-TRACEBACK_BYTES:]
