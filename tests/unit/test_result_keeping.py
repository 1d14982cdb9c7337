"""How long a result is kept: the task, its function, its queue, the node, in this order."""

from __future__ import annotations

import pytest

from delaybox.core.result_keeping import LEAST_KEPT_MS, stored_ms, wished_ms


@pytest.mark.parametrize(
    ("task", "function", "queue", "node", "wished"),
    [
        (0, 0, None, 0, 0),
        (0, 0, None, 7, 7),
        (0, 0, 5, 7, 5),
        (0, 0, 0, 7, 0),
        (0, 3, 5, 7, 3),
        (0, 3, 0, 7, 3),
        (1, 3, 5, 7, 1),
        (1, 0, 0, 0, 1),
    ],
)
def test_the_first_wish_counts(task: int, function: int, queue: int | None, node: int, wished: int) -> None:
    assert wished_ms(task, function_ms=function, queue_ms=queue, node_ms=node) == wished


@pytest.mark.parametrize(
    ("task", "target", "kept"), [(0, 0, 60_000), (0, 90_000, 90_000), (80_000, 90_000, 80_000), (5, 90_000, 60_000)]
)
def test_what_is_stored_can_be_seen_for_a_minute(task: int, target: int, kept: int) -> None:
    assert LEAST_KEPT_MS == 60_000
    assert stored_ms(task, target) == kept
