"""Shows what a worker does: once a second its figures go into its metrics, and its probes answer by them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from delaybox.core.errors import ConfigError
from delaybox.processes import counters
from delaybox.worker import pushing
from delaybox.worker.attempt import Stats
from delaybox.worker.figures import Figures, State
from delaybox.worker.metrics_port import TEXT, Answer, MetricsPort

log = logging.getLogger("delaybox.worker")

BEAT_S: Final = 1.0
_LATE_S: Final = 0.02
"""Turns of the loop that are less late than this are as they should be."""


def wanted(metrics_port: int | None) -> bool:
    """Whether this process is to count: for a port of its own, or of another process of its worker."""
    if metrics_port is not None:
        return True
    # The variable may be another program's: what it lacks must not keep a worker from starting that nobody watches.
    folder = os.environ.get(counters.VARIABLE)
    return bool(folder) and Path(folder or "").is_dir() and find_spec("prometheus_client") is not None


class Pulse:
    """Shows one run of a worker, from `start` to `stop`. ``state``: gives the state of this moment.

    ``port``: where probes and metrics are served, by a thread of this process; None: another process serves them.
    ``push``: its figures are sent to a collector of OpenTelemetry as well. ConfigError for a package that is missing.
    """

    def __init__(
        self, figures: Figures, stats: Stats, state: Callable[[], State], *, host: str, port: int | None, push: bool
    ) -> None:
        try:
            from delaybox.worker import worker_metrics
        except ModuleNotFoundError as error:
            if error.name != "prometheus_client":
                raise
            raise ConfigError(
                "a worker's metrics need the package prometheus-client: pip install 'delaybox[metrics]'"
            ) from None
        self._module = worker_metrics
        self._metrics = worker_metrics.WorkerMetrics()
        self._figures, self._stats, self._state = figures, stats, state
        self._address = None if port is None else (host, port)
        self._port: MetricsPort | None = None
        self._next: asyncio.TimerHandle | None = None
        self._pushes = push
        self._push: pushing.MetricPush | None = None

    async def start(self) -> None:
        """Opens the port. CannotListen."""
        if self._address is not None:
            self._port = MetricsPort(*self._address, self._answer)
            self._port.start()
            log.info("probes and metrics on http://%s", self._port.address)
        if self._pushes:
            own = self._metrics.registry
            try:
                self._push = pushing.MetricPush(lambda: self._module.collected_of(own))
            except Exception as error:  # noqa: BLE001 - what exporters raise for a variable is theirs
                # The variable may be another part's of this program: it must not keep a worker from starting.
                log.warning("the worker's metrics are not sent to a collector: %s", error)
        self._beat(asyncio.get_running_loop().time())

    async def stop(self) -> None:
        """Closes the port, and sends the last figures. Twice is harmless."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
            self.show()
        if self._port is not None:
            await asyncio.to_thread(self._port.stop)
        if self._push is not None:
            push, self._push = self._push, None
            await asyncio.to_thread(push.end)

    def show(self) -> None:
        """Shows this moment."""
        self._metrics.add(self._figures, self._stats)
        self._metrics.show(self._state())

    def _beat(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        if (late := loop.time() - due) > _LATE_S:
            self._metrics.held(late)
        self.show()
        after = loop.time() + BEAT_S
        self._next = loop.call_at(after, self._beat, after)

    def _answer(self, path: str, accept: str) -> Answer | None:
        """In the port's thread."""
        worker_metrics, own = self._module, self._metrics.registry
        match path:
            case "/metrics":
                text, kind = worker_metrics.render_as(accept, own)
                return 200, kind, text
            case "/healthz" | "/livez":
                return _probed(worker_metrics.condition(own).stands, "ok")
            case "/readyz":
                return _probed(worker_metrics.condition(own).wrong, "ready")
        return None


def _probed(wrong: str, well: str) -> Answer:
    return (503, TEXT, wrong.encode()) if wrong else (200, TEXT, well.encode())
