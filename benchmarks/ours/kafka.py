"""The engine in this process with the Kafka target of a node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from benchmarks import workload
from benchmarks.harness.server import BenchServer
from benchmarks.ours.firing import Drained, engine, herd_ahead
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
