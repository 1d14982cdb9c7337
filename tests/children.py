"""Processes of a node on their own for tests, with a socket that the test holds only until they have it."""

from __future__ import annotations

import dataclasses

from delaybox.api.grpc.settings import GrpcSettings
from delaybox.api.rest.settings import ApiSettings
from delaybox.processes.sockets import bind, port_of
from delaybox.processes.spawn import ChildProcess
from delaybox.processes.spec import ProcessKind
from tests.waiting import PATIENCE_S


class Served(ChildProcess):
    """A child that listens."""

    port: int = 0


async def serving(
    settings: ApiSettings | GrpcSettings,
    *,
    port: int = 0,
    counted_in: str = "",
    ready_timeout_s: float = PATIENCE_S,
) -> Served:
    """REST or gRPC, by the settings, when it is ready; CannotListen, ChildFailed."""
    kind, option = (
        (ProcessKind.REST, "--http-port") if isinstance(settings, ApiSettings) else (ProcessKind.GRPC, "--grpc-port")
    )
    with bind(settings.host, port, 1_024, option=option) as listening:
        process = await Served.start(kind, listening=listening, counted_in=counted_in)
        process.port = port_of(listening)
        await process.begin(dataclasses.replace(settings, listening=listening.fileno()), timeout_s=ready_timeout_s)
    return process
