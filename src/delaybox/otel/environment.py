"""Whether the environment asks for traces, as OpenTelemetry's own variables say it. Nothing of it is imported here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Final

log = logging.getLogger("delaybox.otel")

MEND: Final = "install delaybox[otel]"
EXPORT: Final = "delaybox.otel.export"
"""The module that sends; loaded by name, because it needs packages that are not everywhere."""
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_METRICS: Final = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"


def disabled(environ: Mapping[str, str]) -> bool:
    """Whether it is switched off, whatever else is set."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def asked_for(environ: Mapping[str, str]) -> str:
    """The variable that names a collector for traces; "" where there is none, or where it is switched off."""
    if disabled(environ) or environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return ""
    return next((name for name in _ENDPOINTS if environ.get(name, "").strip()), "")


def asked_for_metrics(environ: Mapping[str, str]) -> bool:
    """Whether it asks for metrics by a variable that is for them alone: a collector for traces need not take them."""
    return bool(environ.get(_METRICS, "").strip()) or environ.get("OTEL_METRICS_EXPORTER", "").strip().lower() == "otlp"


def names_metrics(environ: Mapping[str, str]) -> bool:
    """Whether it names a collector that takes metrics."""
    return any(environ.get(name, "").strip() for name in (_METRICS, _ENDPOINTS[1]))


def without_metrics(environ: Mapping[str, str]) -> bool:
    """Whether metrics are switched off, whatever else is set."""
    return disabled(environ) or environ.get("OTEL_METRICS_EXPORTER", "").strip().lower() == "none"


def installed() -> bool:
    """Whether the packages of the extra ``otel`` are there."""
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.exporter") is not None


def begin_program(environ: Mapping[str, str], version: str, kind: str) -> Callable[[], None]:
    """Traces a whole program of ours that runs users' code, if the environment asks for it and that code has not set
    OpenTelemetry up itself; returns what sends the rest at its end."""
    named = asked_for(environ)
    if named and not installed():
        log.warning("%s is set, but nothing is traced: %s for that", named, MEND)
    elif named:
        end: Callable[[], None] = import_module(EXPORT).begin_unless_set_up(
            {"service.version": version, "delaybox.process": kind}
        )
        return end
    return _nothing


def follow_program(begin: str) -> None:
    """Traces as the program does that this code runs in, if it has loaded OpenTelemetry. ``begin``: the module that
    does."""
    if "opentelemetry.trace" in sys.modules:
        import_module(begin).begin()


def _nothing() -> None:
    return None
