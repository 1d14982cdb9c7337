"""What the processes with an engine are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from delaybox.store.settings import StoreSettings
from delaybox.targets.kafka_settings import KafkaSettings
from delaybox.wire.topics import TopicRules


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings(StoreSettings):
    """Of every process with an engine. Times in ms."""

    lease_ms: int = 15_000
    heartbeat_ms: int = 5_000
    poll_ms: int = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOut:
    """How tasks are sent to Kafka. ``rules``: the topics; ``signing_keys``: for commands that travel there."""

    kafka: KafkaSettings
    rules: TopicRules
    value: Literal["task", "payload"] = "task"
    compression: str = "lz4"
    linger_ms: int = 2
    delivery_timeout_ms: int = 120_000
    signing_keys: tuple[str, ...] = field(default=(), repr=False)
    commands: bool = False
    """Shell tasks go there as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSettings(EngineSettings):
    """Of the process that keeps time and publishes."""

    channel: str = "TaskExecution"
    """Where PUB_SUB tasks are published, without Kafka."""
    stream: int = 0
    """The length of the stream that they go to as well; 0: to none."""
    in_place: bool = True
    """The server publishes them itself, in the step that takes them."""
    require_subscriber: bool = False
    kafka: KafkaOut | None = None
    input_channel: str = ""
    """Where serialized tasks are taken in; "" takes none."""
    types_beside: str = ""
    """Letters of the task types that other processes of this node carry out."""
    payload_limit: int = 1 << 20
    catch_up_rate: int = 0
    dead_age_ms: int = 0
    quarantine_age_ms: int = 0
    await_subscribers: bool = False
    """The server has just come back with this node: its subscribers were cut off, and get a moment to return."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellSettings:
    """Of shell commands. ``commands``: name -> absolute path and arguments; ``payloads``: any payload may be one."""

    payloads: bool = False
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    user: str = ""
    concurrency: int = 16
    timeout_ms: int = 300_000
    grace_ms: int = 500
    keep_result_ms: int = 86_400_000
    cpu_s: int = 300
    memory: int = 2 << 30
    file_size: int = 1 << 30
    open_files: int = 1024
    processes: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicCommands:
    """Where commands come by topic, and what proves that a node sent them. See `TopicWork`."""

    kafka: KafkaSettings
    topic: str
    group: str
    instance: str = ""
    signing_keys: tuple[str, ...] = field(default=(), repr=False)
    accept_unsigned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSettings(EngineSettings):
    """Of the process that runs shell commands. ``topic`` None: it takes them from the store."""

    shell: ShellSettings | None = None
    topic: TopicCommands | None = None
