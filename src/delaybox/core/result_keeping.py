"""How long the result of a task is kept: whose wish counts, and the least time. Pure."""

from __future__ import annotations

from typing import Final

LEAST_KEPT_MS: Final = 60_000
"""A result that is stored stays for at least this long, so that a caller can see it."""


def wished_ms(task_ms: int, *, function_ms: int = 0, queue_ms: int | None = None, node_ms: int = 0) -> int:
    """How long (ms) the result of a task is wanted; 0: not at all.

    The task's own wish comes first, then what its worker announced for the function, then the rule of its queue, then
    this node's configuration. A task or a function without a wish has 0; a queue without a rule has None, because its
    rule may be that no results are kept.
    """
    if task_ms or function_ms:
        return task_ms or function_ms
    return node_ms if queue_ms is None else queue_ms


def stored_ms(task_ms: int, target_ms: int) -> int:
    """How long (ms) a result is kept that a target handed over.

    ``task_ms``: the task's own wish, or 0; ``target_ms``: what its target asked for, mostly by `wished_ms`.
    """
    return max(task_ms or target_ms, LEAST_KEPT_MS)
