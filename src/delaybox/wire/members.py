"""Members and nodes in every form they travel in: the stored heartbeat, REST's JSON, and gRPC's messages.

A heartbeat is a JSON object. Nodes of several versions read each other's: a field that is missing has its default, one
that is not known is passed over. ``types``: letters of task types, in one text or a list. Lanes are text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta, Struct

from delaybox.core.limits import MAX_DUE_MS
from delaybox.core.membership import (
    LEAST_CAPACITY,
    MOST_CAPACITY,
    Activity,
    ConnectedWorker,
    LivingNode,
    Member,
)
from delaybox.core.partition import Shape
from delaybox.core.task import TaskType

if TYPE_CHECKING:
    # Processes that serve no calls do without these.
    from delaybox.wire.gen import scheduler_pb2 as pb
    from delaybox.wire.json import nodes as shown

_MOST: Final = (1 << 32) - 1
"""The largest count in a gRPC message."""
_Count = Annotated[int, Meta(ge=0, le=_MOST)]
_Moment = Annotated[int, Meta(ge=0, le=MAX_DUE_MS)]
_LETTERS: Final = {kind.name: kind.value for kind in TaskType}
_TYPES: Final = {kind.value: kind for kind in TaskType}


class _Worker(Struct):
    identity: str = ""
    labels: dict[str, str] | None = None
    functions: _Count = 0
    concurrency: _Count = 0
    running: _Count = 0
    connected: bool = True
    places: _Count = 0
    since_ms: _Moment = 0


class _Store(Struct):
    id: str
    partitions: int
    bucket_ms: int


class _Beat(Struct):
    seen_ms: _Moment
    started_ms: _Moment = 0
    node: str = ""
    node_pid: _Count = 0
    kind: str = ""
    version: str = ""
    roles: list[str] = []
    host: str = ""
    pid: _Count = 0
    in_flight: _Count = 0
    types: str | list[str] = ""
    limits: list[str] = []
    places: dict[str, _Count] = {}
    lanes: list[str] = []
    lane_count: _Count | None = None
    """None: as many as there are in ``lanes``."""
    workers: list[_Worker] = []
    worker_count: _Count | None = None
    free: int = -1
    fired_per_s: dict[str, float] = {}
    unforeseen_per_s: dict[str, float] = {}
    service_ms: dict[str, float] = {}
    running: dict[str, _Count] = {}
    troubles: list[str] = []
    partitions: list[_Count] = []
    partition_count: _Count = 0
    claims_due: str = ""
    rules_version: int = 0
    rules_ms: _Moment = 0
    lag_ms: float = 0.0
    clock_offset_ms: int | None = None
    noted: bool = False
    store: _Store | None = None
    cores: float = 0.0
    start_ms: _Count = 0
    capacity: Annotated[float, Meta(ge=LEAST_CAPACITY, le=MOST_CAPACITY)] | None = None


class _Seen(Struct):
    seen_ms: int


_decoder = msgspec.json.Decoder(_Beat)
_seen_decoder = msgspec.json.Decoder(_Seen)
_encoder = msgspec.json.Encoder()


def encode(member: Member) -> bytes:
    """A member's heartbeat as it is stored under the member's id."""
    return _encoder.encode(_beat(member))


def decode(member_id: str, raw: bytes) -> Member:
    """The member of a stored heartbeat; ValueError for one that is damaged."""
    try:
        beat = _decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"the heartbeat of {member_id!r} cannot be read: {error}") from error
    return Member(
        id=member_id,
        node=beat.node,
        node_pid=beat.node_pid,
        kind=beat.kind,
        roles=tuple(beat.roles),
        host=beat.host,
        pid=beat.pid,
        version=beat.version,
        seen_ms=beat.seen_ms,
        started_ms=beat.started_ms,
        activity=Activity(
            types="".join(_LETTERS.get(kind, kind) for kind in beat.types),
            in_flight=beat.in_flight,
            limits=tuple(lane.encode() for lane in beat.limits),
            places=beat.places,
            lanes=tuple(lane.encode() for lane in beat.lanes),
            lane_count=len(beat.lanes) if beat.lane_count is None else beat.lane_count,
            workers=tuple(
                ConnectedWorker(
                    identity=worker.identity,
                    labels=worker.labels or {},
                    functions=worker.functions,
                    concurrency=worker.concurrency,
                    running=worker.running,
                    connected=worker.connected,
                    places=worker.places,
                    since_ms=worker.since_ms,
                )
                for worker in beat.workers
            ),
            worker_count=len(beat.workers) if beat.worker_count is None else beat.worker_count,
            free=beat.free,
            fired_per_s=beat.fired_per_s,
            unforeseen_per_s=beat.unforeseen_per_s,
            service_ms=beat.service_ms,
            running=beat.running,
            troubles=tuple(beat.troubles),
            partitions=tuple(beat.partitions),
            partition_count=beat.partition_count,
            claims_due=beat.claims_due,
            rules_version=beat.rules_version,
            rules_ms=beat.rules_ms,
        ),
        lag_ms=beat.lag_ms,
        clock_offset_ms=beat.clock_offset_ms,
        noted=beat.noted,
        store=None if beat.store is None else Shape(beat.store.id, beat.store.partitions, beat.store.bucket_ms),
        cores=beat.cores,
        start_ms=beat.start_ms,
        capacity=beat.capacity,
    )


def seen_ms(raw: bytes) -> int:
    """When the member of a stored heartbeat beat last; 0 where it does not state that."""
    try:
        return _seen_decoder.decode(raw).seen_ms
    except (msgspec.MsgspecError, RecursionError):
        return 0


def _beat(member: Member) -> _Beat:
    activity, store = member.activity, member.store
    return _Beat(
        seen_ms=member.seen_ms,
        started_ms=member.started_ms,
        node=member.node,
        node_pid=member.node_pid,
        kind=member.kind,
        version=member.version,
        roles=list(member.roles),
        host=_sendable(member.host),
        pid=member.pid,
        in_flight=activity.in_flight,
        types=activity.types,
        limits=[lane.decode() for lane in activity.limits],
        places=dict(activity.places),
        lanes=[lane.decode() for lane in activity.lanes],
        lane_count=activity.lane_count,
        workers=[
            _Worker(
                identity=worker.identity,
                labels=dict(worker.labels),
                functions=worker.functions,
                concurrency=worker.concurrency,
                running=worker.running,
                connected=worker.connected,
                places=worker.places,
                since_ms=worker.since_ms,
            )
            for worker in activity.workers
        ],
        worker_count=activity.worker_count,
        free=activity.free,
        fired_per_s=dict(activity.fired_per_s),
        unforeseen_per_s=dict(activity.unforeseen_per_s),
        service_ms=dict(activity.service_ms),
        running=dict(activity.running),
        troubles=[_sendable(trouble) for trouble in activity.troubles],
        partitions=list(activity.partitions),
        partition_count=activity.partition_count,
        claims_due=activity.claims_due,
        rules_version=activity.rules_version,
        rules_ms=activity.rules_ms,
        lag_ms=member.lag_ms,
        clock_offset_ms=member.clock_offset_ms,
        noted=member.noted,
        store=None if store is None else _Store(store.store_id, store.partitions, store.bucket_ms),
        cores=member.cores,
        start_ms=member.start_ms,
        capacity=member.capacity,
    )


def _sendable(text: str) -> str:
    """Text of the system's or a library's may hold halves of characters (surrogates), which UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def facts(node: LivingNode, most: int) -> str:
    """A node as a JSON object in no stated form, as gRPC's deprecated field has it: what it carries out as in a
    heartbeat. Its lists are left out where it would have more than ``most`` bytes."""
    as_one = Member(
        id=node.id,
        host=node.host,
        pid=node.pid,
        version=node.version,
        roles=node.roles,
        seen_ms=node.seen_ms,
        started_ms=node.started_ms,
        activity=node.activity,
        store=node.members[0].store,
    )
    found = {"id": node.id, **msgspec.to_builtins(_beat(as_one))}
    text = _encoder.encode(found)
    if len(text) > most:
        text = _encoder.encode({name: value for name, value in found.items() if not isinstance(value, list | dict)})
    return text.decode()


def nodes_json(nodes: Iterable[LivingNode]) -> shown.Nodes:
    """Nodes in REST's form."""
    from delaybox.wire.json import nodes as shown

    return shown.Nodes([_node_json(node) for node in nodes])


def _node_json(node: LivingNode) -> shown.Node:
    from delaybox.wire.json import nodes as shown
    from delaybox.wire.json.moments import render_moment

    activity = node.activity
    return shown.Node(
        id=node.id,
        host=node.host,
        pid=node.pid,
        version=node.version,
        roles=list(node.roles),
        types=_names(activity.types),
        in_flight=activity.in_flight,
        seen=render_moment(node.seen_ms),
        started=render_moment(node.started_ms),
        members=[
            shown.NodeMember(
                id=member.id,
                kind=member.kind,
                pid=member.pid,
                types=_names(member.activity.types),
                in_flight=member.activity.in_flight,
                troubles=list(member.activity.troubles),
                partitions=list(member.activity.partitions),
                partition_count=member.activity.partition_count,
                fired_per_s=_rate(member),
                lag_ms=member.lag_ms,
                clock_offset_ms=member.clock_offset_ms,
                rules_version=member.activity.rules_version,
                rules_since=render_moment(member.activity.rules_ms) if member.activity.rules_ms else None,
                seen=render_moment(member.seen_ms),
                started=render_moment(member.started_ms),
            )
            for member in node.members
        ],
    )


def workers_json(nodes: Iterable[LivingNode]) -> shown.Workers:
    """The workers that are connected to nodes, in REST's form."""
    from delaybox.wire.json import nodes as shown
    from delaybox.wire.json.moments import render_moment

    found: list[shown.Worker] = []
    count = 0
    for node in nodes:
        activity = node.activity
        count += activity.worker_count
        found += (
            shown.Worker(
                node=node.id,
                identity=worker.identity,
                labels=dict(worker.labels),
                functions=worker.functions,
                concurrency=worker.concurrency,
                running=worker.running,
                connected=worker.connected,
                since=render_moment(worker.since_ms) if worker.since_ms else None,
            )
            for worker in activity.workers
        )
    return shown.Workers(found, max(len(found), count))


def node_message(node: LivingNode) -> pb.NodeInfo:
    """A node in gRPC's form."""
    from delaybox.wire.gen import scheduler_pb2 as pb

    activity = node.activity
    return pb.NodeInfo(
        id=node.id,
        host=node.host,
        pid=node.pid,
        version=node.version,
        roles=node.roles,
        types=_numbers(activity.types),
        in_flight=min(activity.in_flight, _MOST),
        seen_ms=node.seen_ms,
        started_ms=node.started_ms,
        worker_count=min(activity.worker_count, _MOST),
        workers=[
            pb.WorkerInfo(
                identity=worker.identity,
                labels=worker.labels,
                functions=worker.functions,
                concurrency=worker.concurrency,
                running=worker.running,
                connected=worker.connected,
                since_ms=worker.since_ms,
            )
            for worker in activity.workers
        ],
        members=[
            pb.NodeMember(
                id=member.id,
                kind=member.kind,
                pid=member.pid,
                types=_numbers(member.activity.types),
                in_flight=member.activity.in_flight,
                troubles=member.activity.troubles,
                partitions=member.activity.partitions,
                partition_count=min(member.activity.partition_count, _MOST),
                fired_per_s=_rate(member),
                lag_ms=member.lag_ms,
                clock_offset_ms=member.clock_offset_ms,
                rules_version=max(member.activity.rules_version, 0),
                rules_since_ms=member.activity.rules_ms,
                seen_ms=member.seen_ms,
                started_ms=member.started_ms,
            )
            for member in node.members
        ],
    )


def _rate(member: Member) -> float:
    return round(sum(member.activity.fired_per_s.values()), 3)


def _names(letters: str) -> list[str]:
    """As `/v1` names types; those of newer versions by their letter."""
    from delaybox.wire.json.rendering import NAME_OF_TYPE

    return [NAME_OF_TYPE[_TYPES[letter]] if letter in _TYPES else letter for letter in dict.fromkeys(letters)]


def _numbers(letters: str) -> Iterator[pb.TaskType]:
    """As gRPC numbers types, in its order; it has no number for those of newer versions."""
    from delaybox.wire.proto.tasks import TYPES

    return (number for number, kind in TYPES.items() if kind.value in letters)
