"""T12: a primary is cut off from its replica and goes on; the replica is promoted; then the cut heals.

A producer and a node stay on the primary's side, and still reach it as long as the cut lasts. What they were answered
is what a mode may lose, or may not. The cut is one of two: a proxy between both servers passes nothing on, while all
others reach the primary; or, where that is allowed, the cable of a network namespace is pulled, in which the primary
and those beside it are alone then, and nobody is told.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from delaybox.core.durability import Durability, DurabilityMode
from delaybox.service import Service
from tests.faults.harness.checker import Limits, check
from tests.faults.harness.island import island, why_not
from tests.faults.harness.oracle import OK, now_us
from tests.faults.harness.rig import Rig, soon
from tests.faults.harness.scale import FULL
from tests.faults.harness.server import Server
from tests.ports import free_port
from tests.waiting import until_async

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(not FULL, reason="in `make test`, tests/integration/test_durability.py cuts the cable"),
]

FAST = Durability()
STRICT = Durability(mode=DurabilityMode.STRICT, within_ms=200)
AT_ONCE = {"repl-diskless-sync-delay": "0"}
MAX_LAG_S = 2
BOUNDED = {"min-replicas-to-write": "1", "min-replicas-max-lag": str(MAX_LAG_S)}
CASES = [("fast", 2.0), ("fast", 10.0), ("bounded", 10.0), ("strict", 2.0), ("strict", 10.0), ("strict", 60.0)]
ALONE = [("fast", 10.0), ("bounded", 10.0), ("strict", 10.0)]
CHUNK = 10
STAYS = 1_000_000
"""The number of the first task of the producer that stays with the old primary."""
FOUND_S = 2
"""So long after the promotion all calls that go through the door reach the new primary."""
UNDER_WAY_S = 1.0
"""By how much a replica may be behind when the cable is cut, on a busy machine."""


class Cut(NamedTuple):
    """Between the primary and its replica. ``to_old``: where the replica finds the primary; ``door``: where callers on
    the replica's side find it (None: at its socket); ``here``: the replica's address, as the primary finds it."""

    pull: Callable[[], None]
    plug: Callable[[], None]
    to_old: tuple[str, int]
    door: tuple[str, int] | None = None
    here: str = "127.0.0.1"


class Outbox:
    """A producer at one side. It sends each task once, and knows what it must send again."""

    def __init__(self, rig: Rig, service: Service, first: int, due_ms: Callable[[int], int]) -> None:
        self._rig, self._service, self._numbers, self._due_ms = rig, service, itertools.count(first, CHUNK), due_ms
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self.sent: list[tuple[int, int]] = []
        """(number of the first task, when it was sent) of each call."""

    async def _run(self) -> None:
        while not self._over.is_set():
            first = next(self._numbers)
            self.sent.append((first, now_us()))
            await send(self._rig, self._service, first, self._due_ms, resend=False)
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self._over.set()
        await self._task


async def send(rig: Rig, service: Service, first: int, due_ms: Callable[[int], int], *, resend: bool) -> None:
    await rig.produce(service, CHUNK, start=first, due_ms=due_ms, chunk=CHUNK, resend=resend, work={"w": 20})


@asynccontextmanager
async def replica_of(rig: Rig, cut: Cut) -> AsyncIterator[Server]:
    """A replica that holds what its primary holds."""
    bind = () if cut.door is None else (cut.here,)
    server = Server(rig.folder / "replica", port=free_port(), options=AT_ONCE, bind=bind)
    server.start()
    try:
        with server.client() as client:
            client.execute_command("REPLICAOF", *cut.to_old)
            await until_async(lambda: client.info("replication")["master_link_status"] == "up")
        yield server
    finally:
        server.stop()


def digest(client: redis.Redis) -> bytes:
    """Of all that a server holds."""
    found: bytes = client.execute_command("DEBUG", "DIGEST")
    return found


def options_of(kind: str) -> dict[str, str]:
    return AT_ONCE | (BOUNDED if kind == "bounded" else {})


def durability_of(kind: str) -> Durability:
    return STRICT if kind == "strict" else FAST


@pytest.mark.parametrize(("kind", "cut_s"), CASES)
async def test_a_cut_costs_what_the_mode_may_lose(tmp_path: Path, kind: str, cut_s: float) -> None:
    port = free_port()
    async with Rig(tmp_path, "T12", options=options_of(kind), durability=durability_of(kind), port=port) as rig:
        cable = await rig.proxy(("127.0.0.1", port))
        cut = Cut(cable.gate.clear, cable.gate.set, ("127.0.0.1", cable.port))
        await _judged(rig, kind, cut_s, cut)


@pytest.mark.parametrize(("kind", "cut_s"), ALONE)
async def test_a_primary_that_is_alone_costs_what_the_mode_may_lose(tmp_path: Path, kind: str, cut_s: float) -> None:
    if why := why_not():
        pytest.skip(why)
    port, options = free_port(), {"appendfsync": "everysec"} | options_of(kind)
    with island() as apart:
        server = Server(tmp_path / "redis", port=port, options=options, under=apart.under, bind=(apart.there,))
        async with Rig(tmp_path, "T12", mode="", durability=durability_of(kind), server=server) as rig:
            to_old = apart.there, port
            await _judged(rig, f"{kind}-alone", cut_s, Cut(apart.cut, apart.join, to_old, to_old, apart.here))


async def _judged(rig: Rig, kind: str, cut_s: float, cut: Cut) -> None:
    rig.mode = f"{kind}-{cut_s:g}s"
    old = rig.server
    try:
        async with replica_of(rig, cut) as new:
            await _cut_promoted_healed(rig, kind.partition("-")[0], cut_s, cut, new)
            with old.client() as was, new.client() as now:
                # The one that was cut off has given up what it took alone.
                await until_async(lambda: digest(was) == digest(now))
    finally:
        old.stop()


async def _cut_promoted_healed(rig: Rig, kind: str, cut_s: float, cut: Cut, new: Server) -> None:
    old = rig.server
    door = await rig.proxy(cut.door)
    there = f"redis://127.0.0.1:{door.port}"
    near, far = await asyncio.gather(rig.worker(url=there), rig.worker())
    ends = soon() + int(cut_s * 1_000) + 5_000
    due: dict[int, int] = {}

    def due_ms(n: int) -> int:
        """Half is due soon, and half after the cut."""
        return due.setdefault(n, soon(500) if n % 2 else ends + n % 3_000)

    follows = Outbox(rig, await rig.service(there, timeout_s=2.0), 0, due_ms)
    stays = Outbox(rig, await rig.service(), STAYS, due_ms)
    await rig.reached(20)

    cut_us = now_us()
    async with rig.nemesis.during("net"):
        cut.pull()
        await asyncio.sleep(cut_s / 2)
        with new.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        door.lead_to(str(new.socket))
        door.reset_all()
        promoted_us = now_us()
        await asyncio.sleep(cut_s / 2)
        await stays.stop()
        cut.plug()
        with old.client() as client:
            client.execute_command("REPLICAOF", cut.here, new.port)
        # The node at the old primary may not write there any more. What it has in hand it ends.
        await asyncio.sleep(0.5)
        async with rig.nemesis.during("kill", pid=far.pid):
            await far.end()
    rig.nemesis.note("rollback", from_us=cut_us - int(UNDER_WAY_S * 1e6), to_us=now_us())
    await asyncio.sleep(1.0)
    await follows.stop()

    rig.server = new
    await rig.settled(timeout_s=60)
    history = rig.reader.final()
    judged = check(history, await rig.final(), Limits(drained=False, lost=len(history.calls))).figures
    alone = [c for c in history.calls if c.outcome == OK and c.sent_us > cut_us and int(c.key[1:]) >= STAYS]
    figures = {
        "cut_s": cut_s,
        "lost_before_resend": int(judged["lost"]),
        "answered_in_the_cut": len(alone),
        "last_answer_s": round(max((call.answered_us - cut_us for call in alone), default=0) / 1e6, 1),
    }
    # All that the new primary did not answer itself is sent again, with the same keys.
    service = await rig.service()
    for first, sent_us in [*stays.sent, *follows.sent]:
        if first >= STAYS or sent_us < promoted_us + FOUND_S * 1e6:
            await send(rig, service, first, due_ms, resend=True)
    await rig.settled(timeout_s=60)
    await near.end()
    await rig.passes(Limits(), extra=figures)
    if kind == "strict":
        assert figures["lost_before_resend"] == 0, figures
        assert judged["unknown"] > 0, "the cut was met by nobody"
    else:
        assert figures["lost_before_resend"] > 0, "the cut must cost something, or the run proves nothing"
    if kind == "bounded":
        # It counts its replicas once a second.
        assert figures["last_answer_s"] <= MAX_LAG_S + 3, figures
