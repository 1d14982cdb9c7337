"""The settings of an engine."""

from __future__ import annotations

from dataclasses import dataclass

from delaybox.core.events import NO_EVENTS, EventRules
from delaybox.core.history import NO_HISTORY, HistoryRules
from delaybox.core.retry import DEFAULT_RETRY, LOSSES_CAP, RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Times in ms. ``channel``: where PUB_SUB tasks are fired in place; '' leases them to a target instead.

    ``clock``: the engine is a time keeper: it indexes, fires, reaps and scrubs. Without it an engine only claims what
    its targets serve; time keepers fire what is due and take work back from dead nodes.
    """

    node_id: str
    """This engine's own, by which it beats."""
    node: str = ""
    """The id of the node whose process this is; "": the engine is a node by itself."""
    kind: str = ""
    """Of the process, for the heartbeat: see `core.membership.Member`."""
    roles: tuple[str, ...] = ()
    """The node's roles, for the heartbeat."""
    capacity: float = 1.0
    """How much it can do compared with others: of more it gets more partitions."""
    clock: bool = True
    runs_tasks: bool = False
    """Its process runs the WORKER tasks that it claims: the loss of the process is the loss of their worker."""
    lanes: tuple[bytes, ...] = ()
    """Of a task type that has a lane here, only these lanes are claimed (`core.lane`; ANY_QUEUE for the queue)."""
    places: int = 0
    """Most places that a task may cost whose lane is named in ``lanes``; of other types the target decides."""
    channel: str = "TaskExecution"
    stream: int = 0
    concurrency: int = 8_000
    lease_ms: int = 15_000
    heartbeat_ms: int = 5_000
    poll_ms: int = 1_000
    settle_ms: int = 0
    """How long an outcome waits for others, to share a round trip with them; while one is under way it waits anyhow."""
    catch_up_rate: int = 0
    """Most overdue tasks taken in a second after an outage; 0: no limit."""
    reap_ms: int = 500
    lead_ms: int = 60_000
    losses_cap: int = LOSSES_CAP
    dead_cap: int = 100_000
    dead_age_ms: int = 0
    """Dead letters older than this are deleted; 0: none is."""
    quarantine_age_ms: int = 0
    """As ``dead_age_ms``, for records in quarantine."""
    retry: RetryPolicy = DEFAULT_RETRY
    scrub: bool = True
    history: HistoryRules = NO_HISTORY
    """How long it is remembered how tasks ended."""
    events: EventRules = NO_EVENTS
    """How the feed of events is kept."""
