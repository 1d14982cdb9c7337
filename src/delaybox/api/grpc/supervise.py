"""How the node starts its gRPC process."""

from __future__ import annotations

from delaybox.api.grpc.settings import GrpcSettings
from delaybox.processes.supervise import READY_TIMEOUT_S, ChildFailed, ChildProcess, spawn


class GrpcFailed(ChildFailed):
    """The gRPC process did not start; the message is its own."""

    code = "grpc_failed"


class GrpcProcess(ChildProcess):
    """A running gRPC process."""

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.said["port"])


async def spawn_grpc(settings: GrpcSettings, *, ready_timeout_s: float = READY_TIMEOUT_S) -> GrpcProcess:
    """Starts the process and returns when it listens; GrpcFailed, with its words, when it cannot. See `spawn`."""
    process, said = await spawn(
        "delaybox.gateway",
        settings.to_json(),
        what="gRPC process",
        metrics_dir=settings.metrics_dir,
        ready_timeout_s=ready_timeout_s,
        failed=GrpcFailed,
    )
    return GrpcProcess(process, said, settings.grace_s)
