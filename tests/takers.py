"""What takes tasks from a tracker in a test, of which a test changes what it is about; tasks for it, and its looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from delaybox.core.lane import lane_of
from delaybox.core.shares import Part
from delaybox.core.task import NewTask, TaskType
from delaybox.engine import in_front, shares
from delaybox.engine.shares import Chooser
from delaybox.store.loader import ScriptCall
from delaybox.store.record import draft
from delaybox.store.store import Batch, Claimed, Store


class Collecting:
    """Collects the ids of what it gets, and has no lanes of its own."""

    types, free, in_flight = "s", 1_000, 0

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def lanes_at(self, partition: int, *, all_: bool) -> tuple[bytes, ...]:
        return ()

    def waits(self, partition: int, queues: Mapping[bytes, int]) -> None: ...

    def names(self) -> str:
        return ""

    def fired_in_place(self, partition: int, claimed: Claimed) -> None: ...

    def met(self, lanes: Sequence[bytes]) -> bool:
        return False

    def full(self, partitions: Sequence[int]) -> None: ...

    def lends(self, partition: int) -> bool:
        return False

    def accept(self, partition: int, lease_id: bytes, leased: Sequence[bytes]) -> list[float]:
        self.got += leased[::2]
        return [0.0] * (len(leased) // 2)


def call(queue: str = "default", **parts: Any) -> NewTask:
    return NewTask(type=TaskType.WORKER, queue=queue, name="f", **parts)


async def add(store: Store, partition: int, *tasks: NewTask) -> None:
    for at in range(0, len(tasks), 500):
        (answers,) = await store.schedule([Batch(partition, [draft(t) for t in tasks[at : at + 500]])])
        assert not isinstance(answers, BaseException), answers


@pytest.fixture
def surveys(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The partitions that takers looked at to decide what they claim, in order."""
    sent: list[str] = []
    really = store.runner.run_many

    async def run_many(calls: Sequence[ScriptCall]) -> list[Any]:
        sent.extend(one.tag for one in calls if one.script == "survey")
        return await really(calls)

    monkeypatch.setattr(store.runner, "run_many", run_many)
    return sent


def looks_count(monkeypatch: pytest.MonkeyPatch, ms: float) -> None:
    """How long a look counts, and an answer."""
    for module in (shares, in_front):
        monkeypatch.setattr(module, "FRESH_MS", ms)


@pytest.fixture
def asks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rules a look counts for ever, and each decision asks what stands in front of it."""
    looks_count(monkeypatch, -1.0)
    monkeypatch.setattr(shares, "_PLAIN_MS", 1e9)


async def chosen(chooser: Chooser, slots: int) -> dict[int, Part] | None:
    """What to claim from the first two partitions."""
    lane = lane_of(TaskType.WORKER, "*", "f")
    return await chooser.parts([0, 1], lambda: slots, 250, TaskType.WORKER.value, lambda _: (lane,))
