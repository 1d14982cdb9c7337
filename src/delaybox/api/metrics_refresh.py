"""What a node's metrics show, brought up to date: for whoever asks at /metrics, and for a collector it is sent to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final

from delaybox import metrics
from delaybox.api.node_metrics import NodeCollector
from delaybox.api.readiness import PROBE_TIMEOUT_S, Probe
from delaybox.core.errors import DelayBoxError
from delaybox.core.scaling import ScalingQuery
from delaybox.service import Service, StoreCounts

if TYPE_CHECKING:
    from delaybox.otel.export_metrics import MetricSender

_log = logging.getLogger("delaybox.api")
_EXPORT: Final = "delaybox.otel.export_metrics"
"""Loaded by name, because it needs packages that are not everywhere."""
_ALL_KINDS: Final = ScalingQuery()


class ShownMetrics:
    """Of one process."""

    def __init__(self, service: Service, probe: Probe) -> None:
        self._service = service
        self._probe = probe
        self.node = NodeCollector()

    async def refresh(self) -> None:
        """Asks the store for its counts; where it does not answer in time, the metrics show that. Where a part of it
        does not, they show which, and the counts of the others; what needs all of it stays as it was."""
        counts: StoreCounts | None = None
        whole = False
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                counts = await self._service.counts_there()
                await self._refresh_rest(counts)
                whole = True
        except (TimeoutError, DelayBoxError) as error:
            _log.debug("what metrics show is not whole: %s", error)
        if counts is None or not (whole or counts.away):
            self.node.servers = {}
            metrics.store_down()
            return
        self.node.servers = self._service.servers_away(counts)
        metrics.stored(
            pending=counts.pending,
            ready=counts.ready,
            in_flight=counts.in_flight,
            dead=counts.dead,
            quarantined=counts.quarantined,
            estimated=counts.estimated,
            away=len(counts.away),
        )
        if not (await self._probe.ask()).store:
            # The store reports its counts, but takes no new tasks.
            metrics.store_down()

    async def _refresh_rest(self, counts: StoreCounts) -> None:
        due = await self._service.due_soon()
        scaling = await self._service.scaling(_ALL_KINDS)
        health, unserved = await self._service.health()
        # Where ready tasks are estimated, there are more lanes than a scrape should look at.
        self.node.queues = () if counts.many_lanes else await self._service.queues(pending=False)
        self.node.waits = await self._service.queue_waits()
        metrics.store_health(
            file_ok=health.file_ok,
            replicas=health.replicas,
            memory_bytes=health.memory_bytes,
            memory_ratio=health.memory_ratio,
            clock_offset_s=health.clock_offset_ms / 1000,
            unserved=unserved,
        )
        needs = scaling.needs
        metrics.forecast(due, {n.kind: n.members for n in needs}, {n.kind: n.running for n in needs})


class Pushing:
    """Sends what /metrics shows to a collector, again and again."""

    def __init__(self, service: Service, endpoint: str, protocol: str, facts: Mapping[str, str]) -> None:
        """``endpoint``, ``protocol``: of the collector; "": as the environment says. ConfigError where that asks for
        what is not there."""
        self._shown = ShownMetrics(service, Probe(service))
        self._sender: MetricSender = import_module(_EXPORT).MetricSender(endpoint, facts, protocol=protocol)
        self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        """Sends what was counted to the end, as far as a short time allows."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._sender.put(metrics.collected(self._shown.node))
        await asyncio.to_thread(self._sender.end)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._sender.every_s)
            try:
                await self._shown.refresh()
                self._sender.put(metrics.collected(self._shown.node))
            except Exception:  # noqa: BLE001 - a push that fails must not end those after it
                _log.exception("the metrics could not be read for the collector; the next push tries again")
