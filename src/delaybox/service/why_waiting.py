"""Why a due task waits: nobody serves it, its queue is paused or at a limit, its host put it off. And how far a running
task is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from google.protobuf.message import DecodeError
from msgspec.structs import replace

from delaybox.core import ids
from delaybox.core.errors import InvalidTask
from delaybox.core.lane import Lane, lane_of, split
from delaybox.core.needs import NO_NEEDS, WorkerNeeds
from delaybox.core.queue import NO_RULES, OTHERS, QueueRules, Ramp
from delaybox.core.queue_limits import Pool, Rate
from delaybox.core.task import TaskState, TaskType, TaskView
from delaybox.core.webhook import url_of
from delaybox.service.served import Served, living
from delaybox.store import progress
from delaybox.store.lanes import waiting
from delaybox.store.store import Store
from delaybox.wire import progress as wire_progress

_CARRIED_OUT = {TaskType.SHELL_CMD: "shell", TaskType.HTTP: "http"}
"""Types whose tasks processes of nodes carry out, as callers name them."""
_FRESH_S = 1.0
_WAITS_FRESH_S = 2.0
_LANES_NAMED = 5


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


def by_rules(view: TaskView, stored: Mapping[str, QueueRules], effect: QueueRules) -> str:
    """The reason why a due task waits, with its queue's rules in view: a pause comes first, then what the view says
    (nobody serves it), then limits. ``stored``: all rules; ``effect``: what holds for its queue."""
    return why_paused(view.queue, stored) or view.reason or may_wait(view.queue, effect)


def why_limited(what: str, pool: Pool, rate: Rate | None, used: int, next_ms: int, ramp: Ramp | None = None) -> str:
    """Why tasks wait whose pool is used up, and until when. ``what``: of what they are, such as "queue 'mail'".

    ``used``: permits in use over all partitions; ``next_ms``: when one comes free by time (Unix ms; -1: not by time).
    ``ramp``: of the queue.
    """
    if used < pool.permits:
        return ""
    if not pool.hold_ms:
        return f"waits: {used} tasks of {what} run, which is its concurrency; the next begins when one ends"
    until = f"; the next begins at {_moment(next_ms)}" if next_ms >= 0 else ""
    if ramp is not None:
        end = _moment(ramp.until_ms)
        return f"waits: what waited during the pause of {what} begins at {rate}, until about {end}{until}"
    return f"waits: tasks of {what} begin at its rate of {rate}{until}"


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def may_wait(queue: str, rules: QueueRules) -> str:
    """What to say of a due task of a queue with these rules that is not begun yet; "" for a queue without limits."""
    if not rules.limited:
        return ""
    what = [f"concurrency {rules.concurrency}"] if rules.concurrency is not None else []
    what += [f"rate {rules.pace}"] if rules.pace is not None else []
    what += [str(limit) for limit in rules.keys or ()]
    return f"waits: queue {queue!r} has limits ({', '.join(what)}); `delaybox queues {queue}` shows which it waits for"


def why_paused(queue: str, stored: Mapping[str, QueueRules]) -> str:
    """Why the tasks of a paused queue wait, and how to end it; '' where it is not paused. ``stored``: all rules."""
    for name in (queue, OTHERS):
        paused = stored.get(name, NO_RULES).paused
        if paused is not None:
            if not paused:
                return ""
            what = (
                f"queue {queue!r} is paused" if name == queue else "all queues without a rule of their own are paused"
            )
            quoted = "'*'" if name == OTHERS else name
            return f"waits: {what}; `delaybox queues set {quoted} --resume` ends that"
    return ""
