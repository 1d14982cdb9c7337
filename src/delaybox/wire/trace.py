"""The trace that a request belongs to (W3C Trace Context). It travels with the task: whoever does it can go on with it.

A task is the same whatever trace it was asked for in: these headers have no part in what an idempotency key stands for.
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
    """The headers of a task asked for in that trace; empty for what is no trace, which the standard passes over."""
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
