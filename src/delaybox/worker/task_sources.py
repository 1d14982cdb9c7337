"""How a worker's tasks reach it: over streams of nodes, or claimed by the worker's own process straight from Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from delaybox.client.channel import ChannelTarget, grpc_target
from delaybox.client.transports import direct_url, loaded
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker.attempt import TaskRun
from delaybox.worker.crew import Crew
from delaybox.worker.line import Again, WorkerLine

_FACTORY: Final = "delaybox.direct.target:direct_worker_target"


class HeldTasks(Protocol):
    """What a line's session holds."""

    @property
    def held(self) -> Mapping[int, TaskRun]: ...

    @property
    def taken(self) -> int:
        """Places that it takes."""


class Line(Protocol):
    """One way by which tasks come to a crew. `run` ends when it is over: after `drain` when nothing is held any more,
    or after `cut`. ``up`` is set while it is connected."""

    @property
    def crew(self) -> Crew: ...

    @property
    def server(self) -> str:
        """Where it leads, for people."""

    @property
    def up(self) -> asyncio.Event: ...

    @property
    def session(self) -> HeldTasks: ...

    async def run(self) -> None:
        """DelayBoxError when it can never be connected."""

    def poke(self) -> None:
        """A place may have come free."""

    def drain(self) -> None:
        """Takes no more tasks."""

    def cut(self) -> None:
        """Ends now; tasks that were not reported go to others."""


class TaskSource(Protocol):
    """Where a worker's tasks come from, for one run of it. ``serves_metrics``: on the metrics port, by a child of its
    own."""

    @property
    def serves_metrics(self) -> bool: ...

    def lines(self, crew: Crew, introduction: pb.Hello, replace: Again) -> Sequence[Line]:
        """The lines of a crew. ``replace``: called with a place whose line is going away; see `line`."""

    def line(
        self, place: str, crew: Crew, introduction: pb.Hello, replace: Again, leaving: WorkerLine | None = None
    ) -> Line:
        """Another line to a place. ``leaving``: see `Again`."""

    async def stop(self) -> None:
        """Closes what all lines share, after they have ended. Twice is harmless."""


class WorkerTarget(Protocol):
    """Where a worker's tasks come from. ``endpoints``: for people, without credentials."""

    @property
    def endpoints(self) -> tuple[str, ...]: ...

    def source(self) -> TaskSource:
        """For one run of the worker."""


@dataclass(frozen=True, slots=True)
class NodesTarget:
    """Nodes, over gRPC."""

    target: ChannelTarget

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Their addresses."""
        return self.target.endpoints

    def source(self) -> NodeStreams:
        """For one run of the worker."""
        return NodeStreams(self.target)


class NodeStreams:
    """A line for each node. See `TaskSource`."""

    serves_metrics: Final = False

    def __init__(self, target: ChannelTarget) -> None:
        self._target = target

    def lines(self, crew: Crew, introduction: pb.Hello, replace: Again) -> Sequence[Line]:
        return [self.line(server, crew, introduction, replace) for server in self._target.endpoints]

    def line(
        self, place: str, crew: Crew, introduction: pb.Hello, replace: Again, leaving: WorkerLine | None = None
    ) -> Line:
        return WorkerLine(place, self._target, crew, introduction, replace=replace, leaving=leaving)

    async def stop(self) -> None:
        """Each line closed its own connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectOptions:
    """What concerns workers straight on Redis alone. ``clock``: its process has a child that keeps time; ``lease_ms``:
    after this time without a sign of life others get its tasks; ``metrics_port``: where metrics are served, None:
    nowhere; ``log_format``, ``log_level``: of its children."""

    clock: bool = True
    lease_ms: int = 15_000
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    log_format: str = "text"
    log_level: str = "info"


def worker_target(
    servers: str | Iterable[str],
    *,
    name: str,
    options: DirectOptions,
    token: str | None,
    tls: bool,
    ca_file: str | Path | None,
    cert_file: str | Path | None,
    key_file: str | Path | None,
) -> WorkerTarget:
    """The target of these addresses. ``name``: the worker's. ConfigError for what cannot be used, or not together."""
    security: dict[str, Any] = {"tls": tls, "ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
    url, others = direct_url(servers)
    if url is not None:
        made: WorkerTarget = loaded(_FACTORY, url)(url, name=name, options=options, **security)
        return made
    return NodesTarget(grpc_target(others, token=token, **security))
