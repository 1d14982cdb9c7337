"""A process in which new tasks wait too long."""

from __future__ import annotations

from collections.abc import Callable

from delaybox.service.shedding import Shedding


def overloaded(on_refused: Callable[[], None] | None = None) -> Shedding:
    """One that refuses every call for a few seconds."""
    shedding = Shedding(0.1, on_refused=on_refused)
    shedding.waited(0.0)
    shedding.bound = 0
    return shedding
