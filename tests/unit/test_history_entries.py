"""Ends of tasks that a claim published itself, as they are remembered."""

from __future__ import annotations

import pytest

from delaybox.core.task import NewTask, Priority, TaskState, TaskType
from delaybox.store import history, record

DUE_MS, FIRED_MS = 1_700_000_000_123, 1_700_000_000_456
TASK_ID = DUE_MS.to_bytes(6, "big") + bytes(range(10))


def stored(**more: object) -> bytes:
    return record.draft(NewTask(payload=b"x" * 20, due_ms=DUE_MS, **more)).record  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "cut"),
    [(stored(), 0), (stored(), 22), (stored(idempotency_key="k"), 0), (stored(group="g"), 0)],
    ids=["whole", "head", "keyed", "extended"],
)
def test_an_end_says_when_it_was_due_and_fired(raw: bytes, cut: int) -> None:
    found = history.of_fired([TASK_ID, raw[: len(raw) - cut]], b"node", fired_ms=FIRED_MS)
    end = history.read(TASK_ID, found[TASK_ID])
    assert end is not None and list(found) == [TASK_ID]
    assert (end.due_ms, end.fired_ms, end.ended_ms) == (DUE_MS, FIRED_MS, FIRED_MS)
    assert (end.state, end.type, end.queue) == (TaskState.SUCCEEDED, TaskType.PUB_SUB, "default")
    assert (end.priority, end.attempt, end.deliveries, end.node) == (Priority.NORMAL, 0, 1, "node")


def test_one_that_was_put_off_keeps_its_own_times() -> None:
    old = record.read(TASK_ID, stored())
    old.attempt, old.deliveries = 2, 3
    moved, _ = record.rewrite(old, body=old.body, due_ms=DUE_MS + 5_000, priority=Priority.CRITICAL)
    end = history.read(TASK_ID, history.of_fired([TASK_ID, moved], b"", fired_ms=FIRED_MS)[TASK_ID])
    assert end is not None
    assert (end.due_ms, end.fired_ms, end.priority) == (DUE_MS + 5_000, FIRED_MS, Priority.CRITICAL)
    assert (end.attempt, end.deliveries, end.node) == (2, 4, "")


def test_lanes_and_priorities_are_not_mixed() -> None:
    raws = [stored(queue="a"), stored(queue="b"), stored(queue="a", priority=Priority.LOW), stored(queue="a")]
    named = [part for n, raw in enumerate(raws) for part in (TASK_ID[:-1] + bytes([n]), raw)]
    ends = [history.read(*one) for one in history.of_fired(named, b"", fired_ms=FIRED_MS).items()]
    assert [(end.queue, end.priority) for end in ends if end] == [
        ("a", Priority.NORMAL), ("b", Priority.NORMAL), ("a", Priority.LOW), ("a", Priority.NORMAL)
    ]  # fmt: skip
