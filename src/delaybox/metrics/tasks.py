"""What is counted of tasks, their leases and the workers that have them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Final, Literal

from prometheus_client import Counter, Gauge, Histogram

from delaybox.metrics.exposition import REGISTRY
from delaybox.metrics.later import Later, taken
from delaybox.metrics.several import observe_several
from delaybox.processes import examples

LATENESS_BUCKETS_MS: Final[tuple[float, ...]] = (
    *(0.25, 0.5, 1, 2, 3, 4, 6, 8, 10, 15, 25, 50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 30_000, 60_000),
)
Mode = Literal["in_place", "leased"]
_scheduled = Counter("delaybox_scheduled_tasks", "New tasks stored.", registry=REGISTRY)
_duplicates = Counter(
    "delaybox_idempotent_duplicates", "Schedule calls answered with an earlier task's id.", registry=REGISTRY
)
_fired = Counter("delaybox_fired_tasks", "Tasks delivered.", ["type", "mode"], registry=REGISTRY)
_LATENESS_S: Final = tuple(ms / 1000 for ms in LATENESS_BUCKETS_MS)
_lateness = Histogram(
    "delaybox_lateness_seconds",
    "Fired minus due.",
    buckets=_LATENESS_S,
    registry=REGISTRY,
)
_late_waiting: deque[float] = deque()
_snoozes = Counter("delaybox_snoozes", "Tasks put off by their own code.", ["type"], registry=REGISTRY)
_retries = Counter("delaybox_retries", "Failed attempts that will be tried again.", ["type"], registry=REGISTRY)
_dead_lettered = Counter("delaybox_dead_lettered_tasks", "Tasks put among the dead letters.", registry=REGISTRY)
_expired = Counter(
    "delaybox_expired_tasks", "Tasks later than their expire_after: dead-lettered, not delivered.", ["type"],
    registry=REGISTRY,
)  # fmt: skip
_input = Counter(
    "delaybox_input_messages", "Messages heard on the input channel: accepted or refused.", ["outcome"],
    registry=REGISTRY,
)  # fmt: skip
_lost_leases = Counter("delaybox_lost_leases", "Leases that expired before their tasks were done.", registry=REGISTRY)
_late_claims = Counter(
    "delaybox_late_claims",
    "Claims whose reply came after their lease was over, so that their tasks were not run here.",
    registry=REGISTRY,
)
_wakeups = Gauge(
    "delaybox_wakeups_heard",
    "1 while an engine (node, workers) is subscribed to wake-ups; without, tasks due at once are up to a second late.",
    ["engine"],
    multiprocess_mode="livemin",
    registry=REGISTRY,
)
_graces = Counter(
    "delaybox_lease_graces",
    "Partitions in which no lease was taken back for a while, because nobody could extend before: the server was away, "
    "restarted or had its clock set; or because looks came late.",
    registry=REGISTRY,
)
_stale_acks = Counter(
    "delaybox_stale_acks_refused",
    "Acks and failures refused: the task was no longer leased to them.",
    registry=REGISTRY,
)
_no_listeners = Counter(
    "delaybox_published_without_listeners", "Messages published while nobody subscribed.", registry=REGISTRY
)
_trimmed = Counter("delaybox_stream_trimmed_entries", "Stream entries that the length cap dropped.", registry=REGISTRY)
_workers = Gauge("delaybox_workers", "Workers connected.", multiprocess_mode="livesum", registry=REGISTRY)
_worker_tasks = Gauge(
    "delaybox_worker_tasks", "Tasks that connected workers have.", multiprocess_mode="livesum", registry=REGISTRY
)
_lost_workers = Counter(
    "delaybox_lost_workers", "Workers that went away with tasks in hand, which went to others.", registry=REGISTRY
)
_enforced = Counter(
    "delaybox_enforced_timeouts",
    "Attempts that the node ended, because their workers did not.",
    registry=REGISTRY,
)
_waits = Gauge(
    "delaybox_longest_extra_wait_seconds",
    "How much longer a task of this priority may wait for a place than if what is due first went first, by the load of "
    "the last minute; see docs/queues.md for the formula.",
    ["priority"],
    multiprocess_mode="livemax",
    registry=REGISTRY,
)


def scheduled(created: int, duplicates: int = 0) -> None:
    """Counts new tasks that were stored, and calls that found an earlier task by their idempotency key."""
    _scheduled.inc(created)
    if duplicates:
        _duplicates.inc(duplicates)


def fired(task_type: str, mode: Mode, n: int = 1) -> None:
    """``n`` tasks were delivered, by the claim script itself or under a lease."""
    _fired_of(task_type, mode).inc(n)


@cache
def _fired_of(task_type: str, mode: Mode) -> Counter:
    """Looking labels up anew takes longer than counting."""
    return _fired.labels(task_type, mode)


def longest_extra_wait(priority: str, ms: float) -> None:
    """How much longer tasks of a priority may wait than if what is due first went first."""
    _waits.labels(priority).set(ms / 1000)


def observe_lateness(late_ms: Sequence[float]) -> None:
    """One batch of fired tasks; it is in the metrics a moment later (`later`)."""
    if late_ms:
        _late_waiting.extend(late_ms)
        _lateness_later.soon(len(_late_waiting))


def _add_lateness() -> None:
    observe_several(_lateness, LATENESS_BUCKETS_MS, taken(_late_waiting), per_unit=1_000)


_lateness_later: Final = Later(_add_lateness)


def lateness_example(late_ms: float, traceparent: bytes) -> None:
    """A task that was that late, and the trace of its firing."""
    examples.keep("delaybox_lateness_seconds", {}, _LATENESS_S, late_ms / 1000, traceparent.decode())


def retried(task_type: str, n: int = 1) -> None:
    """``n`` attempts failed and are scheduled again."""
    _retries.labels(task_type).inc(n)


def snoozed(task_type: str, n: int = 1) -> None:
    """``n`` tasks were put off by their own code."""
    _snoozes.labels(task_type).inc(n)


def dead_lettered(n: int = 1) -> None:
    """``n`` tasks went to the dead letters."""
    _dead_lettered.inc(n)


def expired(task_type: str, n: int = 1) -> None:
    """``n`` tasks were later than they allow."""
    _expired.labels(task_type).inc(n)


def input_messages(outcome: Literal["accepted", "refused"], n: int = 1) -> None:
    """``n`` messages on the input channel became tasks, or could not."""
    _input.labels(outcome).inc(n)


def lease_lost(n: int = 1) -> None:
    """``n`` leases expired with work in them."""
    _lost_leases.inc(n)


def claim_too_late() -> None:
    """The reply to a claim came after its lease was over."""
    _late_claims.inc()


def wakeups_subscribed(engine: Literal["node", "workers"], subscribed: bool) -> None:
    """Whether the engine of this process is subscribed to wake-ups."""
    _wakeups.labels(engine).set(subscribed)


def timeout_enforced() -> None:
    """A worker did not end a task that was out of time."""
    _enforced.inc()


def lease_graces(n: int) -> None:
    """In ``n`` partitions no expired lease is taken back for a while."""
    _graces.inc(n)


def stale_ack(n: int = 1) -> None:
    """``n`` acks or failures came from a doer that no longer held the task."""
    _stale_acks.inc(n)


def published_without_listeners(n: int = 1) -> None:
    """``n`` messages went to a channel that nobody listened to."""
    _no_listeners.inc(n)


def stream_trimmed(n: int = 1) -> None:
    """``n`` entries left a stream because of its length cap."""
    _trimmed.inc(n)


def workers(connected: int, tasks: int) -> None:
    """How many workers there are, and how many tasks they have."""
    _workers.set(connected)
    _worker_tasks.set(tasks)


def worker_lost() -> None:
    """A worker went away with tasks in hand."""
    _lost_workers.inc()
