"""Keeps Python's cyclic garbage collector out of the way of what must be on time."""

from __future__ import annotations

import gc


def set_apart() -> None:
    """All there is now lives as long as the process: it is looked through no more.

    Called when everything is imported. The first full collection after that took 25 to 50 ms, of tasks that were due.
    """
    gc.collect()
    gc.freeze()


def slow_down() -> None:
    """Requests and tasks leave no cycles behind, so looking for some after every 700 allocations is work for nothing.

    Only for processes that run our code alone.
    """
    gc.set_threshold(50_000, 20, 100)
