"""The rules of queues: a record of one queue's rules, and the book in which they are looked up. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRules:
    """The rules of one queue. ``keep_result_ms``: how long the results of its WORKER tasks are kept; 0: not at all."""

    keep_result_ms: int = 0

    def kept_ms(self, own_ms: int) -> int:
        """How long the result of one task is kept. ``own_ms``: what the task itself asks for, or 0; it comes first."""
        return own_ms or self.keep_result_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleBook:
    """The rules of all queues: those of the ``named`` ones, and the ``default`` of every other."""

    default: QueueRules = QueueRules()
    named: Mapping[str, QueueRules] = field(default_factory=dict)

    def of(self, queue: str) -> QueueRules:
        """The rules that hold for a queue."""
        return self.named.get(queue, self.default)
