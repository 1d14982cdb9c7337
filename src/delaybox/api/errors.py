"""The one table of errors outside: the HTTP status and the gRPC code of each."""

from __future__ import annotations

from typing import Final, NamedTuple

from delaybox.core.errors import (
    DelayBoxError,
    Denied,
    IdempotencyConflict,
    InvalidTask,
    Overloaded,
    PastDue,
    PayloadTooLarge,
    StoreUnavailable,
    TaskFinished,
    TaskNotFound,
    TaskRunning,
    TypeDisabled,
    Unauthenticated,
)


class Outside(NamedTuple):
    """``grpc`` is the number in google.rpc.Code, so that the REST process need not import grpc."""

    http: int
    grpc: int


OK: Final = 0
INVALID_ARGUMENT: Final = 3
NOT_FOUND: Final = 5
ALREADY_EXISTS: Final = 6
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
FAILED_PRECONDITION: Final = 9
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

DEFECT: Final = Outside(500, INTERNAL)
"""An error that no caller can cause."""
DEFECT_TEXT: Final = "internal error; the node's log says more"

TABLE: Final[tuple[tuple[type[DelayBoxError], Outside], ...]] = (
    (Unauthenticated, Outside(401, UNAUTHENTICATED)),
    (Denied, Outside(403, PERMISSION_DENIED)),
    (PayloadTooLarge, Outside(413, INVALID_ARGUMENT)),
    (TypeDisabled, Outside(403, PERMISSION_DENIED)),
    (PastDue, Outside(422, INVALID_ARGUMENT)),
    (InvalidTask, Outside(400, INVALID_ARGUMENT)),
    (IdempotencyConflict, Outside(409, ALREADY_EXISTS)),
    (TaskRunning, Outside(409, FAILED_PRECONDITION)),
    (TaskFinished, Outside(410, NOT_FOUND)),
    (TaskNotFound, Outside(404, NOT_FOUND)),
    (Overloaded, Outside(429, RESOURCE_EXHAUSTED)),
    (StoreUnavailable, Outside(503, UNAVAILABLE)),
)
"""The first that fits counts."""


def outside(error: DelayBoxError) -> Outside:
    """The table's entry for an error; DEFECT for one that no caller can cause."""
    return next((found for kind, found in TABLE if isinstance(error, kind)), DEFECT)


def retry_after_ms(error: DelayBoxError) -> int:
    """After this long another try can help; 0: it cannot."""
    return error.retry_after_s * 1000 if isinstance(error, Overloaded | StoreUnavailable) else 0
