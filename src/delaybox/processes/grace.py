"""How long the processes of a node have to finish, and which of them end first."""

from __future__ import annotations

from typing import Final

from delaybox.processes.spawn import KILL_AFTER_S
from delaybox.processes.spec import ProcessKind

STOP_S: Final = 8.0
"""A node has stopped after this time, inside the 10 s after which many supervisors kill it."""
CALLERS_FIRST_S: Final = 1.0
"""Processes that serve callers end this much before the engines, which their last requests may wait for."""
CALLERS: Final = (ProcessKind.REST, ProcessKind.GRPC, ProcessKind.KAFKA, ProcessKind.DASHBOARD)
ENGINES: Final = (ProcessKind.CLOCK, ProcessKind.WORK, ProcessKind.WEBHOOK)
_MARGIN_S: Final = 0.5


def grace_s(kind: ProcessKind) -> float:
    """How long a process has to finish, so that all have ended when the node has to."""
    left_s = STOP_S - _MARGIN_S - KILL_AFTER_S
    return left_s if kind in CALLERS else left_s - CALLERS_FIRST_S
