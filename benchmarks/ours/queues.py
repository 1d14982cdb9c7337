"""An engine that claims for a target with few places, which come free again after a moment: who gets how much?"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from statistics import median

from benchmarks.harness.cpu import seconds_of
from benchmarks.harness.figures import reset_costs, slowest_script
from benchmarks.harness.report import OURS, Row, at_most
from benchmarks.harness.server import BenchServer
from benchmarks.ours.storing import script_names
from delaybox.core.delivery import DONE, Delivery, Report
from delaybox.core.lane import lane_of
from delaybox.core.membership import Activity, ConnectedWorker
from delaybox.core.queue import LiveRules
from delaybox.core.task import NewTask, TaskType
from delaybox.engine.engine import Engine
from delaybox.engine.guest import Guest
from delaybox.engine.options import EngineOptions
from delaybox.store.record import Draft, draft
from delaybox.store.store import Batch, Store

FUNCTION = "f"
FROM_US = 500
"""SLOWLOG holds scripts from here on."""
LONGEST_MS = 10
_AT_ONCE = 500


class Places:
    """A target for WORKER tasks. ``key``: by what tasks are counted; each is counted with its lateness (ms), and when
    it came (Unix ms). ``drawn``: a task takes from half of ``takes_s`` to one and a half, as it draws; without it each
    takes the same time, and those that began together end together for ever."""

    def __init__(
        self,
        places: int,
        takes_s: float,
        key: Callable[[Delivery], str],
        most: int,
        *,
        drawn: random.Random | None = None,
    ) -> None:
        self.free = places
        self.got: list[tuple[str, float]] = []
        self.took_ms: list[float] = []
        self.guest: Guest | None = None
        self.full = asyncio.Event()
        self._takes_s = takes_s
        self._drawn = drawn
        self._key = key
        self._most = most

    def room(self) -> int:
        """Places that are free."""
        return self.free

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        """Takes tasks, and reports each when its time is over."""
        now = time.time() * 1000
        self.got += [(self._key(d), now - d.due_ms) for d in batch]
        self.took_ms += [now] * len(batch)
        self.free -= len(batch)
        if len(self.got) >= self._most:
            self.full.set()
        if self._drawn is None:
            await asyncio.sleep(self._takes_s)
            self._ended(batch, report)
            return
        began = time.monotonic()
        for takes_s, delivery in sorted(
            ((self._takes_s * self._drawn.uniform(0.5, 1.5), one) for one in batch), key=lambda pair: pair[0]
        ):
            await asyncio.sleep(began + takes_s - time.monotonic())
            self._ended([delivery], report)

    def _ended(self, batch: Sequence[Delivery], report: Report) -> None:
        report(batch, DONE)
        self.free += len(batch)
        if self.guest is not None:
            self.guest.more_room()

    def counts(self, first: int, behind: int) -> Counter[str]:
        """How many of each key are among the tasks from ``first`` to ``behind``, in the order in which they came."""
        return Counter(key for key, _ in self.got[first:behind])


def call(queue: str, **parts: object) -> NewTask:
    """A task for the target."""
    return NewTask(type=TaskType.WORKER, queue=queue, name=FUNCTION, **parts)  # type: ignore[arg-type]


async def add(store: Store, partition: int, tasks: Sequence[NewTask]) -> list[bytes]:
    """Stores tasks in one partition; their ids."""
    return await add_drafts(store, partition, [draft(task) for task in tasks])


async def add_drafts(store: Store, partition: int, drafts: Sequence[Draft]) -> list[bytes]:
    """As `add`; the same ones can be stored again and again."""
    found: list[bytes] = []
    for at in range(0, len(drafts), _AT_ONCE):
        (answers,) = await store.schedule([Batch(partition, drafts[at : at + _AT_ONCE])])
        if isinstance(answers, BaseException):
            raise answers
        found += [answer.task_id for answer in answers]
    return found


@asynccontextmanager
async def taking(store: Store, places: Places, queue: str = "*") -> AsyncIterator[None]:
    """An engine claims for the target."""
    rules, lane = LiveRules(), lane_of(TaskType.WORKER, queue, FUNCTION)
    # What no member says it serves gets no permits.
    one = ConnectedWorker(concurrency=places.free)
    facts = Activity(types=TaskType.WORKER.value, lanes=(lane,), lane_count=1, workers=(one,), worker_count=1)
    options = EngineOptions(node_id="bench", clock=False)
    engine = Engine(store, {}, options, hosts=True, rules=rules, facts=lambda: facts)
    await engine.start()
    try:
        while rules.version < 0:
            await asyncio.sleep(0.01)
        places.guest = engine.admit(lanes=[lane], target=places, room=places.room)
        yield
    finally:
        await engine.stop(5.0)


def queue_of(delivery: Delivery) -> str:
    """The queue that the lane names."""
    return delivery.lane.decode()[1:].partition(":")[0]


def watch(server: BenchServer) -> None:
    """From now on `longest` counts."""
    reset_costs(server, slowlog_from_us=FROM_US)


def longest(server: BenchServer, what: str) -> Row:
    """The longest script since `watch`."""
    slow = slowest_script(server, slowlog_from_us=FROM_US, names=script_names())
    return Row(
        what=f"{what}, longest script", subject=OURS, value=slow.longest_us / 1000, unit="ms",
        note=f"{slow.note(from_us=FROM_US)}; the kernel took the core from the server {server.preempted():,} times",
        bounds=(at_most(LONGEST_MS),),
    )  # fmt: skip


class ServerClock:
    """How long scripts take that are sent one by one, by the server's own processor time: the kernel taking its core
    away is no part of that. What it takes to read the request and to write the reply is."""

    def __init__(self, server: BenchServer) -> None:
        self._server = server
        self._found: list[tuple[float, str]] = []

    @contextmanager
    def one(self, name: str) -> Iterator[None]:
        """One script begins and ends."""
        before = seconds_of(self._server.process.pid)
        yield
        self._found.append((1000 * (seconds_of(self._server.process.pid) - before), name))

    def row(self, what: str) -> Row:
        """The longest script. The first of each name is compiled for the server, so it does not count."""
        names = Counter(name for _, name in self._found)
        first = {name: next(i for i, (_, other) in enumerate(self._found) if other == name) for name in names}
        counted = [one for i, one in enumerate(self._found) if i not in first.values()]
        took, name = max(counted)
        usual = median(ms for ms, other in counted if other == name)
        return Row(
            what=f"{what}, longest script", subject=OURS, value=took, unit="ms",
            note=f"{name}, by the server's processor time; {len(counted):,} scripts, median of its kind {usual:.2f} ms",
            bounds=(at_most(LONGEST_MS),),
        )  # fmt: skip
