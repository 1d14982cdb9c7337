"""How many tasks become due soon, step by step, and of which lanes they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from delaybox.core.task import TaskType
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.record import of_hint
from delaybox.store.servers import Command
from delaybox.store.store import Store

MAX_STEPS = 60
_SAMPLE = 500
"""Most entries of a near index of one partition that are looked at for their lanes."""


@dataclass(frozen=True, slots=True)
class Upcoming:
    """Tasks that become due in each step, all types together, and of these before the horizon the WORKER tasks and the
    HTTP tasks (``hooks``)."""

    now_ms: int
    steps: tuple[int, ...]
    workers: tuple[int, ...]
    hooks: tuple[int, ...]


async def upcoming(store: Store, step_ms: int, steps: int) -> Upcoming:
    """Counts ``steps`` steps from now on, MAX_STEPS at most. StoreUnavailable."""
    calls = [ScriptCall("upcoming", tag, (step_ms, steps, store.bucket_ms)) for tag in store.tags]
    replies = await store.runner.run_many(calls)
    sums = [0] * (3 * steps)
    now_ms = 0
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
        now_ms = max(now_ms, int(reply[0]))
        for at, count in enumerate(reply[1:]):
            sums[at] += count
    return Upcoming(now_ms, tuple(sums[::3]), tuple(sums[1::3]), tuple(sums[2::3]))


async def lanes_due(store: Store, from_ms: int, to_ms: int) -> Counter[bytes]:
    """WORKER tasks that become due in a time before the horizon, by lane. Of an index with very many the first ones
    stand for the others, so that lanes with other times can be shown with too few. StoreUnavailable."""
    asked: list[Command] = []
    for tag in store.tags:
        for priority in range(4):
            near = keys.near(tag, priority, TaskType.WORKER.value)
            asked.append(("ZCOUNT", near, from_ms, f"({to_ms}"))
            asked.append(("ZRANGE", near, from_ms, f"({to_ms}", "BYSCORE", "LIMIT", 0, _SAMPLE))
    replies = await store.servers.ask_many(asked)
    found: Counter[bytes] = Counter()
    for count, members in zip(replies[::2], replies[1::2], strict=True):
        share = max(1.0, count / len(members)) if members else 1.0
        for lane, seen in Counter(of_hint(member)[1] for member in members).items():
            found[lane] += round(seen * share)
    return found
