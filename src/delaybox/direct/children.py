"""The child processes of a worker straight on Redis: one keeps time, one serves probes and metrics.

Functions hold up an event loop, so a worker never keeps time on its own.
"""

from __future__ import annotations

import asyncio
import os

from delaybox.api.rest.settings import ApiSettings
from delaybox.direct.opening import EVENTS, HISTORY, OpenedStore
from delaybox.otel import environment
from delaybox.processes import counters
from delaybox.processes.sockets import bind
from delaybox.processes.spec import ProcessKind, Spec
from delaybox.processes.supervise import Supervisor
from delaybox.roles.settings import ClockSettings
from delaybox.worker.task_sources import DirectOptions

GRACE_S = 3.0
_BACKLOG = 128


class Children:
    """Keeps the children running from `start` to `stop`. ``node_id``, ``roles``: the worker's, for heartbeats."""

    def __init__(
        self, opened: OpenedStore, prefix: str, *, node_id: str, roles: tuple[str, ...], options: DirectOptions
    ) -> None:
        self._specs: list[Spec] = []
        self._until = asyncio.Event()
        self._supervisor: Supervisor | None = None
        self._keeping: asyncio.Task[None] | None = None
        collector, logs_to = environment.traces_to(os.environ), environment.logs_to(os.environ)
        if options.clock:
            clock = ClockSettings(
                server=opened.server,
                prefix=prefix,
                store_id=opened.store.store_id,
                node_id=node_id,
                roles=roles,
                lease_ms=options.lease_ms,
                heartbeat_ms=max(1, options.lease_ms // 3),
                follows_nodes=True,
                history=HISTORY,
                events=EVENTS,
                log_format=options.log_format,
                log_level=options.log_level,
                collector=collector,
                logs_to=logs_to,
                grace_s=GRACE_S,
            )
            self._specs.append(Spec(kind=ProcessKind.CLOCK, settings=clock))
        if options.metrics_port is not None:
            probe = ApiSettings(
                server=opened.server,
                prefix=prefix,
                store_id=opened.store.store_id,
                node_id=node_id,
                roles=roles,
                host=options.metrics_host,
                probes_only=True,
                beside_worker=True,
                log_format=options.log_format,
                log_level=options.log_level,
                collector=collector,
                logs_to=logs_to,
                grace_s=GRACE_S,
            )
            listening = bind(options.metrics_host, options.metrics_port, _BACKLOG, option="--metrics-port")
            self._specs.append(Spec(kind=ProcessKind.PROBE, settings=probe, listening=listening))

    async def start(self) -> None:
        """Returns when they work. ChildFailed when one cannot."""
        if not self._specs:
            return
        self._supervisor = Supervisor(self._specs, counted_in=os.environ.get(counters.VARIABLE, ""))
        await self._supervisor.start()
        await self._supervisor.begin([spec.kind for spec in self._specs])
        self._keeping = asyncio.create_task(self._supervisor.run(self._until), name="delaybox-children")

    async def stop(self) -> None:
        """Twice is harmless."""
        self._until.set()
        if self._keeping is not None:
            await asyncio.wait({self._keeping})
        if self._supervisor is not None:
            await self._supervisor.stop()
