"""What is counted of webhooks. Names start with ``delaybox_webhook_``; see `delaybox.metrics`."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from delaybox.metrics.registry import DELIVERY_BUCKETS_MS, REGISTRY

_MOST_HOSTS: Final = 100
"""Hosts of webhooks with a series of their own, in each process."""

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
    buckets=[ms / 1000 for ms in (*DELIVERY_BUCKETS_MS, 30_000, 60_000)],
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
_hosts: set[str] = set()


def sent(host: str, answer: str, took_s: float | None) -> None:
    """A request was sent, or refused (``took_s`` None). ``host``: scheme, name and port."""
    if host not in _hosts:
        if len(_hosts) < _MOST_HOSTS:
            _hosts.add(host)
        else:
            host = "others"
    _requests.labels(host, answer).inc()
    if took_s is not None:
        _took.observe(took_s)


def put_off() -> None:
    """A task was handed back, because its host takes nothing now."""
    _put_off.inc()


def hosts_closed(count: int) -> None:
    """How many hosts do not answer."""
    _closed.set(count)
