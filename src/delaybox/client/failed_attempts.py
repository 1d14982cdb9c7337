"""Why attempts of a task failed, as calls return it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from delaybox.client.moments import moment
from delaybox.wire.gen import scheduler_pb2 as pb


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
