"""The trace that an HTTP request belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from delaybox.api.rest.asgi import Headers
from delaybox.wire.trace import trace_of

_NONE: Mapping[str, bytes] = MappingProxyType({})


def trace_of_request(headers: Headers) -> Mapping[str, bytes]:
    """The headers of a task in that trace; empty where the request names none."""
    parent = headers.get(b"traceparent")
    if parent is None:
        return _NONE
    return trace_of(parent, headers.get(b"tracestate", b""), headers.get(b"baggage", b""))
