"""Announcements of functions' own queues while the store is away."""

from __future__ import annotations

from delaybox.store import functions


def test_what_waits_for_the_store_is_bounded() -> None:
    waiting: dict[str, str] = {}
    for worker in range(15):
        waiting = functions.waiting(waiting, {f"f{worker}_{n}": "q" for n in range(1_000)})
    assert len(waiting) == functions.MOST
    assert functions.waiting(waiting, {"f0_0": "later"})["f0_0"] == "later"
