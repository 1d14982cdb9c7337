"""How long gRPC calls with one answer took, added to the metrics ten times a second, because a step for each costs
more."""

from __future__ import annotations

import asyncio
from typing import Final

from delaybox import metrics
from delaybox.api.grpc.guard import Context
from delaybox.wire.trace import PARENT, trace_of

_EVERY_S: Final = 0.1
_took: dict[str, list[float]] = {}
_last: dict[str, tuple[Context, float, bytes]] = {}


def one(method: str, seconds: float, context: Context, parent: bytes) -> None:
    """A call ended; it is in the metrics within _EVERY_S. ``parent``: the ``traceparent`` of its span, where it made
    one."""
    if not _took:
        asyncio.get_running_loop().call_later(_EVERY_S, _add)
    known = _took.get(method)
    if known is None:
        _took[method] = [seconds]
    else:
        known.append(seconds)
    # Only looked at for the one that is an example.
    _last[method] = (context, seconds, parent)


def _add() -> None:
    for method, seconds in _took.items():
        context, example_s, parent = _last[method]
        metrics.rpcs_took(method, seconds, parent.decode() or _parent(context), example_s)
    _took.clear()
    _last.clear()


def _parent(context: Context) -> str:
    """The ``traceparent`` among the metadata of a call; "" where there is no valid one."""
    for name, value in context.invocation_metadata() or ():
        if name == PARENT and isinstance(value, str):
            return trace_of(value.encode("latin-1", "replace")).get(PARENT, b"").decode()
    return ""
