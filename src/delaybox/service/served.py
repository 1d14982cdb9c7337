"""Who serves which tasks now: the lanes of living nodes and connected workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from delaybox.core.lane import ANY_QUEUE, WITH_PLACES, lane_of, split, without_needs
from delaybox.core.membership import Activity, Member
from delaybox.core.needs import MARK, NO_NEEDS, WorkerNeeds
from delaybox.core.task import TaskType
from delaybox.store import nodes
from delaybox.store.store import Store

LIVE_NODE_MS = 10_000
SERVING_MS = 5_000
"""A node whose last heartbeat is older than this counts as gone: heartbeats come once a second."""


async def living(store: Store, within_ms: int = SERVING_MS) -> list[Member]:
    """The living members: unless asked otherwise, those that carry out the tasks they announce."""
    now = await store.ping()
    return [member for member in await nodes.live(store) if abs(now - member.seen_ms) <= within_ms]


@dataclass(frozen=True, slots=True)
class Served:
    """The lanes that living nodes and connected workers serve. ``workers`` None: some serve too many lanes to list
    them.

    ``others``: by the letter of a type, the lanes that its nodes are limited to (ANY_QUEUE for the queue); None: all.
    """

    workers: frozenset[bytes] | None
    others: Mapping[str, frozenset[bytes] | None]
    having: Sequence[Activity] = ()
    """Of members that workers are connected to."""
    carrying: Sequence[Activity] = ()
    """Of members that carry out tasks of other types."""

    @classmethod
    def by(cls, found: Iterable[Member]) -> Served:
        """By what living members report."""
        members = list(found)
        lanes: set[bytes] = set()
        complete = True
        others: dict[str, frozenset[bytes] | None] = {}
        for member in members:
            activity = member.activity
            complete = complete and len(activity.lanes) >= activity.lane_count
            lanes.update(activity.lanes)
            for letter in activity.types:
                own = frozenset(lane for lane in activity.limits if lane.startswith(letter.encode()))
                known = others.get(letter, frozenset())
                others[letter] = known | own if own and known is not None else None
        having = [member.activity for member in members if member.activity.workers]
        carrying = [member.activity for member in members if member.activity.types]
        return cls(frozenset(lanes) if complete else None, others, having, carrying)

    def lanes(self) -> list[bytes]:
        """What is served of each type of which not every lane is: its lanes, and its letter with the mark of needs."""
        worker = TaskType.WORKER.value
        by_type = {one.value: self.others.get(one.value, frozenset[bytes]()) for one in WITH_PLACES}
        # Whoever carries out such tasks and names no lane takes all of them.
        any_lane = any(worker in activity.types and not activity.lane_count for activity in self.carrying)
        by_type[worker] = None if any_lane else self.workers
        some = [(letter, lanes) for letter, lanes in sorted(by_type.items()) if lanes is not None]
        return [one for letter, lanes in some for one in (f"{letter}{MARK}".encode(), *sorted(lanes))]

    def has(self, lane: bytes) -> bool:
        """Whether any node or worker serves this lane, as far as known."""
        letter = chr(lane[0])
        if letter == TaskType.WORKER.value:
            among = self.workers
        elif letter in self.others:
            among = self.others[letter]
        else:
            return False
        if letter == TaskType.WORKER.value and (among is None or lane in among):
            return True
        try:
            parts = split(lane)
        except ValueError:
            return True  # a newer node's task type, or needs
        if letter != TaskType.WORKER.value and parts.needs.cost > 1:
            return self._has_places(letter, lane)
        if among is None or lane in among:
            return True
        if parts.needs != NO_NEEDS:
            return self._has_needs(lane, parts.needs)
        return lane_of(parts.type, ANY_QUEUE, parts.name) in among

    def _has_places(self, letter: str, lane: bytes) -> bool:
        """Whether a process that carries such tasks out has as many places as one costs."""
        parts = split(lane)
        plain = lane_of(parts.type, ANY_QUEUE, parts.name)
        return any(
            activity.places.get(letter, parts.needs.cost) >= parts.needs.cost
            and (plain in activity.limits or not any(chr(one[0]) == letter for one in activity.limits))
            for activity in self.carrying
            if letter in activity.types
        )

    def _has_needs(self, lane: bytes, needs: WorkerNeeds) -> bool:
        """Whether a worker of the lane's function has what its tasks need. Members list such lanes when they have met
        them, so until then it is judged by what their workers announced."""
        plain = without_needs(lane)
        return any(
            activity.worker_count > len(activity.workers)
            or any(needs.run_by(w.labels, w.places or w.concurrency) for w in activity.workers)
            for activity in self.having
            if plain in activity.lanes
        )
