"""What every process that serves an API is told: the node writes it as one JSON line, the process reads it back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from delaybox.core.access import Access, Token
from delaybox.core.errors import ConfigError
from delaybox.core.limits import DEFAULT_PAYLOAD_BYTES
from delaybox.core.queue import QueueRules, RuleBook
from delaybox.processes.settings import known_fields, to_line
from delaybox.store.connect import ServerSettings
from delaybox.wire.topics import TopicRules


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """Frozen settings of one API process. ``payload_limit`` counts decoded bytes."""

    server: ServerSettings = field(default_factory=ServerSettings)
    prefix: str = "delaybox"
    store_id: str = ""
    """Of the store that the node works for; "" takes whichever is there."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes any free port; the ready line says which."""
    payload_limit: int = DEFAULT_PAYLOAD_BYTES
    tokens: tuple[Token, ...] = ()
    """Who may call; empty means that no token is asked for."""
    shell: bool = False
    """Payloads may be shell commands."""
    shell_commands: tuple[str, ...] = ()
    """Names of the commands that shell tasks may name."""
    queues: RuleBook = field(default_factory=RuleBook)
    """What is set for queues."""
    topics: TopicRules | None = None
    """What Kafka topics tasks may name; None: Kafka is off."""
    node_id: str = ""
    metrics_dir: str = ""
    log_format: str = "text"
    grace_s: float = 10.0
    """How long requests in flight may take to finish when the process is stopped."""

    def to_json(self) -> str:
        """See `to_line`."""
        return to_line(self)

    @classmethod
    def from_json(cls, line: str | bytes) -> Self:
        """Reads ``to_json``; ConfigError for anything else."""
        try:
            raw = json.loads(line)
            server = ServerSettings(**known_fields(ServerSettings, raw["server"]))
            tokens = tuple(_token(entry) for entry in raw["tokens"])
            topics = raw["topics"] and TopicRules(raw["topics"]["default"], frozenset(raw["topics"]["allowed"]))
            return cls(
                **known_fields(cls, raw)
                | {
                    "server": server,
                    "tokens": tokens,
                    "topics": topics,
                    "queues": _rule_book(raw["queues"]),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"the API process got settings that it cannot read ({type(error).__name__}); start it through the node"
            ) from None


def _rule_book(raw: Mapping[str, Any]) -> RuleBook:
    named = {name: QueueRules(**known_fields(QueueRules, rules)) for name, rules in raw["named"].items()}
    return RuleBook(default=QueueRules(**known_fields(QueueRules, raw["default"])), named=named)


def _token(raw: Mapping[str, Any]) -> Token:
    given = known_fields(Token, raw)
    return Token(**given | {"scopes": tuple(Access(scope) for scope in given["scopes"])})
