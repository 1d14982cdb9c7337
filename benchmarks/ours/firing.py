"""The engine in this process with a handler that does nothing but look at the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks import workload
from benchmarks.harness.server import BenchServer
from benchmarks.ours.node import CHANNEL, subscriber
from benchmarks.ours.storing import fill, opened, schedule
from delaybox.core.delivery import DONE, Delivery, Report, Target
from delaybox.core.history import NO_HISTORY, HistoryRules
from delaybox.core.task import TaskType
from delaybox.engine.engine import Engine
from delaybox.engine.options import EngineOptions
from delaybox.store.store import Store

PAYLOAD = b"x" * workload.PAYLOAD_BYTES


class Recorder:
    """Notes how late each task is when it is in the handler's hands, and says done."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.late: list[float] = []
        self.all_handled = asyncio.Event()

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        now_ms = time.time_ns() / 1e6
        self.late += [now_ms - d.due_ms for d in batch]
        report(batch, DONE)
        if len(self.late) >= self.count:
            self.all_handled.set()


@asynccontextmanager
async def engine(
    store: Store, targets: Mapping[TaskType, Target], *, channel: str = "", history: HistoryRules = NO_HISTORY
) -> AsyncIterator[Engine]:
    """With the node's own options; without a channel PUB_SUB tasks are leased to their target."""
    running = Engine(store, targets, EngineOptions(node_id="bench", channel=channel, history=history))
    await running.start()
    try:
        yield running
    finally:
        await running.stop(5.0)


@dataclass(frozen=True, slots=True)
class Drained:
    """A herd's end. ``seconds`` run from the due instant until every task was acked (or heard, when fired in place)."""

    seconds: float
    handled: int
    first_late_ms: float
    early: int


async def herd_ahead(server: BenchServer, count: int, *, due_ms: int) -> None:
    """Schedule a herd; raises when it could not all be stored before it was due."""
    await schedule(server, count, lambda _: due_ms, payload=PAYLOAD)
    if workload.now_ms() >= due_ms:
        raise RuntimeError(f"scheduling {count} tasks took until after they were due")


async def drain_herd(
    server: BenchServer,
    count: int,
    *,
    fire_in_place: bool = False,
    filled: int = 0,
    patience_s: float = 120.0,
    history: HistoryRules = NO_HISTORY,
) -> Drained:
    """``count`` tasks due at one instant, ``filled`` of them stored before the engine starts: it must expand them."""
    async with opened(server) as store:
        due_ms = workload.now_ms() + 2_000 + (count - filled) // 25 + filled // 60
        if filled:
            await fill(server, filled, first_ms=due_ms, span_ms=0, payload=PAYLOAD)
            server.call("SLOWLOG", "RESET")  # the filling script is not ours to answer for
            server.call("CONFIG", "RESETSTAT")
        if fire_in_place:
            return await _drain_in_place(server, store, count, count - filled, due_ms, patience_s)
        recorder = Recorder(count)
        async with engine(store, {TaskType.PUB_SUB: recorder}, history=history):
            await herd_ahead(server, count - filled, due_ms=due_ms)
            try:
                await asyncio.wait_for(recorder.all_handled.wait(), patience_s)
            except TimeoutError:
                raise RuntimeError(f"{len(recorder.late)} of {count} handled in {patience_s:.0f} s") from None
            while sum(counts.in_flight for counts in await store.counts()):
                await asyncio.sleep(0.001)
            seconds = time.time() - due_ms / 1000
    return Drained(seconds, len(recorder.late), min(recorder.late), sum(1 for late in recorder.late if late < 0))


async def _drain_in_place(
    server: BenchServer, store: Store, count: int, ahead: int, due_ms: int, patience_s: float
) -> Drained:
    # A herd outruns any subscriber; at its default of 32 MB waiting Redis would cut the connection and drop the rest.
    server.call("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")
    yielding = ahead < count
    with subscriber(server, count=count, seconds=patience_s, each=False, yielding=yielding) as listener:
        await asyncio.to_thread(listener.read)
        async with engine(store, {}, channel=CHANNEL):
            await herd_ahead(server, ahead, due_ms=due_ms)
            found = await asyncio.to_thread(listener.read)
    if found["n"] < count:
        raise RuntimeError(f"{found['n']} of {count} heard in {patience_s:.0f} s")
    return Drained((found["finished_ms"] - due_ms) / 1000, found["n"], found["first_late_ms"], found["early"])


async def lateness(server: BenchServer, *, count: int, rate: int, lead_ms: int) -> list[float]:
    """How late each of ``count`` tasks reached the handler, in ms; the engine runs before the first is stored."""
    recorder = Recorder(count)
    async with opened(server) as store, engine(store, {TaskType.PUB_SUB: recorder}):
        start_ms = workload.now_ms() + lead_ms
        await schedule(server, count, workload.every(rate, start_ms), payload=PAYLOAD)
        if workload.now_ms() >= start_ms:
            raise RuntimeError(f"scheduling {count} tasks took until after the first was due")
        patience_s = lead_ms / 1000 + count / rate + 20
        try:
            await asyncio.wait_for(recorder.all_handled.wait(), patience_s)
        except TimeoutError:
            raise RuntimeError(f"{len(recorder.late)} of {count} handled in {patience_s:.0f} s") from None
    return recorder.late
