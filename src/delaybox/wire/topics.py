"""The Kafka topic and message key that a task may name in its header. The API checks them, and the target again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from delaybox.core.errors import InvalidTask

KEY = "kafkaKey"
"""The header that names the message's key."""
TOMBSTONE = "kafkaTombstone"
"""The header of a task whose message is to have no value at all, which deletes its key from a compacted topic."""

_NOTHING = b""


@dataclass(frozen=True, slots=True)
class TopicRules:
    """``default``: the execution topic; ``allowed``: others that a task may name."""

    default: str
    allowed: frozenset[str] = frozenset()

    def topic(self, header: Mapping[str, bytes]) -> str:
        """Where a task with this header goes; InvalidTask when that is not allowed.

        ``topic`` counts only where topics are allowed at all: callers of the original give parameters any name.
        """
        named = "kafkaTopic" if "kafkaTopic" in header else "topic"
        topic = header.get(named, _NOTHING).decode("utf-8", "replace")
        if not topic or topic == self.default or topic in self.allowed:
            return topic or self.default
        if named == "topic" and not self.allowed:
            return self.default
        known = f" ({', '.join(sorted(self.allowed))})" if self.allowed else ", which is empty"
        raise InvalidTask(
            f"headers.{named}",
            f"{named} {topic[:80]!r} is none of kafka.allowedTopics{known}; add it there, or leave {named} out",
        )

    @staticmethod
    def key(header: Mapping[str, bytes]) -> bytes | None:
        """The key that the task wants its message to have."""
        return header.get(KEY) or header.get("key") or header.get("ce_partitionkey") or None
