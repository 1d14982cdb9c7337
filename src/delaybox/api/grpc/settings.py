"""What the gRPC process needs to know beyond what every API process does."""

from __future__ import annotations

from dataclasses import dataclass

from delaybox.api.settings import ServingSettings
from delaybox.wire.v1.types import MAX_BATCH_BYTES

_ROOM_BYTES = 128 * 1024
"""For what stands around the payloads of a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcSettings(ServingSettings):
    """Frozen settings of one gRPC process. TLS is on when there is a certificate; paths of PEM files."""

    port: int = 9088
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    """Who must have signed the callers' certificates; empty: callers need none."""
    reflection: bool = True

    @property
    def receive_limit(self) -> int:
        """Bytes one message from a caller may have: those of a batch, or of one task with the largest payload."""
        return max(MAX_BATCH_BYTES, self.payload_limit) + _ROOM_BYTES
