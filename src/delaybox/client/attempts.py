"""Why attempts of a task failed, and moments as calls return them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from delaybox.wire.gen import scheduler_pb2 as pb

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def moment(ms: int) -> datetime:
    """A Unix time in ms as an aware datetime in UTC."""
    return _EPOCH + timedelta(milliseconds=ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
    """Why one attempt failed. ``fired``: when it was handed out, where that is known. ``node``: the member that had it.

    ``traceback``: of a function; of a command the end of what it printed, where that was kept.
    """

    attempt: int
    fired: datetime | None
    failed: datetime
    node: str
    reason: str
    traceback: str

    @classmethod
    def of(cls, one: pb.FailedAttempt) -> FailedAttempt:
        return cls(
            attempt=one.attempt,
            fired=moment(one.fired_ms) if one.fired_ms else None,
            failed=moment(one.failed_ms),
            node=one.node,
            reason=one.reason,
            traceback=one.traceback,
        )
