"""What is counted of webhooks. Names start with ``delaybox_webhook_``; see `delaybox.metrics`."""

from __future__ import annotations

from functools import cache
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, Summary

from delaybox.metrics.registry import DELIVERY_BUCKETS_MS, REGISTRY
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
    "HTTP tasks that were handed back without a charge, because their host had no room or did not answer.",
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
_hosts: set[str] = set()


def sent(host: str, answer: str, took_s: float | None, late_s: float | None = None, trace: bytes = b"") -> None:
    """A request was sent, or refused (``took_s`` None). ``host``: scheme, name and port.

    ``late_s``: how long after its task was due it began; None: not known. ``trace``: the ``traceparent`` of its firing,
    where that is traced.
    """
    host = _shown(host)
    _answered(host, answer).inc()
    took, late = _of_host(host)
    if took_s is not None:
        _took.observe(took_s)
        took.observe(took_s)
    if late_s is not None:
        _late.observe(late_s)
        late.observe(late_s)
    if trace and took_s is not None:
        examples.keep("delaybox_webhook_seconds", {}, _TOOK_S, took_s, trace.decode())
        if late_s is not None:
            examples.keep("delaybox_webhook_lateness_seconds", {}, _LATE_S, late_s, trace.decode())


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


def hosts_closed(count: int) -> None:
    """How many hosts do not answer."""
    _closed.set(count)


def host_closed(host: str, closed: bool) -> None:
    """A host does not answer any more, or answers again."""
    _host_closed.labels(_shown(host)).inc(1 if closed else -1)
