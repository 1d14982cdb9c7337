"""The section ``dashboard``: whether and where this node shows its pages to browsers."""

from __future__ import annotations

from typing import Final

from pydantic import AliasGenerator, ConfigDict, Field, SecretStr

from delaybox.api.dashboard.settings import DashboardSettings
from delaybox.config.sections import Section

_REST_PORT: Final = 8088
_GRPC_PORT: Final = 9088
"""Of lines that pages show, where the node takes any free port."""


class DashboardSection(Section):
    """On the port of REST, unless it has its own."""

    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=str))

    enabled: bool = Field(default=True, description="true or false")
    read_only: bool = Field(default=False, description="true or false")
    host: str | None = Field(default=None, min_length=1, description="an address to listen on, as httpServer.host")
    port: int | None = Field(default=None, ge=0, le=65535, description="a port from 1 to 65535, or 0 for any free one")
    secret: SecretStr | None = Field(
        default=None, min_length=32, description="a text of 32 characters or more, such as openssl rand -hex 32 makes"
    )

    def settings(self, *, alone: bool, rest_port: int, grpc_port: int, grpc_tls: bool) -> DashboardSettings | None:
        """What the pages need; None where this process shows none. ``alone``: the process of their own port. The ports
        are the node's, for the lines that the pages show; 0: any."""
        if not self.enabled or alone != (self.port is not None):
            return None
        secret = self.secret.get_secret_value() if self.secret else ""
        return DashboardSettings(
            read_only=self.read_only,
            secret=secret,
            alone=alone,
            rest_port=(rest_port or _REST_PORT) if alone else 0,
            grpc_port=grpc_port or _GRPC_PORT,
            grpc_tls=grpc_tls,
        )
