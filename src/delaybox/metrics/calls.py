"""What is counted of calls: requests over HTTP and gRPC, and the scripts that they run."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from delaybox.metrics.exposition import REGISTRY
from delaybox.metrics.later import Later, taken
from delaybox.metrics.several import observe_several
from delaybox.processes import examples

CALL_BUCKETS_MS: Final[tuple[float, ...]] = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000)
SCRIPT_BUCKETS_MS: Final[tuple[float, ...]] = (0.25, 0.5, 1, 2, 5, 10, 25, 50, 100, 250, 1_000)
_CALL_S: Final = tuple(ms / 1000 for ms in CALL_BUCKETS_MS)
_SCRIPT_S: Final = tuple(ms / 1000 for ms in SCRIPT_BUCKETS_MS)

_script = Histogram(
    "delaybox_script_seconds",
    "Round trip of each server-side script.",
    ["script"],
    buckets=_SCRIPT_S,
    registry=REGISTRY,
)
_script_max = Gauge(
    "delaybox_script_max_seconds",
    "Longest round trip of each script since start.",
    ["script"],
    multiprocess_mode="max",
    registry=REGISTRY,
)
_requests = Counter("delaybox_http_requests", "HTTP requests answered.", ["route", "status"], registry=REGISTRY)
_requests_took = Histogram(
    "delaybox_http_request_seconds",
    "From the head of a request over HTTP until its answer begins, waits that it asks for included.",
    ["method", "route"],
    buckets=_CALL_S,
    registry=REGISTRY,
)
_rpcs = Counter("delaybox_grpc_requests", "gRPC calls ended.", ["method", "code"], registry=REGISTRY)
_rpcs_took = Histogram(
    "delaybox_grpc_request_seconds",
    "From the start of a gRPC call with one answer to its end.",
    ["method"],
    buckets=_CALL_S,
    registry=REGISTRY,
)
_shed = Counter(
    "delaybox_shed_calls",
    "Calls with new tasks that were refused unread, because new tasks waited longer than limits.wait: answered 429, or "
    "RESOURCE_EXHAUSTED.",
    registry=REGISTRY,
)
_request_children: dict[tuple[str, int], Counter] = {}
_took_children: dict[tuple[str, str], Histogram] = {}
_rpc_children: dict[tuple[str, str], Counter] = {}
_rpc_took_children: dict[str, Histogram] = {}
_script_children: dict[str, tuple[Histogram, Gauge]] = {}
_script_longest: dict[str, float] = {}
_script_waiting: deque[tuple[str, float]] = deque()


def script_took(script: str, seconds: float) -> None:
    """One call of a server-side script; it is in the metrics a moment later (`later`)."""
    _script_waiting.append((script, seconds))
    _scripts_later.soon(len(_script_waiting))


def _add_scripts() -> None:
    by_script: dict[str, list[float]] = {}
    for script, seconds in taken(_script_waiting):
        by_script.setdefault(script, []).append(seconds)
    for script, took in by_script.items():
        children = _script_children.get(script)
        if children is None:
            children = _script_children[script] = (_script.labels(script), _script_max.labels(script))
        observe_several(children[0], _SCRIPT_S, took)
        longest = max(took)
        if longest > _script_longest.get(script, -1.0):
            _script_longest[script] = longest
            children[1].set(longest)


_scripts_later: Final = Later(_add_scripts)


def shed() -> None:
    """One call with new tasks was refused unread."""
    _shed.inc()


def requests_done(route: str, status: int, n: int = 1) -> None:
    """``n`` HTTP answers. ``route`` is a pattern, never a path that a caller made up."""
    child = _request_children.get((route, status))
    if child is None:
        child = _request_children[route, status] = _requests.labels(route, str(status))
    child.inc(n)


def requests_took(
    method: str, route: str, seconds: Sequence[float], traceparent: str = "", example_s: float = 0
) -> None:
    """How long answers of one route took. ``traceparent``: of the one that took ``example_s``, if it was in a trace."""
    child = _took_children.get((method, route))
    if child is None:
        child = _took_children[method, route] = _requests_took.labels(method, route)
    observe_several(child, _CALL_S, seconds)
    if traceparent:
        labels = {"method": method, "route": route}
        examples.keep("delaybox_http_request_seconds", labels, _CALL_S, example_s, traceparent)


def rpc_done(method: str, code: str) -> None:
    """One gRPC call. ``method`` is one that is served, ``code`` the status's name."""
    child = _rpc_children.get((method, code))
    if child is None:
        child = _rpc_children[method, code] = _rpcs.labels(method, code)
    child.inc()


def rpcs_took(method: str, seconds: Sequence[float], traceparent: str = "", example_s: float = 0) -> None:
    """How long calls of one method took; not of streams, which last as long as their callers like. ``traceparent``: of
    the one that took ``example_s``, if it was in a trace."""
    child = _rpc_took_children.get(method)
    if child is None:
        child = _rpc_took_children[method] = _rpcs_took.labels(method)
    observe_several(child, _CALL_S, seconds)
    if traceparent:
        examples.keep("delaybox_grpc_request_seconds", {"method": method}, _CALL_S, example_s, traceparent)
