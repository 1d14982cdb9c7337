"""What a process sends to a collector of OpenTelemetry, where its settings say so: spans of its own, and its log."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

from delaybox.processes.settings import ProcessSettings

# Loaded by name, because they need packages that are not everywhere.
TRACES: Final = "delaybox.otel.export"
LOGS: Final = "delaybox.otel.export_logs"

End = Callable[[], None]
"""Sends what is left, as far as a short time allows."""


def begin(settings: ProcessSettings, kind: str = "") -> End:
    """Sends from now on what the settings of a node's process ask for. ConfigError for a protocol that is not
    there. ``kind``: see `facts`."""
    about = facts(settings, kind)
    ends: list[End] = []
    if settings.logs_to is not None:
        ends.append(import_module(LOGS).begin(settings.logs_to, about, protocol=settings.otlp_protocol))
    if settings.collector is not None:
        ends.append(import_module(TRACES).begin(settings.collector, about, protocol=settings.otlp_protocol))
    return together(*ends)


def facts(settings: ProcessSettings, kind: str = "") -> dict[str, str]:
    """What tells a node's process from others in a collector. ``kind``: of process; its main's name unless given."""
    kind = kind or Path(sys.argv[0]).stem
    return {
        "service.version": sys.modules["delaybox"].__version__,
        "service.instance.id": f"{settings.node_id}/{kind}/{settings.number}",
        "delaybox.process": kind,
    }


def nothing() -> None:
    """The end of what was not begun."""


def together(*ends: End) -> End:
    """Ends all of them at the same time, so that a collector that is away is waited for once."""
    some = [end for end in ends if end is not nothing]

    def end() -> None:
        threads = [threading.Thread(target=one, daemon=True) for one in some]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return end if some else nothing
