"""How the node starts its API process."""

from __future__ import annotations

from delaybox.api.rest.settings import ApiSettings
from delaybox.processes.supervise import READY_TIMEOUT_S, ChildFailed, ChildProcess, spawn


class ApiFailed(ChildFailed):
    """The API process did not start; the message is its own."""

    code = "api_failed"


class ApiProcess(ChildProcess):
    """A running API process."""

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.said["port"])


async def spawn_api(settings: ApiSettings, *, ready_timeout_s: float = READY_TIMEOUT_S) -> ApiProcess:
    """Starts the process and returns when it listens; ApiFailed, with its words, when it cannot. See `spawn`."""
    process, said = await spawn(
        "delaybox.api.rest.process",
        settings.to_json(),
        what="API process",
        metrics_dir=settings.metrics_dir,
        ready_timeout_s=ready_timeout_s,
        failed=ApiFailed,
    )
    return ApiProcess(process, said, settings.grace_s)
