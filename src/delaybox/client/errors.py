"""The errors of a client beside those of `delaybox.core.errors`, and how gRPC statuses become errors.

The node's errors come as google.rpc.Status: ErrorInfo names the code, BadRequest the field, RetryInfo when to return.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from delaybox.core import errors as core
from delaybox.core.errors import DelayBoxError
from delaybox.wire.gen import scheduler_pb2 as pb

DOMAIN: Final = "delaybox"
_DETAILS: Final = "grpc-status-details-bin"
_NEVER_SENT: Final = ("failed to connect", "Connection refused", "DNS resolution failed", "connections to all backends")
"""How gRPC words that it had no connection to send on, for which it has no code of its own."""
_NOT_TAKEN: Final = "RST_STREAM with error code 7"
"""How it words REFUSED_STREAM of HTTP/2: too many calls on one connection, and nothing was done for this one."""


class Unreachable(DelayBoxError):
    """No node answered, and no request reached one: what was asked has not been done."""

    code = "unreachable"


class OutcomeUnknown(DelayBoxError):
    """The connection broke, or the time was over, after something was sent: it may have been done, or not.

    Where it must not be done twice, use a key (or ``safe=True``): a repeated call then finds the first one's task.
    """

    code = "outcome_unknown"


class CallTimeout(DelayBoxError, TimeoutError):
    """No answer within the call's time. What was asked changes nothing, so it can be asked again."""

    code = "timeout"


class Refused(DelayBoxError):
    """The node refused the call for a reason that has no class of its own; ``code`` is the node's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotFinished(DelayBoxError, TimeoutError):
    """The task has not finished within the time that its result was waited for. It goes on all the same."""

    code = "not_finished"


class TaskFailed(DelayBoxError):
    """The task failed for good. ``reason``: why, in words; ``output``: what it left, such as a traceback."""

    code = "task_failed"

    def __init__(self, task_id: str, reason: str, output: bytes = b"") -> None:
        super().__init__(f"task {task_id} failed: {reason or 'no reason is kept'}")
        self.task_id = task_id
        self.reason = reason
        self.output = output


class TaskCancelled(DelayBoxError):
    """The task was cancelled."""

    code = "task_cancelled"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id} was cancelled")
        self.task_id = task_id


class ResultGone(DelayBoxError):
    """Nothing of the task is kept: it has finished and its result was not kept (any more), or it never was."""

    code = "result_gone"

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"nothing is kept of task {task_id}: it has finished, was cancelled, or never was; "
            "schedule with keep_result, long enough to fetch the result"
        )
        self.task_id = task_id


@dataclass(frozen=True, slots=True)
class Failure:
    """How one attempt of a call failed.

    ``refused``: the node refused before it did anything; ``sent``: False when no node can have received it.
    ``retry_after_s``: the node's wish, or None. ``final``: no other attempt can end otherwise.
    """

    error: DelayBoxError
    status: str
    sent: bool = True
    refused: bool = False
    retry_after_s: float | None = None
    final: bool = False


def closed(*, sent: bool = False) -> Failure:
    """A call on a client that was closed, before it or (``sent``) while it was under way."""
    error = Unreachable("this client has been closed; make another one")
    return Failure(error, "CANCELLED", sent=sent, refused=not sent, final=True)


REFUSALS: Final = frozenset(
    ("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
     "FAILED_PRECONDITION", "UNAUTHENTICATED", "UNIMPLEMENTED", "OUT_OF_RANGE")
)  # fmt: skip
_KINDS: Final[Mapping[str, type[DelayBoxError]]] = {
    kind.code: kind for kind in vars(core).values() if isinstance(kind, type) and issubclass(kind, DelayBoxError)
}
REFUSED_CODES: Final = frozenset((core.StoreFull.code, core.Overloaded.code))


def failure_of(error: grpc.RpcError, where: str) -> Failure:
    """The failure that a gRPC error of either library stands for. ``where``: the endpoint, for the message."""
    call: Any = error
    status: str = call.code().name
    details: str = call.details() or ""
    refusal = _status_details(call.trailing_metadata())
    if refusal is not None:
        info, field, wait_s = refusal
        found = error_of(info.reason, details, field=field, metadata=info.metadata)
        return Failure(found, status, refused=status in REFUSALS or info.reason in REFUSED_CODES, retry_after_s=wait_s)
    sent = not (status == "UNAVAILABLE" and any(words in details for words in _NEVER_SENT))
    redis = f"; that is Redis's own port: to go there straight write redis://{where}" if where.endswith(":6379") else ""
    if status == "UNAVAILABLE" and _NOT_TAKEN in details:
        return Failure(core.Overloaded(f"{where} took no more calls on this connection"), status, refused=True)
    if status == "UNAVAILABLE":
        mend = redis or ("" if sent else _mend(details))
        return Failure(Unreachable(f"{where}: {details}{mend}"), status, sent=sent)
    if status == "DEADLINE_EXCEEDED":
        return Failure(CallTimeout(f"{where} did not answer in time{redis}"), status)
    if status == "CANCELLED":
        # Not by this program. gRPC ends calls so that come while their server stops, and those that outlast its grace.
        return Failure(Unreachable(f"{where} ended the call, because it is stopping"), status)
    return Failure(Refused(status.lower(), f"{where}: {details or status}"), status, refused=status in REFUSALS)


def _mend(details: str) -> str:
    """What to do where no connection came about, by what gRPC says of it."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return "; the node's certificate is not trusted: give the authority that signed it as ca_file"
    if "Socket closed" in details:
        return "; if the node has TLS, give tls or ca_file, and where it asks for a certificate cert_file and key_file"
    return "; is a node listening there? gRPC has port 9088 unless configured"


def error_of(code: str, message: str, *, field: str = "", metadata: Mapping[str, str] | None = None) -> DelayBoxError:
    """The error that a node's code stands for."""
    kind = _KINDS.get(code)
    more = metadata or {}
    if kind is None or kind is DelayBoxError:
        return Refused(code, message)
    if issubclass(kind, core.PayloadTooLarge):
        limit = more.get("limit", "")
        return kind(field, message, limit=int(limit) if limit.isdigit() else 0)
    if issubclass(kind, core.InvalidTask):
        return kind(field, message)
    if issubclass(kind, core.Unauthenticated):
        return kind(message, given=more.get("given") == "true")
    # The message that these classes make is replaced by the node's, which has more detail.
    worded: DelayBoxError
    if issubclass(kind, core.IdempotencyConflict):
        worded = kind("", more.get("task_id", ""))
    elif issubclass(kind, core.ScopeMissing):
        worded = kind(more.get("scope", ""))
    else:
        return kind(message)
    worded.args = (message,)
    return worded


def item_error(result: pb.ScheduleResult) -> DelayBoxError:
    """Why one task of a batch was refused."""
    refusal = result.error
    return error_of(refusal.code, refusal.message, field=refusal.field, metadata={"task_id": result.id})


def _status_details(metadata: Any) -> tuple[error_details_pb2.ErrorInfo, str, float | None] | None:
    raw = next((value for name, value in metadata or () if name == _DETAILS), None)
    if raw is None:
        return None
    try:
        status = status_pb2.Status.FromString(raw)
    except DecodeError:
        return None
    info, field, wait_s = error_details_pb2.ErrorInfo(), "", None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            wrong = error_details_pb2.BadRequest()
            detail.Unpack(wrong)
            path = wrong.field_violations[0].field if wrong.field_violations else ""
            field = path.removeprefix("task.")
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            wait_s = retry.retry_delay.ToMilliseconds() / 1000
    return (info, field, wait_s) if info.domain == DOMAIN else None
