"""What DelayBox counts. Names start with ``delaybox_``; times are in seconds.

The processes of a node share one directory (environment ``PROMETHEUS_MULTIPROC_DIR``, set before this module is
imported) and any of them renders the sum. Without the directory each process counts for itself.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
NAME_VARIABLE: Final = "DELAYBOX_COUNTED_AS"

LATENESS_BUCKETS_MS: Final[tuple[float, ...]] = (
    *(0.25, 0.5, 1, 2, 3, 4, 6, 8, 10, 15, 25, 50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 30_000, 60_000),
)

DELIVERY_BUCKETS_MS: Final[tuple[float, ...]] = (1, 2, 4, 8, 15, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)

Mode = Literal["in_place", "leased"]

if os.environ.get(DIRECTORY_VARIABLE) and (_name := os.environ.get(NAME_VARIABLE)):
    # Instead of the process id. Only one process at a time has this name, so it goes on where the last one ended.
    values.ValueClass = values.MultiProcessValue(lambda: _name)  # type: ignore[no-untyped-call]
disable_created_metrics()  # type: ignore[no-untyped-call]
_registry = CollectorRegistry()

_scheduled = Counter("delaybox_scheduled_tasks", "New tasks stored.", registry=_registry)
_duplicates = Counter(
    "delaybox_idempotent_duplicates", "Schedule calls answered with an earlier task's id.", registry=_registry
)
_fired = Counter("delaybox_fired_tasks", "Tasks delivered.", ["type", "mode"], registry=_registry)
_lateness = Histogram(
    "delaybox_lateness_seconds",
    "Fired minus due.",
    buckets=[ms / 1000 for ms in LATENESS_BUCKETS_MS],
    registry=_registry,
)
_snoozes = Counter("delaybox_snoozes", "Tasks put off by their own code.", ["type"], registry=_registry)
_retries = Counter("delaybox_retries", "Failed attempts that will be tried again.", ["type"], registry=_registry)
_dead_lettered = Counter("delaybox_dead_lettered_tasks", "Tasks put among the dead letters.", registry=_registry)
_expired = Counter(
    "delaybox_expired_tasks", "Tasks later than their expire_after: dead-lettered, not delivered.", ["type"],
    registry=_registry,
)  # fmt: skip
_input = Counter(
    "delaybox_input_messages", "Messages heard on the input channel: accepted or refused.", ["outcome"],
    registry=_registry,
)  # fmt: skip
_lost_leases = Counter("delaybox_lost_leases", "Leases that expired before their tasks were done.", registry=_registry)
_doubts = Counter(
    "delaybox_store_doubts",
    "Times the connections to the server were given up, because it was a read-only replica, still loading, or silent.",
    registry=_registry,
)
_wakeups = Gauge(
    "delaybox_wakeups_heard",
    "1 while an engine (node, workers) is subscribed to wake-ups; without, tasks due at once are up to a second late.",
    ["engine"],
    multiprocess_mode="livemin",
    registry=_registry,
)
_graces = Counter(
    "delaybox_lease_graces",
    "Partitions in which no lease was taken back for a while, because nobody could extend before: the server was away, "
    "restarted or had its clock set.",
    registry=_registry,
)
_stale_acks = Counter(
    "delaybox_stale_acks_refused",
    "Acks and failures refused: the task was no longer leased to them.",
    registry=_registry,
)
_no_listeners = Counter(
    "delaybox_published_without_listeners", "Messages published while nobody subscribed.", registry=_registry
)
_trimmed = Counter("delaybox_stream_trimmed_entries", "Stream entries that the length cap dropped.", registry=_registry)
_script = Summary("delaybox_script_seconds", "Round trip of each server-side script.", ["script"], registry=_registry)
_script_max = Gauge(
    "delaybox_script_max_seconds",
    "Longest round trip of each script since start.",
    ["script"],
    multiprocess_mode="max",
    registry=_registry,
)
_kafka_up = Gauge(
    "delaybox_kafka_up", "1 while Kafka brokers answer this node.", ["client"], multiprocess_mode="livemin",
    registry=_registry,
)  # fmt: skip
_kafka_sent = Counter("delaybox_kafka_out_messages", "Messages that the brokers confirmed.", registry=_registry)
_kafka_in_flight = Gauge(
    "delaybox_kafka_out_in_flight",
    "Messages sent and not confirmed yet.",
    multiprocess_mode="livesum",
    registry=_registry,
)
_kafka_failed = Counter(
    "delaybox_kafka_out_errors", "Messages that the brokers did not take.", ["reason"], registry=_registry
)
_kafka_took = Histogram(
    "delaybox_kafka_out_delivery_seconds",
    "From handing a batch of messages to Kafka's client until the last was confirmed, for each message.",
    buckets=[ms / 1000 for ms in DELIVERY_BUCKETS_MS],
    registry=_registry,
)
_workers = Gauge("delaybox_workers", "Workers connected.", multiprocess_mode="livesum", registry=_registry)
_worker_tasks = Gauge(
    "delaybox_worker_tasks", "Tasks that connected workers have.", multiprocess_mode="livesum", registry=_registry
)
_lost_workers = Counter(
    "delaybox_lost_workers", "Workers that went away with tasks in hand, which went to others.", registry=_registry
)
_enforced = Counter(
    "delaybox_enforced_timeouts",
    "Attempts that the node ended, because their workers did not.",
    registry=_registry,
)
_kafka_records = Counter(
    "delaybox_kafka_records",
    "Records of scheduler topics dealt with: stored, keyed (stored by idempotency key), known (stored before) or dead "
    "(sent to the dead-letter topic).",
    ["topic", "outcome"],
    registry=_registry,
)
_kafka_lag = Gauge(
    "delaybox_kafka_lag_records",
    "Records of a partition that this node reads and has not stored yet; 0 for one that it does not read.",
    ["topic", "partition"],
    multiprocess_mode="mostrecent",
    registry=_registry,
)
_kafka_rebalances = Counter("delaybox_kafka_rebalances", "Assignments by the consumer group.", registry=_registry)
_kafka_rewinds = Counter(
    "delaybox_kafka_rewinds", "Times a partition was read again because the store had lost its last writes.",
    registry=_registry,
)  # fmt: skip
_kafka_missed = Counter(
    "delaybox_kafka_missed_records", "Records that the log's retention dropped before they were read.", ["topic"],
    registry=_registry,
)  # fmt: skip
_kafka_stopped = Gauge(
    "delaybox_kafka_stopped_partitions",
    "Partitions not read because their watermark is past the end of the log.",
    multiprocess_mode="mostrecent",
    registry=_registry,
)
_topic_work_failed = Counter(
    "delaybox_topic_work_failed_tasks", "Shell tasks from the execution topic that failed.", registry=_registry
)
_topic_work_dropped = Counter(
    "delaybox_topic_work_dropped_messages",
    "Shell commands on the execution topic that were not run, by reason: unsigned, bad_signature, or no_command (a "
    "node sent the task as another type).",
    ["reason"],
    registry=_registry,
)
_requests = Counter("delaybox_http_requests", "HTTP requests answered.", ["route", "status"], registry=_registry)
_rpcs = Counter("delaybox_grpc_requests", "gRPC calls ended.", ["method", "code"], registry=_registry)
_store_up = Gauge(
    "delaybox_store_up",
    "1 when the store answered the last scrape, and took new tasks.",
    multiprocess_mode="mostrecent",
    registry=_registry,
)
_estimated = Gauge(
    "delaybox_task_counts_estimated",
    "1 while pending and ready tasks are estimated: a partition's lie in over 500 minutes, or in over 200 ready lanes.",
    multiprocess_mode="mostrecent",
    registry=_registry,
)
_store_lost = Gauge(
    "delaybox_store_lost",
    "1 while the server answers without this node's store: it was emptied, or holds another one.",
    multiprocess_mode="mostrecent",
    registry=_registry,
)
_stored: Final[dict[str, Gauge]] = {
    name: Gauge(f"delaybox_{name}_tasks", text, multiprocess_mode="mostrecent", registry=_registry)
    for name, text in (
        (
            "pending",
            "Tasks stored and not yet due or not yet taken; see delaybox_task_counts_estimated.",
        ),
        ("ready", "Tasks due that no node had room for; see delaybox_task_counts_estimated."),
        ("in_flight", "Tasks leased right now."),
        ("dead", "Dead letters kept."),
        ("quarantined", "Records that could not be read."),
    )
}

_due_soon = Gauge(
    "delaybox_forecast_due_tasks",
    "Stored tasks that become due within the window from now.",
    ["window"],
    multiprocess_mode="mostrecent",
    registry=_registry,
)
_waits = Gauge(
    "delaybox_longest_extra_wait_seconds",
    "How much longer a task of this priority may wait for a place than if what is due first went first, by the load of "
    "the last minute; see docs/queues.md for the formula.",
    ["priority"],
    multiprocess_mode="livemax",
    registry=_registry,
)
_needed = Gauge(
    "delaybox_needed_members",
    "Processes that all nodes together need now, by kind; see /v1/scaling for the terms.",
    ["kind"],
    multiprocess_mode="mostrecent",
    registry=_registry,
)
_running = Gauge(
    "delaybox_running_members",
    "Processes of all nodes that live, by kind.",
    ["kind"],
    multiprocess_mode="mostrecent",
    registry=_registry,
)

_kafka_children: dict[tuple[str, str], Counter] = {}
_request_children: dict[tuple[str, int], Counter] = {}
_rpc_children: dict[tuple[str, str], Counter] = {}
_script_children: dict[str, tuple[Summary, Gauge]] = {}
_script_longest: dict[str, float] = {}


def scheduled(created: int, duplicates: int = 0) -> None:
    """Counts new tasks that were stored, and calls that found an earlier task by their idempotency key."""
    _scheduled.inc(created)
    if duplicates:
        _duplicates.inc(duplicates)


def fired(task_type: str, mode: Mode, n: int = 1) -> None:
    """``n`` tasks were delivered, by the claim script itself or under a lease."""
    _fired.labels(task_type, mode).inc(n)


def longest_extra_wait(priority: str, ms: float) -> None:
    """How much longer tasks of a priority may wait than if what is due first went first."""
    _waits.labels(priority).set(ms / 1000)


def observe_lateness(late_ms: Sequence[float]) -> None:
    """One batch of fired tasks. Sorted input (a claim's order, either way) is cheapest."""
    if not late_ms:
        return
    ordered = sorted(late_ms)
    # prometheus-client has no batch observe; one call a task would cost 1.5 us each in multiprocess mode.
    counters = _lateness._buckets
    done = 0
    for at, bound in enumerate(LATENESS_BUCKETS_MS):
        upto = bisect_right(ordered, bound, done)
        if upto > done:
            counters[at].inc(upto - done)
            done = upto
            if done == len(ordered):
                break
    else:
        counters[-1].inc(len(ordered) - done)
    _lateness._sum.inc(sum(ordered) / 1000)


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


def store_doubted() -> None:
    """All connections to the server are opened again."""
    _doubts.inc()


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


def script_took(script: str, seconds: float) -> None:
    """One call of a server-side script."""
    children = _script_children.get(script)
    if children is None:
        children = _script_children[script] = (_script.labels(script), _script_max.labels(script))
    children[0].observe(seconds)
    if seconds > _script_longest.get(script, -1.0):
        _script_longest[script] = seconds
        children[1].set(seconds)


def kafka_up(up: bool, client: str = "producer") -> None:
    """Whether brokers answer ``client``."""
    _kafka_up.labels(client).set(up)


def kafka_in_flight(change: int) -> None:
    """So many more (or fewer) messages are under way."""
    _kafka_in_flight.inc(change)


def kafka_sent(n: int, took_s: float) -> None:
    """``n`` messages of one batch were confirmed."""
    if n:
        _kafka_sent.inc(n)
        at = bisect_right(DELIVERY_BUCKETS_MS, took_s * 1000)
        # As above: one step for the batch.
        _kafka_took._buckets[at].inc(n)
        _kafka_took._sum.inc(took_s * n)


def kafka_failed(reason: str, n: int = 1) -> None:
    """``n`` messages were refused."""
    _kafka_failed.labels(reason).inc(n)


def requests_done(route: str, status: int, n: int = 1) -> None:
    """``n`` HTTP answers. ``route`` is a pattern, never a path that a caller made up."""
    child = _request_children.get((route, status))
    if child is None:
        child = _request_children[route, status] = _requests.labels(route, str(status))
    child.inc(n)


def kafka_records(topic: str, **outcomes: int) -> None:
    """Counts records of a scheduler topic, by outcome."""
    for outcome, n in outcomes.items():
        if n:
            child = _kafka_children.get((topic, outcome))
            if child is None:
                child = _kafka_children[topic, outcome] = _kafka_records.labels(topic, outcome)
            child.inc(n)


def kafka_lag(topic: str, partition: int, records: int) -> None:
    """How far this node is behind the end of a partition's log."""
    _kafka_lag.labels(topic, str(partition)).set(records)


def kafka_rebalanced() -> None:
    """The group assigned partitions again."""
    _kafka_rebalances.inc()


def kafka_rewound() -> None:
    """A partition is read again from an earlier offset."""
    _kafka_rewinds.inc()


def kafka_missed(topic: str, n: int) -> None:
    """``n`` records were gone before they were read."""
    _kafka_missed.labels(topic).inc(n)


def kafka_stopped(partitions: int) -> None:
    """How many partitions are stopped."""
    _kafka_stopped.set(partitions)


def topic_work_failed() -> None:
    """A shell task that came by the execution topic failed; it is not tried again."""
    _topic_work_failed.inc()


def topic_work_dropped(reason: str) -> None:
    """A message on the execution topic that calls itself a command was not run."""
    _topic_work_dropped.labels(reason).inc()


def rpc_done(method: str, code: str) -> None:
    """One gRPC call. ``method`` is one that is served, ``code`` the status's name."""
    child = _rpc_children.get((method, code))
    if child is None:
        child = _rpc_children[method, code] = _rpcs.labels(method, code)
    child.inc()


def stored(*, pending: int, ready: int, in_flight: int, dead: int, quarantined: int, estimated: bool = False) -> None:
    """The store's counts at this scrape. ``estimated``: pending and ready are about that many."""
    _store_up.set(1)
    _estimated.set(estimated)
    counts = {"pending": pending, "ready": ready, "in_flight": in_flight, "dead": dead, "quarantined": quarantined}
    for name, value in counts.items():
        _stored[name].set(value)


def forecast(due: Mapping[str, int], needed: Mapping[str, int], running: Mapping[str, int]) -> None:
    """How many tasks become due within each window, and how many processes of each kind are needed for them and run."""
    for window, count in due.items():
        _due_soon.labels(window).set(count)
    for kind, count in needed.items():
        _needed.labels(kind).set(count)
    for kind, count in running.items():
        _running.labels(kind).set(count)


def store_down() -> None:
    """The store did not answer this scrape, and the counts keep their last values; or it takes no new tasks."""
    _store_up.set(0)


def store_lost(lost: bool) -> None:
    """Whether the store that this node works for is gone from its server."""
    _store_lost.set(lost)


def render(more: Collector | None = None) -> bytes:
    """Everything in Prometheus's text format, summed over the processes that share the directory; and ``more``."""
    merged = CollectorRegistry()
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if not directory or not Path(directory).is_dir():
        merged.register(_registry)
    else:
        MultiProcessCollector(merged, path=directory)  # type: ignore[no-untyped-call]
    if more is not None:
        merged.register(more)
    return generate_latest(merged)


def workers(connected: int, tasks: int) -> None:
    """How many workers there are, and how many tasks they have."""
    _workers.set(connected)
    _worker_tasks.set(tasks)


def worker_lost() -> None:
    """A worker went away with tasks in hand."""
    _lost_workers.inc()
