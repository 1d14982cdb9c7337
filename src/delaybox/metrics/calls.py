"""What is counted of calls: requests over HTTP and gRPC, and the scripts that they run."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Summary

from delaybox.metrics.registry import REGISTRY

_script = Summary("delaybox_script_seconds", "Round trip of each server-side script.", ["script"], registry=REGISTRY)
_script_max = Gauge(
    "delaybox_script_max_seconds",
    "Longest round trip of each script since start.",
    ["script"],
    multiprocess_mode="max",
    registry=REGISTRY,
)
_requests = Counter("delaybox_http_requests", "HTTP requests answered.", ["route", "status"], registry=REGISTRY)
_rpcs = Counter("delaybox_grpc_requests", "gRPC calls ended.", ["method", "code"], registry=REGISTRY)
_request_children: dict[tuple[str, int], Counter] = {}
_rpc_children: dict[tuple[str, str], Counter] = {}
_script_children: dict[str, tuple[Summary, Gauge]] = {}
_script_longest: dict[str, float] = {}


def script_took(script: str, seconds: float) -> None:
    """One call of a server-side script."""
    children = _script_children.get(script)
    if children is None:
        children = _script_children[script] = (_script.labels(script), _script_max.labels(script))
    children[0].observe(seconds)
    if seconds > _script_longest.get(script, -1.0):
        _script_longest[script] = seconds
        children[1].set(seconds)


def requests_done(route: str, status: int, n: int = 1) -> None:
    """``n`` HTTP answers. ``route`` is a pattern, never a path that a caller made up."""
    child = _request_children.get((route, status))
    if child is None:
        child = _request_children[route, status] = _requests.labels(route, str(status))
    child.inc(n)


def rpc_done(method: str, code: str) -> None:
    """One gRPC call. ``method`` is one that is served, ``code`` the status's name."""
    child = _rpc_children.get((method, code))
    if child is None:
        child = _rpc_children[method, code] = _rpcs.labels(method, code)
    child.inc()
