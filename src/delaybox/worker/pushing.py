"""Sends a worker's metrics to a collector of OpenTelemetry: what its port shows or would show, of all its processes."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from delaybox import __version__
from delaybox.otel.environment import metrics_to

if TYPE_CHECKING:
    from delaybox.otel.export_metrics import MetricSender

log = logging.getLogger("delaybox.worker")

_EXPORT: Final = "delaybox.otel.export_metrics"
"""Loaded by name, because it needs packages that are not everywhere."""
_RESOURCE: Final = "OTEL_RESOURCE_ATTRIBUTES"
_INSTANCE: Final = "service.instance.id"


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


class MetricPush:
    """Sends from when it is made until `end`, on a thread of its own: a function may keep the event loop.

    The worker's processes count in the folder that the environment names. ConfigError for an interval that is not
    possible.
    """

    def __init__(self) -> None:
        self._sender: MetricSender = import_module(_EXPORT).MetricSender("", _facts(os.environ))
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
        # Imported here, because prometheus-client reads the folder's name when it is imported.
        from delaybox.worker.exposition import collected

        try:
            self._sender.put(collected())
        except Exception:
            log.exception("the metrics could not be read for the collector; the next push tries again")


def _facts(environ: Mapping[str, str]) -> dict[str, str]:
    """Which worker it is. Sums of several would be mixed up if their instances had one name."""
    facts = {"service.version": __version__, "delaybox.process": "worker"}
    if f"{_INSTANCE}=" not in environ.get(_RESOURCE, ""):
        facts[_INSTANCE] = f"{socket.gethostname()}/worker/{os.getpid()}"
    return facts
