"""What the REST process needs to know beyond what every API process does."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from delaybox.api.dashboard.settings import DashboardSettings
from delaybox.api.settings import ServingSettings
from delaybox.core.limits import task_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings(ServingSettings):
    """Frozen settings of one REST process."""

    context_path: str = "/"
    allowed_hosts: tuple[str, ...] = ()
    """Names beyond the loopback ones that Host and Origin may carry. Off loopback they are checked only when set."""
    probes_only: bool = False
    """Only /livez, /readyz and /metrics are served."""
    metrics_to: str | None = None
    """The first of these processes sends what /metrics shows to this collector; "": as OpenTelemetry's environment
    variables say; None: nowhere."""
    beside_worker: bool = False
    """They are those of a worker straight on Redis, so they speak of its processes as well."""
    dashboard: DashboardSettings | None = None
    """The pages that browsers are shown; None: none."""
    body_timeout_s: float = 30.0
    header_timeout_s: float = 10.0
    """Time limit from the opening of a connection, or the first byte of a further request, to the end of its
    headers."""
    idle_timeout_s: float = 75.0
    """Time limit between requests: longer than proxies keep a connection to use it again (60 s)."""
    max_connections: int = 8_192
    """Most connections, beside a reserve for probes. Fewer where the limit of open files is lower."""
    backlog: int = 2048

    @property
    def body_limit(self) -> int:
        """Most bytes of a request body."""
        return task_bytes(self.payload_limit)

    @property
    def root(self) -> str:
        """The context path without a slash at its end: ``/api``, ``/api/`` and ``api`` are the same."""
        inner = self.context_path.strip("/")
        return f"/{inner}" if inner else ""

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False
