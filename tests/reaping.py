"""Looks of a reaper at the first partition of a `Lab`."""

from __future__ import annotations

from typing import Any

from delaybox.store.store import Reaped
from tests.lab import Lab

LEASE_MS = 15_000


async def reap(lab: Lab, **how: Any) -> Reaped:
    return await lab.store.reap(0, **{"lease_ms": LEASE_MS, "losses_cap": 3, **how})


async def watched(lab: Lab, by_ms: int = LEASE_MS, **how: Any) -> Reaped:
    """So much time goes by while a reaper looks now and then; its last look."""
    seen = await reap(lab, **how)
    while by_ms > 0:
        await lab.move(min(by_ms, LEASE_MS // 4))
        by_ms -= LEASE_MS // 4
        seen = await reap(lab, **how)
    return seen
