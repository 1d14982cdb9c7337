"""What a worker announces when it connects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from delaybox.core.retry import RetryPolicy

DEFAULT_TAKES = 4 << 20
"""Largest message for a worker that does not announce its own limit: gRPC's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a worker announced. ``lanes``: what it serves; ``retry``: by function, for tasks without a policy."""

    lanes: frozenset[bytes]
    retry: Mapping[str, RetryPolicy] = field(default_factory=dict)
    keep_ms: Mapping[str, int] = field(default_factory=dict)
    """How long results are kept, by function, for tasks that do not set it."""
    own: Mapping[str, str] = field(default_factory=dict)
    """Its functions' own queues, as far as it announced them ("": none)."""
    labels: Mapping[str, str] = field(default_factory=dict)
    identity: str = ""
    concurrency: int = 0
    takes: int = DEFAULT_TAKES
    """The largest message that it takes, bytes."""
    moves: bool = False
    """When its node goes away it brings what it runs to another one."""
