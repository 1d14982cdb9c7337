"""The members of a store, which are processes that send heartbeats, and the nodes that they belong to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from delaybox.core.partition import Shape

WORKER = "worker"
"""The kind of a worker straight on Redis: a node whose own process beats, beside its children."""
SILENT_MS = 1_500
"""A member that has not beaten for this long does not rank any more."""
LEAST = 3
"""Least number of holders. Fewer that go away together may be chance, or the work of one task."""
LEAST_CAPACITY, MOST_CAPACITY = 0.1, 10.0
"""Of a member, where 1 is as good as another."""
_LATE_MS = 20.0
"""Whose loop wakes this late counts with half of its free places."""
_QUIET_MS = 2_500
"""Members beat once a second: two beats were missed."""
_HOLD_NOTHING = frozenset({"rest", "kafka", "probe", "dashboard"})
"""Kinds of processes that claim no tasks."""
_BESIDE = ".workers"
"""A node of the previous version appends this to its id for the process that serves its workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectedWorker:
    """A worker's session as its node sees it. ``functions``: how many pairs of function and queue it serves.

    ``concurrency``: tasks that it can run at once; 0: unknown. ``places``: those of them that it gives to this node; 0:
    unknown. ``running``: tasks that it has now. ``connected``: False where its connection broke and it may still come
    back. ``since_ms``: when the session began, in Unix ms by Redis's clock; 0: its node is of a version that does not
    report it.
    """

    identity: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    functions: int = 0
    concurrency: int = 0
    running: int = 0
    connected: bool = True
    places: int = 0
    since_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """The work of a member. ``types``: letters of the task types that it carries out, also types of newer versions.
    ``in_flight``: tasks in hand.

    ``limits``: of a task type that has a lane here, only these lanes are carried out (ANY_QUEUE for the queue).
    ``places``: by the letter of a type, how many places there are for tasks of it; a type that is missing: unknown.
    ``lanes``: the lanes of connected workers, the first ones where there are very many; ``lane_count``: how many in
    all. ``workers``: the first of the connected workers; ``worker_count``: how many in all. ``free``: how many more
    tasks all of these can be sent now; -1: unknown. ``fired_per_s``: over the
    last minute, by the letter of a type and its queue. ``unforeseen_per_s``: tasks stored here with less notice than
    `scaling.LEAD_MS`, by lane. ``service_ms``: how long tasks took here from hand-out to success, by lane.
    ``troubles``: sentences on what this member cannot do now.
    ``partitions``: those that it keeps time for, the first ones where there are very many; ``partition_count``: how
    many in all. ``claims_due``: letters of those types that it claims when they are due, without a time keeper that
    makes them ready. ``rules_version``: of the rules of queues that it goes by; ``rules_ms``: since when (Unix ms by
    Redis's clock).
    """

    types: str = ""
    in_flight: int = 0
    limits: tuple[bytes, ...] = ()
    places: Mapping[str, int] = field(default_factory=dict)
    lanes: tuple[bytes, ...] = ()
    lane_count: int = 0
    workers: tuple[ConnectedWorker, ...] = ()
    worker_count: int = 0
    free: int = -1
    fired_per_s: Mapping[str, float] = field(default_factory=dict)
    unforeseen_per_s: Mapping[str, float] = field(default_factory=dict)
    service_ms: Mapping[str, float] = field(default_factory=dict)
    running: Mapping[str, int] = field(default_factory=dict)
    troubles: tuple[str, ...] = ()
    partitions: tuple[int, ...] = ()
    partition_count: int = 0
    claims_due: str = ""
    rules_version: int = 0
    rules_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A process that sends heartbeats. Moments in Unix ms by Redis's clock.

    ``node``: the id of the node that it belongs to, its own where it belongs to none. ``node_pid``: of the process that
    keeps it alive; 0: unknown. ``kind``: what the process is for (clock, work, rest, grpc, kafka, or one of a newer
    version); '': all that an engine does. ``roles``: what its node is for. ``store``: what it works for; None where a
    node of an early version does not state it. ``cores``: CPU seconds a second that it used lately. ``start_ms``: how
    long it took from the start of the process until its first heartbeat; 0: unknown. ``lag_ms``: by how much its event
    loop wakes too late, 99 of 100 times in the last 10 s. ``clock_offset_ms``: by how much its machine's clock is ahead
    of Redis's; None where a node of the previous version does not measure it. ``noted``: its beats note what others
    must read anew; beats of the previous version do not. ``capacity``: how much it can do compared with others, as its
    node's settings say; None: its version does not state it.
    """

    id: str
    node: str = ""
    node_pid: int = 0
    kind: str = ""
    roles: tuple[str, ...] = ()
    host: str = ""
    pid: int = 0
    version: str = ""
    seen_ms: int = 0
    started_ms: int = 0
    activity: Activity = Activity()
    store: Shape | None = None
    cores: float = 0.0
    start_ms: int = 0
    lag_ms: float = 0.0
    clock_offset_ms: int | None = None
    noted: bool = False
    capacity: float | None = None

    @property
    def parent(self) -> str:
        """The id of its node."""
        return self.node or self.id.removesuffix(_BESIDE)


@dataclass(frozen=True, slots=True)
class LivingNode:
    """A node with its members: at least one, in the order of their ids."""

    id: str
    members: tuple[Member, ...]

    @property
    def _first(self) -> Member:
        return next((member for member in self.members if member.id == self.id), self.members[0])

    @property
    def host(self) -> str:
        """The machine's name."""
        return self._first.host

    @property
    def pid(self) -> int:
        """Of the node's own process."""
        return self._first.node_pid or self._first.pid

    @property
    def version(self) -> str:
        """DelayBox's version."""
        return self._first.version

    @property
    def roles(self) -> tuple[str, ...]:
        """What the node is for."""
        return self._first.roles

    @property
    def seen_ms(self) -> int:
        """When a member beat last."""
        return max(member.seen_ms for member in self.members)

    @property
    def started_ms(self) -> int:
        """When the first member started."""
        return min(member.started_ms for member in self.members)

    @property
    def activity(self) -> Activity:
        """The work of all its members together."""
        return together([member.activity for member in self.members])


def member_id(node: str, kind: str, number: int) -> str:
    """The id of a node's process, unique among living ones. ``number``: its number among those of its kind."""
    return f"{node}.{kind}{number}"


def nodes_of(members: Iterable[Member]) -> list[LivingNode]:
    """Each node with its members, by id."""
    by_node: dict[str, list[Member]] = {}
    for member in sorted(members, key=lambda member: member.id):
        by_node.setdefault(member.parent, []).append(member)
    return [
        LivingNode(node, tuple(found))
        for node, found in sorted(by_node.items())
        # Of the previous version: the node itself is gone, and its process for workers follows.
        if any(member.node or member.id == node for member in found)
    ]


def together(activities: Sequence[Activity]) -> Activity:
    """The sum of the work of several members, or of parts of one."""
    if len(activities) == 1:
        return activities[0]
    fired: dict[str, float] = {}
    unforeseen: dict[str, float] = {}
    service_ms: dict[str, float] = {}
    running: dict[str, int] = {}
    places: dict[str, int] = {}
    for activity in activities:
        for key, rate in activity.fired_per_s.items():
            fired[key] = round(fired.get(key, 0.0) + rate, 3)
        for key, rate in activity.unforeseen_per_s.items():
            unforeseen[key] = round(unforeseen.get(key, 0.0) + rate, 3)
        for letter, count in activity.places.items():
            places[letter] = max(places.get(letter, 0), count)
        for key, took in activity.service_ms.items():
            # Where several measured the same lane, the longest counts: too many places are better than too few.
            service_ms[key] = max(service_ms.get(key, 0.0), took)
        for key, count in activity.running.items():
            running[key] = running.get(key, 0) + count
    return Activity(
        types="".join(dict.fromkeys(letter for a in activities for letter in a.types)),
        in_flight=sum(a.in_flight for a in activities),
        limits=tuple(dict.fromkeys(lane for a in activities for lane in a.limits)),
        places=places,
        lanes=tuple(dict.fromkeys(lane for a in activities for lane in a.lanes)),
        lane_count=sum(a.lane_count for a in activities),
        workers=tuple(worker for a in activities for worker in a.workers),
        worker_count=sum(a.worker_count for a in activities),
        free=sum(a.free for a in activities if a.free >= 0) if any(a.free >= 0 for a in activities) else -1,
        fired_per_s=fired,
        unforeseen_per_s=unforeseen,
        service_ms=service_ms,
        running=running,
        troubles=tuple(dict.fromkeys(trouble for a in activities for trouble in a.troubles)),
        partitions=tuple(dict.fromkeys(p for a in activities for p in a.partitions)),
        partition_count=sum(a.partition_count for a in activities),
        claims_due="".join(dict.fromkeys(letter for a in activities for letter in a.claims_due)),
        rules_version=max(a.rules_version for a in activities),
        rules_ms=max(a.rules_ms for a in activities),
    )


def keeps_time(member: Member) -> bool:
    """Whether partitions can be its own. A process of no particular kind does everything that its node is for."""
    return member.kind == "clock" or (not member.kind and "clock" in member.roles)


def places(activity: Activity) -> int:
    """How many tasks its workers can run at once, about: those that are not shown count as the mean of the others."""
    shown = activity.workers
    if not shown:
        return 0
    return sum(max(worker.concurrency, 1) for worker in shown) * max(activity.worker_count, len(shown)) // len(shown)


def abilities(activity: Activity) -> frozenset[tuple[tuple[tuple[str, str], ...], int]]:
    """What tasks with needs may find at its workers: the labels and places that these have, each once."""
    return frozenset((tuple(sorted(w.labels.items())), w.places or w.concurrency) for w in activity.workers)


def help_of(member: Member | None) -> float:
    """How well a member suits to take what another one has no room for: its free places, the fewer the later its event
    loop wakes. -1: it is not known, so it is no one's first choice."""
    if member is None:
        return -1.0
    activity = member.activity
    free = activity.free if activity.free >= 0 else max(places(activity) - activity.in_flight, 0)
    return free / (1.0 + max(member.lag_ms, 0.0) / _LATE_MS)


def holders(members: Iterable[Member]) -> list[tuple[int, int]]:
    """(started ms, last seen ms) of every node that holds tasks; all members of a node are one holder."""
    found: dict[str, tuple[int, int]] = {}
    for member in members:
        serves_calls_only = member.kind == "grpc" and "work" not in member.roles
        if member.kind in _HOLD_NOTHING or serves_calls_only:
            continue
        first, last = found.get(member.parent, (member.started_ms, member.seen_ms))
        found[member.parent] = (min(first, member.started_ms), max(last, member.seen_ms))
    return list(found.values())


def most_left(lives: Sequence[tuple[int, int]], now_ms: int, lease_ms: int, *, quiet_ms: int = _QUIET_MS) -> bool:
    """Whether at least three, and more than half of all that lived then, went away within one lease, not long ago.

    ``lives``: (began ms, last seen ms); any unit will do if all times share it. A holder that has not been seen for
    ``quiet_ms`` went away when it was last seen. Its tasks are judged when the lease is over and a grace has passed, so
    "not long ago" means four leases.
    """
    gone = sorted(seen for _, seen in lives if now_ms - quiet_ms > seen >= now_ms - 4 * lease_ms - quiet_ms)
    for first in range(len(gone)):
        together = [seen for seen in gone[first:] if seen <= gone[first] + lease_ms]
        # Holders that began only afterwards, in the place of those that went, count on neither side.
        alive = sum(began < together[-1] and seen > together[-1] for began, seen in lives)
        if len(together) >= LEAST and len(together) > alive:
            return True
    return False
