"""The processes that a node keeps running: kind, settings, number."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import StrEnum

from delaybox.processes.settings import ProcessSettings


class ProcessKind(StrEnum):
    """What a process is for. The module of ``delaybox.roles`` with the same name is its main."""

    CLOCK = "clock"
    WORK = "work"
    REST = "rest"
    GRPC = "grpc"
    KAFKA = "kafka"
    WEBHOOK = "webhook"
    PROBE = "probe"
    DASHBOARD = "dashboard"

    @property
    def module(self) -> str:
        """Its main."""
        return f"delaybox.roles.{self.value}"

    @property
    def what(self) -> str:
        """Its name in messages."""
        return _NAMES[self]


_NAMES = {
    ProcessKind.CLOCK: "clock process",
    ProcessKind.WORK: "work process",
    ProcessKind.REST: "API process",
    ProcessKind.GRPC: "gRPC process",
    ProcessKind.KAFKA: "Kafka process",
    ProcessKind.WEBHOOK: "webhook process",
    ProcessKind.PROBE: "probe process",
    ProcessKind.DASHBOARD: "dashboard process",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """``count`` processes of one kind with the same settings, which accept from the same ``listening`` socket.

    ``shared``: there are several, or will be, so that each should take only some of the connections.
    """

    kind: ProcessKind
    settings: ProcessSettings
    count: int = 1
    listening: socket.socket | None = None
    shared: bool = False
