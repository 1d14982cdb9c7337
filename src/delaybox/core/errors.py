"""The one error tree. Each error has a stable ``code``; the edges (REST, CLI) translate it once.

A message names what was wrong, with which value, and how to mend it.
"""

from __future__ import annotations


class DelayBoxError(Exception):
    """Root of every error that DelayBox raises on purpose."""

    code = "internal"

    def __reduce__(self) -> tuple[object, ...]:
        """Restores the error without calling its class: pickle would call the class with the message alone, and the
        TypeError would break a pool of processes."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[DelayBoxError], args: tuple[object, ...], attributes: dict[str, object]) -> DelayBoxError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class InvalidTask(DelayBoxError):
    """A caller's task cannot be accepted. ``field`` names the part that was wrong."""

    code = "invalid_task"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class PayloadTooLarge(InvalidTask):
    """The body or payload is over its limit."""

    code = "too_large"

    def __init__(self, field: str, message: str, *, limit: int) -> None:
        super().__init__(field, message)
        self.limit = limit


class TypeDisabled(InvalidTask):
    """The task type exists but is switched off on this node."""

    code = "type_disabled"


class PastDue(InvalidTask):
    """The task asked to be refused when it is already due, and it is."""

    code = "past_due"


class NotEncodable(DelayBoxError):
    """Arguments or a result that cannot be made into bytes."""

    code = "not_encodable"


class NotDecodable(DelayBoxError):
    """A payload or a kept result that is not what its content type says."""

    code = "not_decodable"


class IdempotencyConflict(DelayBoxError):
    """The idempotency key already names a task with another body."""

    code = "idempotency_conflict"

    def __init__(self, key: str, task_id: str) -> None:
        super().__init__(
            f"the idempotency key {key!r} already belongs to task {task_id}, which has another body; "
            "send the same body to get that task's id, or use a new key"
        )
        self.key = key
        self.task_id = task_id


class KeyCancelled(IdempotencyConflict):
    """The idempotency key names a task that was cancelled, so nothing would run."""

    code = "key_cancelled"

    def __init__(self, key: str, task_id: str) -> None:
        super().__init__(key, task_id)
        text = (
            f"the idempotency key {key!r} belongs to task {task_id}, which was cancelled; use a new key, or free this "
            "one by cancelling that task once more with free_key (`delaybox cancel --free-key`)"
        )
        self.args = (text,)


class TaskNotFound(DelayBoxError):
    """No record of this id."""

    code = "not_found"


class TaskFinished(TaskNotFound):
    """No record of this id, and its due time is past: it has finished, was cancelled, or never was."""

    code = "finished_or_unknown"


class TaskRunning(DelayBoxError):
    """The task is leased right now, so it cannot be cancelled or moved."""

    code = "running"


class Overloaded(DelayBoxError):
    """The bounded queue in front of the store is full."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(DelayBoxError):
    """Redis is away, or its reply never came: whether the write happened is unknown."""

    code = "store_unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PartAway(StoreUnavailable):
    """One server of several does not answer, or a part of the store moves to another one. Nothing was written, so the
    same may be sent again, to this part of the store or to another one."""


class Unconfirmed(StoreUnavailable):
    """The write is stored, but not confirmed as the node's durability asks: it can be lost with the server. ``why``:
    what was missing; empty where the message alone came from a node."""

    code = "unconfirmed"
    why = ""


class StoreLost(StoreUnavailable):
    """The server answers, but the store that this node works for is not on it any more, or only in part."""

    code = "store_lost"


class StoreFull(StoreUnavailable):
    """Redis refuses new data because maxmemory is reached; claim and ack go on."""

    code = "store_full"


class StoreRefused(DelayBoxError):
    """The server or what lies in it cannot be used: wrong policy, newer format, missing feature."""

    code = "store_refused"


class Denied(DelayBoxError):
    """The caller may not do this, whatever is asked."""


class Unauthenticated(Denied):
    """No token, or none that the node knows. ``given``: a token was sent."""

    code = "unauthenticated"

    def __init__(self, message: str, *, given: bool) -> None:
        super().__init__(message)
        self.given = given


class ScopeMissing(Denied):
    """The caller's token does not hold ``scope``."""

    code = "scope_missing"

    def __init__(self, scope: str, what: str = "this call") -> None:
        super().__init__(
            f"this token lacks the scope {scope}, which {what} needs; add it to the token's scopes in auth.tokens"
        )
        self.scope = scope


class ConfigError(DelayBoxError):
    """The configuration is wrong. The message names the key, where it was set and the mend."""

    code = "config"
