"""The ports that a configuration asks for: where each is, which option moves it, and how the log tells of it."""

from __future__ import annotations

from dataclasses import dataclass

from delaybox.config.model import Config
from delaybox.config.specs import counts
from delaybox.processes.spec import ProcessKind


@dataclass(frozen=True, slots=True)
class Port:
    """``number`` 0: the system picks a free one. ``option``: how a user moves it. ``opened`` and ``path`` stand before
    and behind ``host:port`` in the log."""

    host: str
    number: int
    option: str
    opened: str
    path: str = ""


def ports(config: Config) -> dict[ProcessKind, Port]:
    """The ports of the processes that serve callers, in the order in which the log tells of them."""
    probe, rest, page, path = config.probe, config.http_server, config.dashboard, config.http_server.context_path
    known = {
        ProcessKind.PROBE: Port(probe.host, probe.port or 0, "--set probe.port=PORT", "probes and metrics on http://"),
        ProcessKind.GRPC: Port(config.grpc_host, config.grpc_server.port, "--grpc-port", "grpc listening on "),
        ProcessKind.REST: Port(rest.host, rest.port, "--http-port", "listening on http://", path),
        ProcessKind.DASHBOARD: Port(
            config.dashboard_host, page.port or 0, "--set dashboard.port=PORT", "the dashboard is on http://", path
        ),
    }
    wanted = counts(config)
    return {kind: port for kind, port in known.items() if kind in wanted}
