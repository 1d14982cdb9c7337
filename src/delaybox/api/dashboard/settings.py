"""What the dashboard needs to know beyond what REST does."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardSettings:
    """Frozen settings of the pages of one process."""

    read_only: bool = False
    """Nothing can be changed, whatever a token allows."""
    secret: str = field(default="", repr=False)
    """Signs the cookies. "": one that lies in the store, so that all nodes have the same."""
    alone: bool = False
    """The pages have a port of their own: beside them only probes and metrics are served there."""
    rest_port: int = 0
    """Where REST listens, for the lines that pages show; 0: where the pages do."""
    grpc_port: int = 9088
    grpc_tls: bool = False
