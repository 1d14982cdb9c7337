"""The trace that a request belongs to (W3C Trace Context). It is stored with the task, so that its doer can continue
it.

Trace headers are no part of what an idempotency key stands for: the same task may be asked for in another trace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from delaybox.core.task import NewTask

PARENT: Final = "traceparent"
STATE: Final = "tracestate"
NAMES: Final = frozenset({PARENT, STATE})

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE = re.compile(rb"[\x20-\x7e]{1,512}")
_NONE: Mapping[str, bytes] = MappingProxyType({})


def trace_of(parent: bytes, state: bytes) -> Mapping[str, bytes]:
    """The headers of a task in that trace. Empty for an invalid trace, which the standard ignores."""
    if _PARENT.fullmatch(parent) is None:
        return _NONE
    if _STATE.fullmatch(state) is None:
        return {PARENT: parent}
    return {PARENT: parent, STATE: state}


def with_trace(task: NewTask, trace: Mapping[str, bytes]) -> NewTask:
    """The same task, in that trace. What its caller put into its headers stays."""
    if not trace or PARENT in task.header:
        return task
    return replace(task, header={**task.header, **trace})
