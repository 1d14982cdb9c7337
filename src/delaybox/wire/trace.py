"""The trace that a request belongs to (W3C Trace Context, and Baggage). It is stored with the task, so that its doer
can go on from it.

It lies among the task's headers, so it goes wherever these go: through retries, moves, replays and hand-overs, and to
every target. Trace headers are no part of what an idempotency key stands for: the same task may be asked for in another
trace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from delaybox.core.limits import MAX_BAGGAGE_BYTES, MAX_TRACESTATE_BYTES

PARENT: Final = "traceparent"
STATE: Final = "tracestate"
BAGGAGE: Final = "baggage"
NAMES: Final = frozenset({PARENT, STATE, BAGGAGE})

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE = re.compile(rb"[\x20-\x7e]{1,%d}" % MAX_TRACESTATE_BYTES)
_BAGGAGE = re.compile(rb"[\x20-\x7e]{1,%d}" % MAX_BAGGAGE_BYTES)
_NONE: Mapping[str, bytes] = MappingProxyType({})


def trace_of(parent: bytes, state: bytes = b"", baggage: bytes = b"") -> Mapping[str, bytes]:
    """The headers of a task in that trace. Empty for an invalid trace, which the standard ignores; an invalid or too
    large tracestate or baggage is left out."""
    if _PARENT.fullmatch(parent) is None:
        return _NONE
    trace = {PARENT: parent}
    if state and _STATE.fullmatch(state) is not None:
        trace[STATE] = state
    if baggage and _BAGGAGE.fullmatch(baggage) is not None:
        trace[BAGGAGE] = baggage
    return trace


def trace_in(given: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """The trace among a task's headers, or among those of a request; empty where there is no valid one."""
    parent = given.get(PARENT)
    return trace_of(parent, given.get(STATE, b""), given.get(BAGGAGE, b"")) if parent else _NONE


def handed_out(header: Mapping[str, bytes], firing: bytes) -> Mapping[str, bytes]:
    """A task's headers as its doer gets them: where its firing is traced (``firing``: that ``traceparent``), the doer
    goes on from there, and the firing is linked to the scheduling."""
    if not firing:
        return header
    return {**{name: value for name, value in header.items() if name != STATE}, PARENT: firing}
