"""Brings back tasks that whoever took them has put off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from delaybox.core.errors import PartAway
from delaybox.store.loader import ScriptCall
from delaybox.store.store import MAX_ITEMS, Store


async def resume(store: Store, put_off: Mapping[int, Sequence[tuple[bytes, int]]]) -> int:
    """Makes tasks due now that still wait for the moment until which they were put off: by partition (id, moment in
    Unix ms). Answers how many did. Those of partitions that are away stay as they are. StoreUnavailable, PartAway where
    all are."""
    calls: list[ScriptCall] = []
    for p, tasks in put_off.items():
        for at in range(0, len(tasks), MAX_ITEMS):
            args = [part for task in tasks[at : at + MAX_ITEMS] for part in task]
            calls.append(ScriptCall("resume", store.tags[p], (store.bucket_ms, store.wakes[p], *args)))
    replies = await store.runner.run_many(calls)
    here = [reply for reply in replies if not isinstance(reply, PartAway)]
    for reply in here or replies:
        if isinstance(reply, BaseException):
            raise reply
    return sum(here)
