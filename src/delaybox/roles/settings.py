"""The settings of processes with an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from delaybox.core.events import EventKind
from delaybox.core.webhook import NO_WEBHOOKS, WebhookRules
from delaybox.store.settings import StoreSettings
from delaybox.targets.kafka_settings import KafkaSettings
from delaybox.wire.topics import TopicRules


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings(StoreSettings):
    """Settings of every process with an engine. Times in ms. ``capacity``: of one that keeps time or sends webhooks."""

    lease_ms: int = 15_000
    heartbeat_ms: int = 5_000
    poll_ms: int = 1_000
    capacity: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOut:
    """How tasks are sent to Kafka. ``rules``: the topics; ``signing_keys``: sign shell tasks that go to a topic."""

    kafka: KafkaSettings
    rules: TopicRules
    value: Literal["task", "payload"] = "task"
    compression: str = "lz4"
    linger_ms: int = 2
    delivery_timeout_ms: int = 120_000
    signing_keys: tuple[str, ...] = field(default=(), repr=False)
    commands: bool = False
    """Whether shell tasks go there as well."""
    events_topic: str = ""
    """The topic of events; "": none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsOut:
    """The URL to which events are sent. ``kinds`` empty, ``queue`` "": all. ``batch``: events in one request."""

    url: str
    rules: WebhookRules
    secret: tuple[str, ...] = field(default=(), repr=False)
    kinds: tuple[EventKind, ...] = ()
    queue: str = ""
    batch: int = 1
    timeout_ms: int = 10_000
    ca_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSettings(EngineSettings):
    """Settings of the clock process."""

    channel: str = "TaskExecution"
    """The channel where PUB_SUB tasks are published without Kafka."""
    stream: int = 0
    """The length of the stream to which they are also added; 0: to none."""
    in_place: bool = True
    """Whether the claim script publishes them itself (fires them in place)."""
    require_subscriber: bool = False
    kafka: KafkaOut | None = None
    events_webhook: EventsOut | None = None
    events_stream: int = 0
    """About how many events the Redis stream keeps; 0: there is none."""
    input_channel: str = ""
    """The input channel, from which serialized tasks are read; "" reads none."""
    types_beside: str = ""
    """Letters of the task types that other processes of this node carry out."""
    payload_limit: int = 1 << 20
    catch_up_rate: int = 0
    dead_age_ms: int = 0
    quarantine_age_ms: int = 0
    follows_nodes: bool = False
    """It belongs to a worker, and publishes PUB_SUB tasks as the store's nodes do (`store.firing`), not as set here. It
    keeps no time where that takes Kafka."""
    await_subscribers: bool = False
    """Whether the server has just been started with this node: its subscribers were cut off, and get a moment to
    return."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellSettings:
    """Settings of shell commands. ``commands``: name -> absolute path and arguments; ``payloads``: any payload may be
    one."""

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
    """The topic from which shell tasks are read, and the keys that prove that a node sent them. See `TopicWork`."""

    kafka: KafkaSettings
    topic: str
    group: str
    instance: str = ""
    signing_keys: tuple[str, ...] = field(default=(), repr=False)
    accept_unsigned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSettings(EngineSettings):
    """Settings of the work process. ``topic`` None: it takes shell tasks from the store."""

    shell: ShellSettings | None = None
    topic: TopicCommands | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings(EngineSettings):
    """Settings of the webhook process. ``rules``: where requests may go; ``secret``, ``secrets``: sign them."""

    rules: WebhookRules = NO_WEBHOOKS
    cloudevents: str = "none"
    secret: tuple[str, ...] = field(default=(), repr=False)
    secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    concurrency: int = 1_000
    per_host: int = 50
    per_host_rate: int = 0
    timeout_ms: int = 10_000
    max_answer: int = 64 * 1024
    longest_wait_ms: int = 3_600_000
    ca_file: str = ""
    catch_up_rate: int = 0
