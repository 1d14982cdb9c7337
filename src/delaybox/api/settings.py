"""What every process that serves callers is given."""

from __future__ import annotations

from dataclasses import dataclass, field

from delaybox.core.limits import DEFAULT_PAYLOAD_BYTES
from delaybox.core.queue import RuleBook
from delaybox.core.scopes import Token
from delaybox.core.webhook import NO_WEBHOOKS, WebhookRules
from delaybox.store.settings import StoreSettings
from delaybox.wire.topics import TopicRules


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings(StoreSettings):
    """Frozen settings of one API process. ``payload_limit`` counts decoded bytes."""

    host: str = "127.0.0.1"
    """Where its parent listens for it."""
    payload_limit: int = DEFAULT_PAYLOAD_BYTES
    wait_ms: int = 0
    """New tasks that wait longer in this process, for a while, make it refuse further calls; 0: none are refused."""
    tokens: tuple[Token, ...] = ()
    """Who may call; empty means that no token is asked for."""
    shell: bool = False
    """Payloads may be shell commands."""
    shell_commands: tuple[str, ...] = ()
    """Names of the commands that shell tasks may name."""
    webhooks: WebhookRules = NO_WEBHOOKS
    """Where HTTP tasks may go."""
    queues: RuleBook = field(default_factory=RuleBook)
    """What is set for queues."""
    topics: TopicRules | None = None
    """What Kafka topics tasks may name; None: Kafka is off."""
    engines: tuple[str, ...] = ()
    """The ids of the node's members that must live for it to be ready."""
