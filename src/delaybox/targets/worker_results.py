"""What is kept of one attempt that a worker reported."""

from __future__ import annotations

import time

from delaybox.core.task import TaskResult

LONGEST_MS = 1 << 53
"""Longer than any task runs, and still exact where numbers are doubles, as in JavaScript's JSON."""


def attempt_result(
    ok: bool, duration_ms: int, output: bytes, *, reason: str = "", content_type: str = ""
) -> TaskResult:
    """A result that was finished now; a duration that cannot be is cut."""
    return TaskResult(
        ok=ok,
        finished_ms=time.time_ns() // 1_000_000,
        duration_ms=min(duration_ms, LONGEST_MS),
        output=output,
        reason=reason,
        content_type=content_type,
    )
