"""Since when the first in line of each lane waits."""

from __future__ import annotations

from typing import NamedTuple

from delaybox.store.loader import ScriptCall
from delaybox.store.store import Store


class Oldest(NamedTuple):
    """One look. ``calls``: how many looks it takes to see every lane; 1: this one saw all. ``due_ms``: by lane, when
    the first in line became due."""

    now_ms: int
    calls: int
    due_ms: dict[bytes, int]


async def oldest(store: Store, turn: int) -> Oldest:
    """Looks at every partition. ``turn``: a caller counts it up, so that where very many lanes wait each is seen in its
    turn. StoreUnavailable."""
    found: dict[bytes, int] = {}
    now_ms, calls = 0, 1
    scripts = [ScriptCall("oldest", tag, (store.bucket_ms, turn)) for tag in store.tags]
    for reply in await store.runner.run_many(scripts):
        if isinstance(reply, BaseException):
            raise reply
        now_ms, calls = max(now_ms, reply[0]), max(calls, reply[1])
        for lane, due_ms in zip(reply[2::2], reply[3::2], strict=True):
            found[lane] = min(due_ms, found.get(lane, due_ms))
    return Oldest(now_ms, calls, found)
