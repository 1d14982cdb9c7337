"""Why a due task waits: which nodes and workers serve which tasks now. And how far a running task is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from msgspec.structs import replace

from delaybox.core import ids
from delaybox.core.errors import InvalidTask
from delaybox.core.lane import ANY_QUEUE, WITH_PLACES, Lane, cost_of, lane_of, split, without_needs
from delaybox.core.membership import Activity, Member
from delaybox.core.needs import MARK, NO_NEEDS, WorkerNeeds
from delaybox.core.task import TaskState, TaskType, TaskView
from delaybox.core.webhook import url_of
from delaybox.store import nodes, progress
from delaybox.store.lanes import waiting
from delaybox.store.store import Store
from delaybox.wire import progress as wire_progress

LIVE_NODE_MS = 10_000
SERVING_MS = 5_000
"""A node whose last heartbeat is older than this counts as gone: heartbeats come once a second."""
_CARRIED_OUT = {TaskType.SHELL_CMD: "shell", TaskType.HTTP: "http"}
"""Types whose tasks processes of nodes carry out, as callers name them."""
_FRESH_S = 1.0
_WAITS_FRESH_S = 2.0
_LANES_NAMED = 5


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
            if cost_of(lane) > 1:
                return self._has_places(letter, lane)
            among = self.others[letter]
        else:
            return False
        if among is None or lane in among:
            return True
        try:
            parts = split(lane)
        except ValueError:
            return True  # a newer node's task type
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


def _by_function(lanes: frozenset[bytes]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for lane in sorted(lanes):
        _, queue, name, _ = split(lane)
        found.setdefault(name, []).append(queue)
    return found


class Serving:
    """Completes views of worker tasks. Heartbeats are read again after a second."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._served = Served(None, {})
        self._until = 0.0
        self._queues_known: Served | None = None
        self._queues_of: dict[str, list[str]] = {}
        self._waits: list[str] = []
        self.kinds_unserved = 0
        """How many kinds of due tasks nobody served when `unserved` was last asked."""
        self._waits_until = 0.0
        self._turn = 0

    async def completed(self, view: TaskView) -> TaskView:
        """Adds the reason why a READY task waits, and the progress of a RUNNING one. StoreUnavailable."""
        if view.type is not TaskType.WORKER:
            if view.type in _CARRIED_OUT and view.state is TaskState.READY:
                served, lane = await self._known(), lane_of(view.type, view.queue, view.name)
                if not served.has(lane):
                    return replace(view, reason=carried_out_nowhere(view.type, view.name))
                if not served.has(lane_of(view.type, view.queue, view.name + view.needs.text())):
                    return replace(view, reason=without_places(view.type, view.name, view.needs))
            return view
        if view.state is TaskState.READY:
            served, lane = await self._known(), lane_of(view.type, view.queue, view.name)
            if not served.has(lane):
                return replace(view, reason=unserved(view.name, view.queue))
            if view.needs != NO_NEEDS and not served.has(lane + view.needs.text().encode()):
                return replace(view, reason=lacking(view.name, view.queue, view.needs))
        elif view.state is TaskState.RUNNING:
            (noted,) = await progress.of(self._store, [ids.parse(view.task_id)])
            if noted is not None:
                try:
                    return replace(view, progress=wire_progress.decode(noted))
                except DecodeError:
                    return view
        return view

    async def all_completed(self, views: list[TaskView]) -> list[TaskView]:
        """The views; those of due tasks that nobody serves with that reason. StoreUnavailable."""
        return [await self.completed(view) if view.state is TaskState.READY else view for view in views]

    async def elsewhere(self, name: str, queue: str) -> str:
        """A warning when workers serve that function, but from other queues only, so that the task will hardly be run.
        '' where one serves it, or none is known that serves the function at all. StoreUnavailable."""
        served = await self._known()
        if served.workers is None or served.has(lane_of(TaskType.WORKER, queue, name)):
            return ""
        if self._queues_known is not served:
            self._queues_known, self._queues_of = served, _by_function(served.workers)
        queues = self._queues_of.get(name)
        if not queues:
            return ""
        shown = ", ".join(queues[:_LANES_NAMED])
        return (
            f"connected workers serve function {name!r} from queue {shown}, none from {queue!r}: the task waits until "
            "one does; name the queue, or none where the function has its own"
        )

    async def unserved(self) -> list[str]:
        """Sentences about due tasks that nobody serves, by type, function and queue; some seconds old."""
        if time.monotonic() >= self._waits_until:
            self._turn += 1
            lanes = await waiting(self._store, await self._store.ping(), self._turn)
            served = await self._known()
            left = [(lane, count) for lane, count in sorted(lanes.items()) if not served.has(lane)]
            self.kinds_unserved = len(left)
            self._waits = [_waits(split(lane), count) for lane, count in left[:_LANES_NAMED]]
            if len(left) > _LANES_NAMED:
                self._waits.append(f"{len(left) - _LANES_NAMED} more kinds of tasks wait likewise")
            self._waits_until = time.monotonic() + _WAITS_FRESH_S
        return self._waits

    async def _known(self) -> Served:
        if time.monotonic() >= self._until:
            self._served = Served.by(await living(self._store))
            self._until = time.monotonic() + _FRESH_S
        return self._served


def unserved(name: str, queue: str) -> str:
    """The reason why a task of that lane waits."""
    return f"waits: no connected worker serves function {name!r} of queue {queue!r}"


def put_off(view: TaskView) -> TaskView:
    """The view of a webhook that waits because it was handed back when it was handed out last, with that reason."""
    if view.state is not TaskState.SCHEDULED or view.webhook is None or view.reason:
        return view
    # A task that was brought back counts its attempts anew, and of very many failures not all are remembered.
    failed = max(view.attempt + view.losses, view.failures[-1].delivery if view.failures else 0)
    if view.deliveries <= failed:
        return view
    try:
        host = url_of(view.webhook.url).place
    except InvalidTask:
        host = "its host"
    why = f"when it was to be sent last, {host} did not answer, had no room or asked for a wait (Retry-After)"
    return replace(view, reason=f"{why}; it was put off, which costs no attempt")


def lacking(name: str, queue: str, needs: WorkerNeeds) -> str:
    """The reason why a task waits whose function is served, but by no worker that has what the task needs."""
    return f"waits: no connected worker that serves function {name!r} of queue {queue!r} has {needs.describe()}"


def carried_out_nowhere(task_type: TaskType, name: str) -> str:
    """The reason why a command or webhook waits that no process runs."""
    if name:
        return f"waits: no living node runs command {name!r}"
    setting = "webhooks.enabled" if task_type is TaskType.HTTP else "workers.shell.enabled"
    return f"waits: no living node carries out {_CARRIED_OUT[task_type]} tasks; start one with {setting}: true"


def without_places(task_type: TaskType, name: str, needs: WorkerNeeds) -> str:
    """The reason why a command or webhook waits that costs more places than any process has."""
    what = f"runs command {name!r}" if name else f"carries out {_CARRIED_OUT[task_type]} tasks"
    return f"waits: no living node that {what} has {needs.describe()}"


def functions_unserved(lanes: Sequence[bytes], served: Served) -> tuple[str, ...]:
    """The functions and commands of lanes that nobody serves, with what their tasks need of a worker."""
    found: set[str] = set()
    for lane in lanes:
        parts = split(lane)
        name = parts.name or _CARRIED_OUT.get(parts.type, "")
        if name and not served.has(lane):
            found.add(name if parts.needs == NO_NEEDS else f"{name} (needs {parts.needs.describe()})")
    return tuple(sorted(found))


def _waits(lane: Lane, count: int) -> str:
    many = f"{count:,} {lane.type.name} " + ("task" if count == 1 else "tasks")
    where = f"in queue {lane.queue!r}"
    if lane.type is TaskType.WORKER:
        lacks = f" with {lane.needs.describe()}" if lane.needs != NO_NEEDS else ""
        return f"{many} of function {lane.name!r} {where} wait: no connected worker{lacks} serves it"
    having = f" with {lane.needs.describe()}" if lane.needs != NO_NEEDS else ""
    if lane.name:
        return f"{many} of command {lane.name!r} {where} wait: no living node{having} runs it"
    return f"{many} {where} wait: no living node{having} carries them out"
