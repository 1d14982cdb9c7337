"""Dead letters in groups: those of one function that failed for the same reason."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from delaybox.core import ids
from delaybox.core.lane import split
from delaybox.core.task import TaskType
from delaybox.service.history import History
from delaybox.store import dead_groups
from delaybox.store.dead_groups import DeadLetter
from delaybox.store.store import MAX_ITEMS, Store

_VARIES = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|0x[0-9a-f]+|\b[0-9a-f]{16,}\b|\d+", re.IGNORECASE
)
_LONGEST = 200
_IN_TIME_S = 5.0
"""After about this time a change of a group ends, done or not: a person waits for it."""


@dataclass(slots=True, kw_only=True)
class DeadGroup:
    """``reason``: of the newest one. ``key``: names the group in calls. Times in ms."""

    key: str
    type: TaskType
    queue: str
    name: str
    reason: str
    count: int = 0
    newest_ms: int = 0
    oldest_ms: int = 0
    sample: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DeadGroups:
    """The largest group first. ``seen``: dead letters looked at, the newest ones; ``total``: how many there are."""

    groups: list[DeadGroup]
    seen: int
    total: int


class GroupChange(NamedTuple):
    """``changed``: how many. ``rest``: 0, or time was over before all dead letters were looked at; then the same call
    with this goes on there, in whichever process."""

    changed: int
    rest: int


class DeadByReason:
    """The groups of one store."""

    def __init__(self, store: Store, history: History) -> None:
        self._store = store
        self._history = history

    async def groups(self) -> DeadGroups:
        """The newest dead letters by type, queue, function and reason; numbers and ids in a reason do not count.
        StoreUnavailable."""
        letters, total = await dead_groups.newest(self._store)
        found: dict[str, DeadGroup] = {}
        for letter in letters:
            key = _key(letter)
            group = found.get(key)
            if group is None:
                try:
                    lane = split(letter.lane)
                except ValueError:
                    continue  # a newer node's task type
                group = found[key] = DeadGroup(
                    key=key, type=lane.type, queue=lane.queue, name=lane.name, reason=letter.reason,
                    newest_ms=letter.died_ms,
                )  # fmt: skip
            group.count += 1
            group.oldest_ms = letter.died_ms
            if len(group.sample) < 3:
                group.sample.append(ids.render(letter.task_id))
        return DeadGroups(sorted(found.values(), key=lambda g: (-g.count, -g.newest_ms)), len(letters), total)

    async def replay(self, key: str, rest: int = 0) -> GroupChange:
        """Brings back all of a group. ``rest``: of the change that it goes on with. StoreUnavailable."""

        async def change(some: Sequence[bytes]) -> int:
            before = await self._history.before_replay(some)
            words = await self._store.replay(some)
            back = [i for i, word in zip(some, words, strict=True) if word == "replayed"]
            self._history.changed(before, back, due_ms=self._store.now_ms())
            return len(back)

        return await self._apply(key, change, rest)

    async def discard(self, key: str, rest: int = 0) -> GroupChange:
        """Deletes all of a group, for good. ``rest``: as `replay`. StoreUnavailable."""

        async def change(some: Sequence[bytes]) -> int:
            return await self._store.discard(ids.partition(some[0]) % self._store.partitions, some)

        return await self._apply(key, change, rest)

    async def _apply(self, key: str, change: Callable[[Sequence[bytes]], Awaitable[int]], first: int) -> GroupChange:
        """All of a partition are found before any is changed, because the list of them moves under a walk. It is walked
        whole, because the next call goes on behind it: others' dead letters in front must not keep it from the last
        ones for ever."""
        begun = time.monotonic()
        changed = 0
        for partition in range(first, self._store.partitions):
            if partition > first and time.monotonic() - begun > _IN_TIME_S:
                return GroupChange(changed, partition)
            mine: list[bytes] = []
            async for letters in dead_groups.of_partition(self._store, partition):
                mine += [letter.task_id for letter in letters if _key(letter) == key]
            for at in range(0, len(mine), MAX_ITEMS):
                changed += await change(mine[at : at + MAX_ITEMS])
        return GroupChange(changed, 0)


def _key(letter: DeadLetter) -> str:
    reason = _VARIES.sub("#", letter.reason[:2_000])[:_LONGEST]
    return f"{letter.lane.hex()}:{reason}"
