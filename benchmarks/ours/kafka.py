"""Ours with Kafka: the engine in this process with a node's target, or a whole node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from benchmarks import workload
from benchmarks.harness.server import BenchServer
from benchmarks.ours.firing import Drained, engine, herd_ahead
from benchmarks.ours.node import serve
from benchmarks.ours.storing import opened
from delaybox.core.delivery import Delivery, Report
from delaybox.core.task import TaskType
from delaybox.targets.kafka import KafkaTarget
from delaybox.targets.kafka_settings import KafkaSettings
from delaybox.wire.topics import TopicRules


class _Noting:
    """The target, when each task was in its hands, and when the last was confirmed."""

    def __init__(self, inner: KafkaTarget, count: int) -> None:
        self._inner = inner
        self._left = count
        self.late: list[float] = []
        self.all_confirmed = asyncio.Event()

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        now_ms = time.time_ns() / 1e6
        self.late += [now_ms - d.due_ms for d in batch]
        await self._inner.deliver(batch, report)
        self._left -= len(batch)
        if self._left <= 0:
            self.all_confirmed.set()


async def kafka_herd(
    server: BenchServer, bootstrap: str, topic: str, count: int, *, patience_s: float = 120.0
) -> Drained:
    """``count`` tasks due at one instant, until the brokers confirmed all and all are acked."""
    async with opened(server) as store:
        target = KafkaTarget(KafkaSettings(brokers=(bootstrap,)), TopicRules(topic))
        noting = _Noting(target, count)
        await target.start()
        try:
            async with engine(store, {TaskType.PUB_SUB: noting}):
                due_ms = workload.now_ms() + 3_000 + count // 8
                await herd_ahead(server, count, due_ms=due_ms)
                async with asyncio.timeout(patience_s):
                    await noting.all_confirmed.wait()
                while sum(c.in_flight for c in await store.counts()):
                    await asyncio.sleep(0.001)
                seconds = time.time() - due_ms / 1000
        finally:
            await target.stop()
    return Drained(seconds, len(noting.late), min(noting.late), sum(1 for late in noting.late if late < 0))


def kafka_arguments(bootstrap: str, topic: str, *, reads: str = "") -> list[str]:
    """For `delaybox serve`: Kafka on, tasks to ``topic``, records from ``reads``."""
    given = {"enabled": "true", "brokers": bootstrap, "taskExecutionTopic": topic}
    given["schedulerTopic"] = reads or f"{topic}-in"
    return [word for name, value in given.items() for word in ("--set", f"kafka.{name}={value}")]


async def kafka_intake(
    server: BenchServer, bootstrap: str, topic: str, count: int, *, patience_s: float = 120.0
) -> float:
    """Seconds in which a whole node makes tasks of the ``count`` records on a topic, from the first to the last."""
    async with opened(server) as store:
        with serve(server, *kafka_arguments(bootstrap, f"{topic}-out", reads=topic)):
            deadline = time.monotonic() + patience_s
            first, stored = 0.0, 0
            while stored < count:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{stored} of {count} records were stored in {patience_s:.0f} s")
                await asyncio.sleep(0.02)
                before, stored = stored, sum(c.pending for c in await store.counts())
                if stored and not before:
                    first, already = time.perf_counter(), stored
            seconds = time.perf_counter() - first
    # What was stored when it was first looked is not counted in the time, so not in the rate either.
    return seconds * count / max(1, count - already)
