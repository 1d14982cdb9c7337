"""What the Kafka process needs to know. The node writes it as one JSON line, the process reads it back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from delaybox.core.errors import ConfigError
from delaybox.core.task import TaskType
from delaybox.processes.settings import known_fields, to_line
from delaybox.store.connect import ServerSettings
from delaybox.targets.kafka_settings import KafkaSettings
from delaybox.wire.kafka import RecordRules
from delaybox.wire.original import request
from delaybox.wire.shell import ShellRules
from delaybox.wire.topics import TopicRules


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeSettings:
    """Frozen settings of one Kafka process. ``sources``: the topics to read.

    ``instance``: the member's name that outlives a restart, '' = none. ``topics``: which ones tasks may be sent to.
    """

    kafka: KafkaSettings
    sources: tuple[str, ...]
    group: str
    instance: str = ""
    server: ServerSettings = field(default_factory=ServerSettings)
    prefix: str = "delaybox"
    store_id: str = ""
    """Of the store that the node works for; "" takes whichever is there."""
    topics: TopicRules | None = None
    pass_through: bool = False
    """Messages leave as their records came (``kafka.value: payload``)."""
    payload_limit: int = 1 << 20
    shell: bool = False
    """Payloads may be shell commands."""
    shell_commands: tuple[str, ...] = ()
    """Names of the commands that shell tasks may name."""
    metrics_dir: str = ""
    log_format: str = "text"
    grace_s: float = 10.0
    """How long what was read may take to be stored when the process is stopped."""

    @property
    def rules(self) -> RecordRules:
        """What records are accepted."""
        shell = ShellRules(payloads=self.shell, commands=frozenset(self.shell_commands))
        types = {TaskType.PUB_SUB, TaskType.SHELL_CMD} if shell.any else {TaskType.PUB_SUB}
        return RecordRules(
            original=request.OriginalRules(max_payload_bytes=self.payload_limit, types=frozenset(types)),
            shell=shell,
            topics=self.topics,
            pass_through=self.pass_through,
        )

    def to_json(self) -> str:
        """See `to_line`."""
        return to_line(self)

    @classmethod
    def from_json(cls, line: str | bytes) -> IntakeSettings:
        """Reads ``to_json``; ConfigError for anything else."""
        try:
            raw = json.loads(line)
            server = ServerSettings(**known_fields(ServerSettings, raw["server"]))
            kafka = KafkaSettings(**known_fields(KafkaSettings, raw["kafka"]))
            topics = raw["topics"] and TopicRules(raw["topics"]["default"], frozenset(raw["topics"]["allowed"]))
            return cls(**known_fields(cls, raw) | {"server": server, "kafka": kafka, "topics": topics})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"the Kafka process got settings that it cannot read ({type(error).__name__}); start it through the "
                "node"
            ) from None
