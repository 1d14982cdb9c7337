"""What OpenTelemetry's own variables ask for. Nothing of it is imported here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Final, Literal

from delaybox.core.errors import ConfigError
from delaybox.processes.telemetry import LOGS, TRACES, End, nothing

log = logging.getLogger("delaybox.otel")

Signal = Literal["traces", "metrics", "logs"]

MEND: Final = "install delaybox[otel]"
GRPC: Final = "grpc"
HTTP: Final = "http/protobuf"
PROTOCOLS: Final = (GRPC, HTTP)
_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
PACKAGES: Final = {GRPC: "opentelemetry.exporter.otlp.proto.grpc", HTTP: "opentelemetry.exporter.otlp.proto.http"}


def disabled(environ: Mapping[str, str]) -> bool:
    """Whether it is switched off, whatever else is set."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def switched_off(environ: Mapping[str, str], signal: Signal) -> bool:
    """Whether this signal is switched off, whatever else is set."""
    return disabled(environ) or _exporter(environ, signal) == "none"


def asked_for(environ: Mapping[str, str]) -> str:
    """The variable that names a collector for traces; "" where there is none, or where it is switched off."""
    if switched_off(environ, "traces"):
        return ""
    return next((name for name in (_endpoint("traces"), _ENDPOINT) if environ.get(name, "").strip()), "")


def asks_for(environ: Mapping[str, str], signal: Literal["metrics", "logs"]) -> bool:
    """Whether it asks for a signal by a variable that is for it alone: a collector for traces need not take others."""
    return bool(environ.get(_endpoint(signal), "").strip()) or _exporter(environ, signal) == "otlp"


def names_collector(environ: Mapping[str, str], signal: Literal["metrics", "logs"]) -> bool:
    """Whether it names a collector that takes this signal."""
    return any(environ.get(name, "").strip() for name in (_endpoint(signal), _ENDPOINT))


def protocol_of(environ: Mapping[str, str], signal: Signal, configured: str = "") -> str:
    """By which of PROTOCOLS a signal is sent: as configured, else as the environment says, else by grpc. ConfigError
    for another one."""
    if configured:
        return configured
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    name = next((name for name in names if environ.get(name, "").strip()), "")
    found = environ[name].strip().lower() if name else GRPC
    if found not in PROTOCOLS:
        raise ConfigError(
            f"{name} is {environ[name]!r}, by which DelayBox cannot send; set it to {' or '.join(PROTOCOLS)}, or leave "
            "it out"
        )
    return found


def installed(protocol: str = GRPC) -> bool:
    """Whether the packages are there that send by this protocol."""
    try:
        return find_spec(PACKAGES[protocol]) is not None
    except ModuleNotFoundError:  # one of the packages that it lies in
        return False


def traces_to(environ: Mapping[str, str]) -> str | None:
    """Where a program of ours without a configuration sends its spans: "" where the environment names a collector for
    them, else None. Variables that ask for what is not there may be for others: a warning is logged, and no more."""
    return "" if asked_for(environ) and _can_send(environ, "traces") else None


def logs_to(environ: Mapping[str, str]) -> str | None:
    """Where it sends its log, likewise; None also where none is asked for."""
    return _sent_to(environ, "logs")


def metrics_to(environ: Mapping[str, str]) -> str | None:
    """Where it sends its metrics, as its log."""
    return _sent_to(environ, "metrics")


def begin_program(environ: Mapping[str, str], version: str, kind: str) -> End:
    """Traces a whole program of ours that runs users' code, if the environment asks for it and that code has not set
    OpenTelemetry up itself; returns what sends the rest at its end."""
    api = sys.modules.get("opentelemetry.trace")
    if api is not None and not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        return nothing
    if traces_to(environ) is None:
        return nothing
    facts = {"service.version": version, "delaybox.process": kind}
    end: End = import_module(TRACES).begin("", facts, everywhere=True)
    return end


def begin_logs(environ: Mapping[str, str], version: str, kind: str, *filters: logging.Filter) -> End:
    """Sends what a program of ours logs, past ``filters``, if the environment asks for it and nothing else does so."""
    if logs_to(environ) is None:
        return nothing
    facts = {"service.version": version, "delaybox.process": kind}
    end: End = import_module(LOGS).begin_unless_set_up(facts, *filters)
    return end


def follow_program(begin: str) -> None:
    """Traces as the program does that this code runs in, if it has loaded OpenTelemetry. ``begin``: the module that
    does."""
    if "opentelemetry.trace" in sys.modules:
        import_module(begin).begin()


def active_span() -> str:
    """The ``traceparent`` of the span that is active in the calling code; "" where there is none."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return ""
    context = api.get_current_span().get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}" if context.is_valid else ""


def _sent_to(environ: Mapping[str, str], signal: Literal["metrics", "logs"]) -> str | None:
    if switched_off(environ, signal) or not (asks_for(environ, signal) and names_collector(environ, signal)):
        return None
    return "" if _can_send(environ, signal) else None


def _can_send(environ: Mapping[str, str], signal: Signal) -> bool:
    try:
        there, why = installed(protocol_of(environ, signal)), f"{MEND} for that"
    except ConfigError as error:
        there, why = False, str(error)
    if not there:
        log.warning("OpenTelemetry's variables ask for %s, but none are sent: %s", signal, why)
    return there


def _endpoint(signal: str) -> str:
    return f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"


def _exporter(environ: Mapping[str, str], signal: str) -> str:
    return environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower()
