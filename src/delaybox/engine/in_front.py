"""Finds tasks that came due after a look at a partition and stand in front of what it saw."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from delaybox.core.errors import DelayBoxError, PartAway
from delaybox.core.shares import Waiting
from delaybox.core.stretches import APART_MS
from delaybox.core.task import Priority, TaskType
from delaybox.core.waits import slack_ms
from delaybox.engine.clock_estimate import local_ms
from delaybox.store import keys
from delaybox.store.looks import first, reachable, score
from delaybox.store.servers import Command
from delaybox.store.store import Store

FRESH_MS = 15.0
"""How long a look or a question counts for tasks of any priority."""
CRITICAL_MS = 5.0
"""How long it counts for critical tasks. Whether one has come due since is asked with plain commands, 16 partitions in
less time than a look takes at one: by looks alone half of the critical tasks waited 15 ms to be found."""
MOST_ASKED: Final = 64
"""Partitions of one question."""
_REMEMBERED: Final = 12
"""First tasks of one partition, at most, that are known to be none of this taker's."""


class FirstDue(NamedTuple):
    """The first task of a near index."""

    priority: int
    due_ms: int
    member: bytes

    def before(self, seen: Waiting) -> bool:
        """Whether it stands in front of what was seen in its partition."""
        if not self.priority:
            return not seen.critical
        at = self.due_ms + slack_ms(None, Priority(self.priority))
        return at + APART_MS < min((line.at for line in seen.other_lines if line.tasks), default=math.inf)


class Earlier(NamedTuple):
    """What stands in front in one partition. ``ready``: critical tasks that claims have made ready."""

    heads: list[FirstDue]
    ready: int


class InFront:
    """The questions of one taker, about all partitions of which it knows something: those that it decides about next
    may be others than those it decides about now. ``waiting``: what is known of each.

    While a claim is under way the answer would wait for that, up to 17 ms where claims bring a thousand tasks together,
    and the server would have nothing to do when it comes. So no decision waits for it then: the next one acts on it.
    """

    def __init__(self, store: Store, waiting: Callable[[], Mapping[int, Waiting]], *, guest: bool) -> None:
        self._store = store
        self._waiting = waiting
        self._guest = guest
        self._asking: asyncio.Task[None] | None = None
        self._known_all: dict[int, float] = {}
        """When it became known of each partition what stands in front there; `_known_critical`: of critical tasks."""
        self._known_critical: dict[int, float] = {}
        self._found: dict[int, Earlier] = {}
        self._none_near = False
        """Whether nothing stood in any near index that was asked for last, as where all that waits is ready."""
        self._named: dict[tuple[object, ...], dict[int, list[str]]] = {}
        """The keys that `_any` asks for, by question and partition: to name 80 of them anew took most of its time."""
        self._not_ours: dict[int, list[FirstDue]] = {}
        self._ready_not_ours: dict[int, int] = {}

    async def ask(self, due: Sequence[int], types: str, *, under_way: bool) -> None:
        """Asks what stands in front, where that is not known well enough of these partitions. ``under_way``: whether a
        claim is; then it returns at once."""
        if self._asking is not None and (self._asking.done() or not under_way):
            asking, self._asking = self._asking, None
            await asking
        waiting = self._waiting()
        known = [p for p in due if p in waiting]
        if self._asking is not None or not (priorities := self._open(known)):
            return
        chosen = set(known)
        known += [p for p in waiting if p not in chosen]
        question = self._ask(known[:MOST_ASKED], priorities, types)
        if under_way:
            self._asking = asyncio.create_task(question)
        else:
            await question

    def take(self, due: Iterable[int]) -> dict[int, Earlier]:
        """What was found in these partitions and not taken yet."""
        return {p: self._found.pop(p) for p in due if p in self._found}

    def looked(self, partitions: Iterable[int]) -> None:
        """All that waits there was seen just now."""
        now = local_ms()
        for p in partitions:
            self._known_all[p] = self._known_critical[p] = now
            self._found.pop(p, None)
            self._ready_not_ours.pop(p, None)

    def saw(self, found: Mapping[int, Earlier], looked: Mapping[int, Waiting]) -> None:
        """What looks saw where something was found: what still stands in front of that is none of this taker's."""
        for p, seen in looked.items():
            heads, ready = found[p]
            kept = self._not_ours.get(p, [])[-_REMEMBERED:]
            self._not_ours[p] = kept + [head for head in heads if head.before(seen)]
            if ready and not seen.critical:
                self._ready_not_ours[p] = ready

    def close(self) -> None:
        """Gives up a question under way."""
        if self._asking is not None:
            self._asking.cancel()

    def _open(self, due: Sequence[int]) -> range:
        """The priorities to ask for; none where enough is known."""
        now = local_ms()
        for known, lasts_ms, priorities in (
            (self._known_all, FRESH_MS, range(4)),
            (self._known_critical, CRITICAL_MS, range(1)),
        ):
            if any(now - known.get(p, -math.inf) > lasts_ms for p in due):
                return priorities
        return range(0)

    async def _ask(self, partitions: Sequence[int], priorities: range, types: str) -> None:
        """Notes where a task of these priorities is due now and stands in front of what was seen: a critical one where
        none was seen, another one whose virtual deadline is earlier."""
        try:
            await self._find(partitions, priorities, types)
        except DelayBoxError:
            # The next look says what is wrong.
            pass
        finally:
            now = local_ms()
            for p in partitions:
                self._known_critical[p] = now
                if len(priorities) > 1:
                    self._known_all[p] = now

    async def _find(self, partitions: Sequence[int], priorities: range, types: str) -> None:
        letters = _near_letters(types, guest=self._guest)
        indexes = [(priority, letter) for priority in priorities for letter in letters]
        seen = self._waiting()
        asked = [p for p in partitions if p in seen and (len(priorities) > 1 or not seen[p].critical)]
        if not asked or ((len(priorities) == 1 or self._none_near) and not await self._any(asked, indexes, types)):
            return

        def heads_of(tag: str) -> list[Command]:
            # Claims, this taker's own as well, make ready what is due and not planned: it is in near no more.
            ready = [("ZCARD", keys.active(tag, letter, critical=True)) for letter in types]
            return [*(first(keys.near(tag, *index)) for index in indexes), *ready]

        now, replies = await reachable(self._store, asked, heads_of)
        self._none_near = not any(any(heads) for heads in replies if not isinstance(heads, PartAway))
        # Claims may have taken something meanwhile.
        seen = self._waiting()
        for p, heads in zip(asked, replies, strict=True):
            if isinstance(heads, PartAway) or p not in seen:
                continue
            firsts = [
                FirstDue(priority, score(head), head[0][0] if head else b"")
                for (priority, _), head in zip(indexes, heads[: len(indexes)], strict=True)
            ]
            # A task that others serve may stand in front for long.
            others = self._not_ours.get(p, ())
            in_front = [one for one in firsts if 0 <= one.due_ms <= now and one.before(seen[p]) and one not in others]
            ready = sum(heads[len(indexes) :])
            if in_front or (ready and not seen[p].critical and ready != self._ready_not_ours.get(p)):
                self._found[p] = Earlier(in_front, ready)

    async def _any(self, partitions: Sequence[int], indexes: Sequence[tuple[int, str]], types: str) -> bool:
        """Whether any of these near indexes, or of the sets of critical ready work, holds something: mostly none does,
        and one command for all of them says so. On a cluster it is not asked, because they lie in many slots."""
        if self._store.servers.sharded:
            return True
        known = self._named.setdefault((*indexes, types), {})
        for p in partitions:
            if p not in known:
                tag = self._store.tags[p]
                known[p] = [keys.near(tag, *index) for index in indexes]
                known[p] += [keys.active(tag, letter, critical=True) for letter in types]
        named = [name for p in partitions for name in known[p]]
        return bool(await self._store.servers.ask("EXISTS", *named))


def _near_letters(types: str, *, guest: bool) -> list[str]:
    """The near indexes that claims of these types take from (`whose.near` in lib/served.lua)."""
    worker, http = TaskType.WORKER.value, TaskType.HTTP.value
    if guest and types in (worker, http):
        return [types]
    return ["", *([worker] if worker in types else []), *([http] if not guest and http in types else [])]
