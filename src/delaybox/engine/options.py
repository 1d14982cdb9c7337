"""How an engine is tuned."""

from __future__ import annotations

from dataclasses import dataclass

from delaybox.core.retry import DEFAULT_RETRY, LOSSES_CAP, RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Times in ms. ``channel``: where PUB_SUB tasks are fired in place; '' leases them to a target instead."""

    node_id: str
    channel: str = "TaskExecution"
    stream: int = 0
    concurrency: int = 4_000
    lease_ms: int = 15_000
    heartbeat_ms: int = 5_000
    poll_ms: int = 1_000
    reap_ms: int = 500
    lead_ms: int = 60_000
    losses_cap: int = LOSSES_CAP
    dead_cap: int = 100_000
    dead_age_ms: int = 0
    retry: RetryPolicy = DEFAULT_RETRY
    scrub: bool = True
