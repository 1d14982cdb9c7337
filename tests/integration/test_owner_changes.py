"""Partitions change hands when a process joins or leaves: how soon, and how late tasks are meanwhile.

Measured by the server's clock alone: the version of the list is the moment of its change, each partition names who
looked at it last, and the ids of stream entries are the moments in which tasks were fired.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from delaybox.core import ids
from delaybox.core.ownership import Candidate, assigned
from delaybox.core.task import NewTask
from delaybox.store import keys
from delaybox.store.promises import promises
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.engines import until
from tests.faults.harness.process import Process, worker
from tests.servers import RealServer
from tests.waiting import PATIENCE_S

PARTITIONS = 16
WITHIN_MS = 200
"""A hand-over may take this long, and tasks may be late by it meanwhile, on a machine that has time."""
SOON_MS = WITHIN_MS // 2
"""It takes 15 to 40 ms. One that waits for heartbeats takes up to 500 ms, and might be within the bound by chance."""
TRIPS = 15
"""On a busy machine it takes longer by so many round trips at most, each as long as one takes then."""
ATTEMPTS = 3
"""One must hold: while this machine stands still for a moment nothing is handed over."""
AHEAD_MS, EVERY_MS, CALM_MS = 250, 50, 300


class Change(NamedTuple):
    """What was measured of one hand-over (ms). ``late``: of the latest task; ``before``: of one in ten of the
    tasks right before it; ``trip``: how long a round trip took."""

    took: int
    late: int
    before: int
    trip: float

    @classmethod
    def of(cls, at_ms: int, took: int, trip: float, fired: Iterable[tuple[int, int]]) -> Change:
        """``fired``: of each task when it was due, and by how much it was late."""
        calm, meanwhile = [0], [0]
        for due, late in fired:
            if at_ms - CALM_MS <= due < at_ms + took + CALM_MS:
                (calm if due < at_ms else meanwhile).append(late)
        # What was due right before the change and late by it is of the change.
        return cls(took, max(meanwhile), sorted(calm)[len(calm) * 9 // 10], trip)

    @property
    def holds(self) -> bool:
        busy = TRIPS * self.trip
        return self.took <= SOON_MS + busy and self.late <= WITHIN_MS + self.before + busy


class Fleet:
    """Processes that keep time for one store, and what they fired."""

    def __init__(self, store: Store, client: Redis, url: str, folder: Path) -> None:
        self.store, self._client, self._url, self._folder = store, client, url, folder
        self.processes: list[Process] = []
        self._count = 0
        self._on = False

    async def start(self) -> Process:
        """One more, when it is ready."""
        settings = {
            "url": self._url,
            "prefix": self.store.prefix,
            "oracle": str(self._folder / "oracle"),
            "lease_ms": 5_000,
            "poll_ms": 1_000,
            "channel": f"{self.store.prefix}:out",
            "stream": 100_000,
            "fleet": True,
        }
        process = worker(self._folder, f"member-{len(self.processes)}", settings)
        self.processes.append(process)
        await process.start()
        return process

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Tasks come due in every partition all the time."""
        putting = asyncio.create_task(self._put_on())
        try:
            yield
        finally:
            self._on = False
            await putting

    async def _put_on(self) -> None:
        self._on = True
        while self._on:
            delays = range(AHEAD_MS, 2 * AHEAD_MS, EVERY_MS)
            batches = [Batch(p, [draft(NewTask(delay_ms=ms)) for ms in delays]) for p in range(PARTITIONS)]
            for answer in await self.store.schedule(batches):
                assert not isinstance(answer, BaseException), answer
                self._count += len(answer)
            await asyncio.sleep(AHEAD_MS / 1000)

    async def looks(self, members: list[str]) -> bool:
        """Whether each partition was looked at last by this member."""
        return [one and one.looker for one in (await promises(self.store, range(PARTITIONS)))[1]] == members

    async def is_past(self, ms: int) -> bool:
        """Whether it is later by the server's clock."""
        return await self.store.ping() > ms

    @contextlib.asynccontextmanager
    async def next_change(self) -> AsyncIterator[Awaitable[int]]:
        """The moment (ms) in which the list of members changes next."""
        async with self._client.pubsub() as changes:
            await changes.subscribe(keys.members_channel(self.store.prefix))
            await changes.get_message(timeout=PATIENCE_S)
            yield _number(changes)

    async def handed_over(self, before: list[str], after: list[str], changed_ms: int) -> tuple[int, float]:
        """How long after this moment each partition that changes hands was looked at by its new owner, and how long a
        round trip took meanwhile."""
        waits = {p for p in range(PARTITIONS) if before[p] != after[p]}
        assert waits
        now_ms, trips = changed_ms, list[float]()
        async with asyncio.timeout(PATIENCE_S):
            while waits or len(trips) < 5:
                began = time.monotonic()
                at_ms, read = await promises(self.store, range(PARTITIONS))
                trips.append((time.monotonic() - began) * 1000)
                looked = {p for p in waits if (one := read[p]) and one.looker == after[p]}
                now_ms, waits = at_ms if looked else now_ms, waits - looked
        return now_ms - changed_ms, statistics.median(trips)

    async def fired(self) -> list[tuple[int, int]]:
        """(due ms, by how much late) of each task, when all are fired: each once."""
        found: list[tuple[bytes, int]] = []

        async def all_fired() -> bool:
            found.clear()
            for tag in self.store.tags:
                entries: Any = await self._client.xrange(keys.stream(tag))
                found.extend((ids.parse(one[b"task"][2:38].decode()), int(at.split(b"-")[0])) for at, one in entries)
            return len(found) >= self._count

        await until(all_fired)
        assert len({task_id for task_id, _ in found}) == len(found) == self._count
        return [(ids.due_ms(task_id), at - ids.due_ms(task_id)) for task_id, at in found]

    async def end(self) -> None:
        """Kills all."""
        for process in self.processes:
            await process.clean_up()


@pytest.fixture
async def fleet(client: Redis, prefix: str, server: RealServer, tmp_path: Path) -> AsyncIterator[Fleet]:
    store = await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS)
    made = Fleet(store, client, server.url, tmp_path)
    yield made
    await made.end()


async def _number(changes: PubSub) -> int:
    message = await changes.get_message(timeout=PATIENCE_S)
    assert message is not None
    return int(message["data"])


def owners(*members: Process) -> list[str]:
    """Of each partition, as all members compute them."""
    keepers = [Candidate(f"test-{member.pid}.clock0", socket.gethostname()) for member in members]
    return [share.owner for share in assigned(keepers, PARTITIONS)]


async def test_partitions_are_handed_over_at_once_and_without_a_gap(fleet: Fleet) -> None:
    one, two = await asyncio.gather(fleet.start(), fleet.start())
    by_two = owners(one, two)
    await until(lambda: fleet.looks(by_two))
    measured: dict[str, list[Change]] = {"join": [], "leave": []}
    for _ in range(ATTEMPTS):
        async with fleet.busy():
            async with fleet.next_change() as change:
                starting = asyncio.create_task(fleet.start())
                at_ms = await change
            by_three = owners(one, two, fleet.processes[-1])
            joined = at_ms, *await fleet.handed_over(by_two, by_three, at_ms)
            three = await starting
            await until(lambda: fleet.looks(by_three))  # noqa: B023 - waited for at once
            await until(lambda: fleet.is_past(at_ms + 2 * CALM_MS))  # noqa: B023 - waited for at once
            async with fleet.next_change() as change:
                three.send(signal.SIGTERM)
                at_ms = await change
            left = at_ms, *await fleet.handed_over(by_three, by_two, at_ms)
            assert await three.wait() == 0, three.output()
            await until(lambda: fleet.is_past(at_ms + WITHIN_MS + CALM_MS))  # noqa: B023 - waited for at once
        fired = await fleet.fired()
        for how, what in (("join", joined), ("leave", left)):
            measured[how].append(Change.of(*what, fired))
        if all(any(change.holds for change in changes) for changes in measured.values()):
            return
    raise AssertionError(measured)
