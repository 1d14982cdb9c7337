"""Workers under fire, of a node and straight on Redis: SIGKILL one after the other, frozen for longer than their tasks
wait, cut off the network, restarted in turn."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from delaybox import metrics
from tests.engines import until
from tests.faults.harness.scale import SEED, WHOLE, scaled
from tests.yard import Process, Yard, both_ways, worker, yard

__all__ = ["yard"]  # the fixture

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

CONCURRENCY = 50
NAP_S = scaled(0.1, 0.02)
BATCH, EVERY_MS = scaled(100, 500), scaled(150, 200)
KILL_EVERY_S = scaled(0.5, 1.0)
# How long, and whether the connections are reset as well, so that both sides know at once, not by silence.
SHORT_CUTS = [pytest.param(1.0, False, id="silence-1"), pytest.param(6.0, True, id="reset-6")]
CUTS = scaled(
    SHORT_CUTS,
    [*SHORT_CUTS, pytest.param(30.0, False, id="silence-30")],
)


async def scheduled(yard: Yard, count: int) -> list[str]:
    """Due one batch after the other, so that there is work all the time."""
    made: list[str] = []
    while len(made) < count:
        due = 500 + len(made) // BATCH * EVERY_MS
        made += await yard.call("naps", NAP_S, count=min(BATCH, count - len(made)), delay_ms=due)
    return made


async def all_ended(yard: Yard, made: list[str], *, timeout_s: float) -> None:
    """Returns when each has come to its end and the store holds nothing; AssertionError: some were lost."""
    await until(lambda: len(yard.oracle.ended()) >= len(made), timeout_s=timeout_s)
    await yard.sound()
    assert set(made) == set(yard.oracle.ended()) - set(await yard.dead()), "lost, or ran what nobody scheduled"


def extra(yard: Yard) -> int:
    """Runs beyond one of each task. Each has a token of its own, or two workers had one delivery."""
    begun = yard.oracle.begun()
    assert all(len(set(tokens)) == len(tokens) for tokens in begun.values()), "one delivery was handed out twice"
    return sum(len(tokens) - 1 for tokens in begun.values())


def lost() -> int:
    """How many workers the node in this process has given up. Straight on Redis none are counted."""
    return int(metrics.REGISTRY.get_sample_value("delaybox_lost_workers_total") or 0)


class Gang:
    """Worker processes, of which one is killed and replaced now and then."""

    def __init__(self, yard: Yard, folder: Path) -> None:
        self._yard = yard
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()
        self._working: list[Process] = []
        self._hiring: list[asyncio.Task[None]] = []
        self.kills = 0

    async def hire(self) -> None:
        enter = self._stack.enter_async_context
        self._working.append(await enter(worker(self._yard, self._folder, "--concurrency", str(CONCURRENCY))))

    async def _stopped(self, draw: random.Random) -> Process:
        """One that works, stopped in the midst of a task at least."""

        def busy() -> list[Process]:
            return [one for one in self._working if self._yard.oracle.under_way(one.pid)]

        while True:
            await until(lambda: bool(busy()), timeout_s=60)
            if not (some := busy()):
                continue
            victim = draw.choice(some)
            os.killpg(victim.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, victim.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            # What it had begun may have ended in the moment before it stood still.
            if self._yard.oracle.under_way(victim.pid):
                return victim
            os.killpg(victim.pid, signal.SIGCONT)

    async def kill(self, draw: random.Random) -> None:
        """One of those that work, the first time one that is about a task; its place is taken as soon as another has
        started."""
        await until(lambda: len(self._working) > 1)
        victim = draw.choice(self._working) if self.kills else await self._stopped(draw)
        self._working.remove(victim)
        victim.signal(signal.SIGKILL)
        await victim.end()
        self.kills += 1
        self._hiring.append(asyncio.create_task(self.hire()))

    async def freeze(self, draw: random.Random) -> int:
        """One that is about a task, until others have begun all that it was about. Returns how many tasks that were."""
        victim = await self._stopped(draw)
        try:
            held = self._yard.oracle.under_way(victim.pid)

            async def taken() -> bool:
                begun = self._yard.oracle.begun()
                left = [task for task in held if len(begun[task]) < 2]
                return not left or set(left) <= set(await self._yard.dead())

            await until(taken, timeout_s=60)
        finally:
            os.killpg(victim.pid, signal.SIGCONT)
        return len(held)

    async def replace(self) -> None:
        """The eldest is asked to stop once a new one works; returns when it has ended."""
        await self.hire()
        eldest = self._working.pop(0)
        eldest.signal(signal.SIGTERM)
        assert await eldest.end(60.0) == 0, eldest.output()

    async def __aenter__(self) -> Gang:
        await asyncio.gather(*(self.hire() for _ in range(4)))
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.gather(*self._hiring)
        await self._stack.aclose()


@pytest.fixture
async def gang(yard: Yard, tmp_path: Path) -> AsyncIterator[Gang]:
    async with Gang(yard, tmp_path) as made:
        yield made


@both_ways
async def test_workers_killed_one_after_the_other_lose_nothing(yard: Yard, gang: Gang) -> None:
    # Straight on Redis what a killed worker had comes back only after its lease, three seconds here.
    count, draw = scaled(4_000 if yard.way == "grpc" else 1_000, WHOLE), random.Random(SEED)
    began = time.monotonic()
    producing = asyncio.create_task(scheduled(yard, count))

    async def over() -> bool:
        return len(yard.oracle.ended()) + len(await yard.dead()) >= count

    ended = asyncio.create_task(until(over, timeout_s=scaled(120, 1_500)))
    await yard.begun_any()
    while not ended.done():
        await gang.kill(draw)
        # Not evenly: what a dead worker held comes back after two seconds, and would meet another kill each time.
        await asyncio.wait({ended}, timeout=KILL_EVERY_S * draw.uniform(0.6, 1.4))
    await ended
    made = await producing
    dead = await yard.dead()
    await all_ended(yard, [task for task in made if task not in dead], timeout_s=60)
    # Three workers died with it: it is told apart from what kills its workers by nothing, and kept with the reason.
    assert len(dead) <= gang.kills and all("lost with its worker 3 times" in reason for reason in dead.values()), dead
    more = extra(yard)
    print(
        f"workers SIGKILLed seed={SEED} kills={gang.kills} tasks={count} lost=0 dead={len(dead)} "
        f"extra={more} bound={gang.kills * CONCURRENCY} in {time.monotonic() - began:.1f}s"
    )
    assert 0 < more <= gang.kills * CONCURRENCY, "at most what the killed ones held runs again"


@both_ways
@pytest.mark.parametrize(("cut_s", "cut_off"), CUTS)
async def test_a_cut_between_worker_and_node_loses_and_doubles_nothing(
    yard: Yard, tmp_path: Path, cut_s: float, cut_off: bool
) -> None:
    """Straight on Redis it is cut off the server."""
    proxy, address = await yard.behind_proxy(heartbeat_ms=1_500)
    count = scaled(1_000, 10_000)
    async with worker(yard, tmp_path, "--concurrency", str(CONCURRENCY), server=address) as process:
        producing = asyncio.create_task(scheduled(yard, count))
        await until(lambda: len(yard.oracle.ended()) >= count // 10)
        proxy.gate.clear()
        if cut_off:
            assert proxy.reset_all() > 0
        await asyncio.sleep(cut_s)
        proxy.gate.set()
        made = await producing
        await all_ended(yard, made, timeout_s=scaled(60, 300))
        process.signal(signal.SIGTERM)
        assert await process.end() == 0
    more = extra(yard)
    print(f"{yard.way} cut {cut_s:g}s {'reset' if cut_off else 'silence'} tasks={count} lost=0 extra={more}")
    if cut_s <= 1.0:
        assert more == 0, "a session that is resumed, or a lease that is still its own, hands nothing out twice"
    # What it was running, and what had ended but was not stored yet, so that others had taken its places.
    assert more <= 2 * CONCURRENCY


@both_ways
async def test_frozen_workers_do_no_harm_when_they_go_on(yard: Yard, gang: Gang) -> None:
    count, draw = scaled(1_000, 30_000), random.Random(SEED)
    producing = asyncio.create_task(scheduled(yard, count))
    freezes, held, lost_before = 0, 0, lost()
    while not freezes or not producing.done():
        held += await gang.freeze(draw)
        freezes += 1
    made = await producing
    dead = await yard.dead()
    await all_ended(yard, [task for task in made if task not in dead], timeout_s=scaled(60, 600))
    more = extra(yard)
    # On a busy machine others stand still for as long: they pass for lost, and what they held runs again too.
    gone = max(freezes, lost() - lost_before)
    print(
        f"{yard.way} workers frozen {freezes} times, passed for lost {gone} times, tasks={count} lost=0 "
        f"dead={len(dead)} held={held} extra={more}"
    )
    assert all("lost with its worker 3 times" in reason for reason in dead.values()), dead
    assert 0 < more <= gone * CONCURRENCY, "at most what the frozen ones held runs again"


@both_ways
async def test_workers_restarted_in_turn_lose_and_double_nothing(yard: Yard, gang: Gang) -> None:
    """As a deployment does it: the new one works before the old one is asked to stop."""
    count = scaled(1_500, 30_000)
    producing = asyncio.create_task(scheduled(yard, count))
    await yard.begun_any()
    turns = 0
    while turns < 4 or not producing.done():
        await gang.replace()
        turns += 1
    await all_ended(yard, await producing, timeout_s=scaled(60, 300))
    print(f"{yard.way} workers restarted in turn {turns} times, tasks={count} lost=0 extra={extra(yard)}")
    assert extra(yard) == 0 and not await yard.dead(), "a worker that is asked to stop ends what it has"
