"""What the gRPC process needs to know beyond what every API process does."""

from __future__ import annotations

from dataclasses import dataclass

from delaybox.api.settings import ServingSettings
from delaybox.core.limits import MAX_BATCH_BYTES, message_bytes
from delaybox.wire.json.tasks import TaskRules
from delaybox.wire.shell_rules import ShellRules


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcSettings(ServingSettings):
    """Frozen settings of one gRPC process. TLS is on when there is a certificate; paths of PEM files."""

    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    """File of the authorities that sign callers' certificates; empty: callers need none."""
    reflection: bool = True
    workers: bool = True
    """Worker streams are served: the node has the role ``work``."""
    lease_ms: int = 15_000
    heartbeat_ms: int = 5_000
    """Time between heartbeats, also of workers: a worker that is silent for three times as long is given up."""
    poll_ms: int = 1_000
    max_output: int = 64 << 10
    """Most bytes of a result."""
    message_timeout_s: float = 10.0
    """Time limit for a message to be complete once it has begun, and for the request of a call once the call is
    there."""

    @property
    def receive_limit(self) -> int:
        """Most bytes of a message from a caller: those of a batch, or of one task with the largest payload."""
        return receive_limit(self.payload_limit)

    def rules(self) -> TaskRules:
        """Which tasks are taken."""
        shell = ShellRules(payloads=self.shell, commands=frozenset(self.shell_commands))
        return TaskRules(max_payload_bytes=self.payload_limit, shell=shell, webhooks=self.webhooks)


def receive_limit(payload_limit: int) -> int:
    """Most bytes of a message from a caller: those of a batch, or of one task with the largest payload."""
    return message_bytes(max(MAX_BATCH_BYTES, payload_limit))
