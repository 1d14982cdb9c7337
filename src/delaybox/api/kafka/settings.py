"""The settings of the Kafka process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from delaybox.core.task import TaskType
from delaybox.core.webhook import NO_WEBHOOKS, WebhookRules
from delaybox.store.settings import StoreSettings
from delaybox.targets.kafka_settings import KafkaSettings
from delaybox.wire.topics import TopicRules

if TYPE_CHECKING:
    from delaybox.wire.kafka_record import RecordRules


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeSettings(StoreSettings):
    """Frozen settings of one Kafka process. ``sources``: the topics to read.

    ``instance``: the member's name that outlives a restart, '' = none. ``topics``: which ones tasks may be sent to.
    """

    kafka: KafkaSettings
    sources: tuple[str, ...]
    group: str
    instance: str = ""
    topics: TopicRules | None = None
    pass_through: bool = False
    """Whether messages leave as their records came (``kafka.value: payload``)."""
    payload_limit: int = 1 << 20
    shell: bool = False
    """Whether payloads may be shell commands."""
    shell_commands: tuple[str, ...] = ()
    """Names of the commands that shell tasks may name."""
    webhooks: WebhookRules = NO_WEBHOOKS
    """Where HTTP tasks may go."""

    @property
    def rules(self) -> RecordRules:
        """What records are accepted."""
        # Imported late, because the parent that makes these settings does not need protobuf.
        from delaybox.wire.kafka_record import RecordRules
        from delaybox.wire.original import request
        from delaybox.wire.shell_rules import ShellRules

        shell = ShellRules(payloads=self.shell, commands=frozenset(self.shell_commands))
        types = {TaskType.PUB_SUB}
        if shell.any:
            types.add(TaskType.SHELL_CMD)
        if self.webhooks.enabled:
            types.add(TaskType.HTTP)
        return RecordRules(
            original=request.OriginalRules(max_payload_bytes=self.payload_limit, types=frozenset(types)),
            shell=shell,
            webhooks=self.webhooks,
            topics=self.topics,
            pass_through=self.pass_through,
        )
