"""What is shown of the store at each scrape, and of the connections to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter, Gauge

from delaybox.metrics.exposition import REGISTRY

_doubts = Counter(
    "delaybox_store_doubts",
    "Times the connections to the server were given up, because it was a read-only replica, still loading, or silent.",
    registry=REGISTRY,
)
_unconfirmed = Counter(
    "delaybox_unconfirmed",
    "Batches of writes that were stored, but not confirmed in time as durability.mode asks: answered 503 unconfirmed.",
    registry=REGISTRY,
)
_store_up = Gauge(
    "delaybox_store_up",
    "1 when the store answered the last scrape (of a cluster, one server at least), and took new tasks.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
_away = Gauge(
    "delaybox_store_partitions_away",
    "Partitions whose server did not answer the last scrape; the counts of tasks leave them out.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
_estimated = Gauge(
    "delaybox_task_counts_estimated",
    "1 while pending and ready tasks are estimated: a partition's lie in over 500 minutes, or in over 200 ready lanes.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
_store_lost = Gauge(
    "delaybox_store_lost",
    "1 while the server answers without this node's store: it was emptied, or holds another one.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
_stored: Final[dict[str, Gauge]] = {
    name: Gauge(f"delaybox_{name}_tasks", text, multiprocess_mode="mostrecent", registry=REGISTRY)
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
    registry=REGISTRY,
)
_needed = Gauge(
    "delaybox_needed_members",
    "Processes that all nodes together need now, by kind; see /v1/scaling for the terms.",
    ["kind"],
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
_running = Gauge(
    "delaybox_running_members",
    "Processes of all nodes that live, by kind.",
    ["kind"],
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)

_file_ok = Gauge(
    "delaybox_store_file_ok",
    "0 while a server of the store cannot write or rewrite its append-only file; 1 otherwise, also where it keeps "
    "none.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
_replicas = Gauge(
    "delaybox_store_replicas",
    "Replicas that follow the servers of the store: online, and heard of within 10 s.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
_memory = Gauge(
    "delaybox_store_memory_bytes",
    "Memory that the servers of the store use, replicas not counted.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
_memory_ratio = Gauge(
    "delaybox_store_memory_ratio",
    "What the fullest server of the store uses of its maxmemory, or of its machine's memory where none is set: 1 is "
    "full.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
_offset = Gauge(
    "delaybox_clock_offset_seconds",
    "The clock of the store's server minus this machine's; of several servers the one that is furthest off.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
_unserved = Gauge(
    "delaybox_unserved_kinds",
    "Kinds of due tasks (type, function and queue) that no living node and no connected worker serves.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)


def store_doubted() -> None:
    """All connections to the server are opened again."""
    _doubts.inc()


def unconfirmed(batches: int) -> None:
    """So many batches of writes are stored, and not confirmed."""
    _unconfirmed.inc(batches)


def stored(
    *, pending: int, ready: int, in_flight: int, dead: int, quarantined: int, estimated: bool = False, away: int = 0
) -> None:
    """The store's counts at this scrape. ``estimated``: pending and ready are about that many. ``away``: so many
    partitions are not counted."""
    _store_up.set(1)
    _estimated.set(estimated)
    _away.set(away)
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


def store_health(
    *,
    file_ok: bool,
    replicas: int,
    memory_bytes: int,
    memory_ratio: float,
    clock_offset_s: float,
    unserved: int,
) -> None:
    """How the servers are at this scrape, and how many kinds of due tasks nobody serves."""
    _file_ok.set(file_ok)
    _replicas.set(replicas)
    _memory.set(memory_bytes)
    _memory_ratio.set(memory_ratio)
    _offset.set(clock_offset_s)
    _unserved.set(unserved)


def store_down() -> None:
    """The store did not answer this scrape, and the counts keep their last values; or it takes no new tasks."""
    _store_up.set(0)


def store_lost(lost: bool) -> None:
    """Whether the store that this node works for is gone from its server."""
    _store_lost.set(lost)
