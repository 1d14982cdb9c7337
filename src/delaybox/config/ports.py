"""The ports that a configuration asks for: where each is, which option moves it, how it is opened, and how the log
tells of it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from delaybox.config.model import ROLES, Config
from delaybox.config.specs import counts
from delaybox.processes.sockets import bind, bracketed, port_of
from delaybox.processes.spec import ProcessKind

log = logging.getLogger("delaybox.node")

_BACKLOG = 2_048


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


def listen(config: Config, stack: AsyncExitStack) -> dict[ProcessKind, socket.socket]:
    """Opens them. Nothing accepts yet."""
    return {
        kind: stack.enter_context(bind(port.host, port.number, _BACKLOG, option=port.option))
        for kind, port in ports(config).items()
    }


def announce(config: Config, listening: Mapping[ProcessKind, socket.socket]) -> None:
    """Logs where callers find the node."""
    for kind, port in ports(config).items():
        log.info("%s%s:%d%s", port.opened, bracketed(port.host), port_of(listening[kind]), port.path)
    if ProcessKind.KAFKA in counts(config):
        log.info("tasks are taken from Kafka: %s", ", ".join(config.kafka.scheduler_topics))
    if config.duties != ROLES:
        log.info("roles: %s", ", ".join(config.duties))
