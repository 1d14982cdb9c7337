"""What is kept of one attempt that a worker reported."""

from __future__ import annotations

import time

from delaybox.core.delivery import Done, Failed
from delaybox.core.task import TaskResult
from delaybox.wire import result as wire_result

_CONTENT_TYPE_BYTES = 256
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


def kept_success(keep_ms: int, output: bytes, content_type: str, duration_ms: int, *, most: int) -> Done | Failed:
    """The end of a task with a result that is kept for so long; ``most``: bytes that it may have."""
    size = len(output)
    if size > most:
        return Failed(f"its result holds {size} bytes, more than {most} (results.maxBytes)", retryable=False)
    if len(content_type) > _CONTENT_TYPE_BYTES:
        words = f"its result's content type has {len(content_type)} characters, more than {_CONTENT_TYPE_BYTES}"
        return Failed(words, retryable=False)
    # As bytes from here to whoever reads it. The pool has read the task's own wish to keep it already.
    stored = wire_result.success(
        output, content_type, finished_ms=time.time_ns() // 1_000_000, duration_ms=min(duration_ms, LONGEST_MS)
    )
    return Done(keep_ms=keep_ms, stored=stored)
