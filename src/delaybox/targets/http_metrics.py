"""What is counted of webhooks. Names start with ``delaybox_webhook_``; see `delaybox.metrics`."""

from __future__ import annotations

from collections import Counter as Counted
from collections import deque
from functools import cache
from typing import Final, NamedTuple

from prometheus_client import Counter, Gauge, Histogram, Summary

from delaybox.metrics.exposition import DELIVERY_BUCKETS_MS, REGISTRY
from delaybox.metrics.later import Later, taken
from delaybox.metrics.several import observe_several
from delaybox.metrics.tasks import LATENESS_BUCKETS_MS
from delaybox.processes import examples

_MOST_HOSTS: Final = 100
"""Hosts of webhooks with a series of their own, in each process."""

_TOOK_S: Final = tuple(ms / 1000 for ms in (*DELIVERY_BUCKETS_MS, 30_000, 60_000))
_LATE_S: Final = tuple(ms / 1000 for ms in LATENESS_BUCKETS_MS)
_requests = Counter(
    "delaybox_webhook_requests",
    "Requests of HTTP tasks, by the host (the first 100 and others) and the class of the answer: 2xx, 3xx, 4xx, 5xx, "
    "no_answer, or refused (its host may not be called).",
    ["host", "answer"],
    registry=REGISTRY,
)
_took = Histogram(
    "delaybox_webhook_seconds",
    "From the start of a request, its connection included, to the end of its answer.",
    buckets=_TOOK_S,
    registry=REGISTRY,
)
_late = Histogram(
    "delaybox_webhook_lateness_seconds",
    "From the time at which a task was due to the start of its request.",
    buckets=_LATE_S,
    registry=REGISTRY,
)
_host_took = Summary(
    "delaybox_webhook_host_seconds",
    "The same as delaybox_webhook_seconds, by the host.",
    ["host"],
    registry=REGISTRY,
)
_host_late = Summary(
    "delaybox_webhook_host_lateness_seconds",
    "The same as delaybox_webhook_lateness_seconds, by the host.",
    ["host"],
    registry=REGISTRY,
)
_put_off = Counter(
    "delaybox_webhook_put_off_tasks",
    "HTTP tasks that were handed back unsent and uncharged: no room, no answer lately, or a wait that was asked for.",
    registry=REGISTRY,
)
_closed = Gauge(
    "delaybox_webhook_hosts_closed",
    "Hosts to which only probes are sent, because they do not answer.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
_host_closed = Gauge(
    "delaybox_webhook_host_closed",
    "1 for a host to which only probes are sent, because it does not answer.",
    ["host"],
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
_host_waiting = Gauge(
    "delaybox_webhook_host_waiting_tasks",
    "HTTP tasks that wait in the store because their host does not answer, by the host; as far as processes that put "
    "them off remember them.",
    ["host"],
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
_hosts: set[str] = set()


class _Sent(NamedTuple):
    """A request that is not counted yet."""

    host: str
    answer: str
    took_s: float | None
    late_s: float | None


_waiting: deque[_Sent] = deque()


def sent(host: str, answer: str, took_s: float | None, late_s: float | None = None, trace: bytes = b"") -> None:
    """A request was sent, or refused (``took_s`` None). It is in the metrics a moment later (`metrics.later`).

    ``host``: scheme, name and port.

    ``late_s``: how long after its task was due it began; None: not known. ``trace``: the ``traceparent`` of its firing,
    where that is traced.
    """
    _waiting.append(_Sent(host, answer, took_s, late_s))
    _later.soon(len(_waiting))
    if trace and took_s is not None:
        examples.keep("delaybox_webhook_seconds", {}, _TOOK_S, took_s, trace.decode())
        if late_s is not None:
            examples.keep("delaybox_webhook_lateness_seconds", {}, _LATE_S, late_s, trace.decode())


def add() -> None:
    """Adds what was sent so far to the metrics."""
    by_answer: Counted[tuple[str, str]] = Counted()
    by_host: dict[str, tuple[list[float], list[float]]] = {}
    for one in taken(_waiting):
        host = _shown(one.host)
        by_answer[host, one.answer] += 1
        took, late = by_host.setdefault(host, ([], []))
        if one.took_s is not None:
            took.append(one.took_s)
        if one.late_s is not None:
            late.append(one.late_s)
    for (host, answer), count in by_answer.items():
        _answered(host, answer).inc(count)
    for host, (took, late) in by_host.items():
        host_took, host_late = _of_host(host)
        for all_, of_host, bounds, seconds in ((_took, host_took, _TOOK_S, took), (_late, host_late, _LATE_S, late)):
            observe_several(all_, bounds, seconds)
            of_host._count.inc(len(seconds))
            of_host._sum.inc(sum(seconds))


_later: Final = Later(add)


# Looking labels up anew takes longer than counting.


@cache
def _answered(host: str, answer: str) -> Counter:
    return _requests.labels(host, answer)


@cache
def _of_host(host: str) -> tuple[Summary, Summary]:
    return _host_took.labels(host), _host_late.labels(host)


def _shown(host: str) -> str:
    if host not in _hosts:
        if len(_hosts) >= _MOST_HOSTS:
            return "others"
        _hosts.add(host)
    return host


def put_off() -> None:
    """A task was handed back, because its host takes nothing now."""
    _put_off.inc()


def waiting(host: str, more: int) -> None:
    """So many more tasks wait for a host that does not answer, or fewer where it is below 0."""
    _host_waiting.labels(_shown(host)).inc(more)


def hosts_closed(count: int) -> None:
    """How many hosts do not answer."""
    _closed.set(count)


def host_closed(host: str, closed: bool) -> None:
    """A host does not answer any more, or answers again."""
    _host_closed.labels(_shown(host)).inc(1 if closed else -1)
