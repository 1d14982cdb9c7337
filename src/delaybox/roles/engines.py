"""What the engines of all processes of a node have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from delaybox.core.membership import member_id
from delaybox.engine.options import EngineOptions
from delaybox.processes.spec import ProcessKind

if TYPE_CHECKING:
    from delaybox.api.grpc.settings import GrpcSettings
    from delaybox.roles.settings import EngineSettings


def claiming(settings: EngineSettings | GrpcSettings, kind: ProcessKind) -> EngineOptions:
    """Of an engine that keeps no time, fires nothing in place, and claims what its targets serve."""
    return EngineOptions(
        node_id=member_id(settings.node_id, kind, settings.number),
        node=settings.node_id,
        kind=kind,
        roles=settings.roles,
        clock=False,
        channel="",
        lease_ms=settings.lease_ms,
        heartbeat_ms=settings.heartbeat_ms,
        poll_ms=settings.poll_ms,
        history=settings.history,
        events=settings.events,
    )
