"""Sends a worker's metrics to a collector of OpenTelemetry: what its port shows or would show.

`delaybox worker` sends for all of its processes. A worker that runs inside a program of the user's sends for its own
process alone: the folder that processes of one worker share would change how all of that program counts.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from delaybox import __version__
from delaybox.otel.environment import metrics_to

if TYPE_CHECKING:
    from prometheus_client import Metric

    from delaybox.otel.export_metrics import MetricSender

log = logging.getLogger("delaybox.worker")

_EXPORT: Final = "delaybox.otel.export_metrics"
"""Loaded by name, because it needs packages that are not everywhere."""
_RESOURCE: Final = "OTEL_RESOURCE_ATTRIBUTES"
_INSTANCE: Final = "service.instance.id"
_made: Final = itertools.count(1)


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for a worker's metrics, and they can be sent. Where they cannot, a warning is
    logged."""
    if metrics_to(environ) is None:
        return False
    if find_spec("prometheus_client") is None:
        log.warning(
            "OpenTelemetry's variables ask for metrics, but none are sent: pip install 'delaybox[metrics]' for that"
        )
        return False
    return True


def of_all_processes() -> Iterable[Metric]:
    """What the processes count in the folder that the environment names."""
    # Imported here, because prometheus-client reads the folder's name when it is imported.
    from delaybox.worker.worker_metrics import collected

    return collected()


class MetricPush:
    """Sends what ``families`` returns, from when it is made until `end`, on a thread of its own: a function may keep
    the event loop.

    ConfigError for an interval that is not possible.
    """

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families
        self._sender: MetricSender = import_module(_EXPORT).MetricSender("", _facts(os.environ, next(_made)))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delaybox-metric-push", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Sends what was counted to the end, as far as a short time allows."""
        self._over.set()
        self._thread.join()
        self._push()
        self._sender.end()

    def _run(self) -> None:
        while not self._over.wait(self._sender.every_s):
            self._push()

    def _push(self) -> None:
        try:
            self._sender.put(self._families())
        except Exception:
            log.exception("the metrics could not be read for the collector; the next push tries again")


def _facts(environ: Mapping[str, str], number: int) -> dict[str, str]:
    """Which worker it is. Sums of several would be mixed up if their instances had one name. ``number``: which one of
    this process's, which may run several workers."""
    facts = {"service.version": __version__, "delaybox.process": "worker"}
    if f"{_INSTANCE}=" not in environ.get(_RESOURCE, ""):
        further = f"/{number}" if number > 1 else ""
        facts[_INSTANCE] = f"{socket.gethostname()}/worker/{os.getpid()}{further}"
    return facts
