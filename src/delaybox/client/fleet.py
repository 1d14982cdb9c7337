"""The living nodes, and how many processes or workers are needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from delaybox.client.models import TYPES
from delaybox.client.retries import Repeating, RpcCall
from delaybox.client.values import Duration
from delaybox.core.durations import span_ms
from delaybox.wire.gen import scheduler_pb2 as pb


@dataclass(frozen=True, slots=True)
class ScalingTerm:
    """One sort of work (docs/howto/autoscale.md). ``most``: places that its queue's limits allow; None: any number."""

    name: str
    due: int
    busiest_per_s: float
    unforeseen_per_s: float
    backlog: int
    service_ms: float
    measured: bool
    occupied: float
    most: float | None


@dataclass(frozen=True, slots=True)
class ScalingNeed:
    """How many members of a kind are ``needed``, and how many are ``running``. ``places``: those needed, of which a
    member has ``places_each``; ``terms``: what they add up."""

    kind: str
    queue: str
    function: str
    needed: int
    running: int
    places: float
    places_each: float
    terms: tuple[ScalingTerm, ...]

    @classmethod
    def of(cls, need: pb.ScalingNeed) -> ScalingNeed:
        terms = tuple(
            ScalingTerm(
                name=term.name,
                due=term.due,
                busiest_per_s=term.busiest_per_s,
                unforeseen_per_s=term.unforeseen_per_s,
                backlog=term.backlog,
                service_ms=term.service_ms,
                measured=term.measured,
                occupied=term.occupied,
                most=term.most if term.HasField("most") else None,
            )
            for term in need.terms
        )
        return cls(
            kind=need.kind,
            queue=need.queue,
            function=need.function,
            needed=need.needed,
            running=need.running,
            places=need.places,
            places_each=need.places_each,
            terms=terms,
        )


def scaling(
    queue: str, function: str, kind: str, places: int, lead: Duration | None, clear: Duration | None
) -> RpcCall[tuple[ScalingNeed, ...]]:
    request = pb.ScalingRequest(queue=queue, function=function, kind=kind, places=places)
    if lead is not None:
        request.lead_ms = span_ms("lead", lead)
    if clear is not None:
        request.clear_ms = span_ms("clear", clear)
    return RpcCall("Scaling", request, Repeating.READ, lambda answer: tuple(map(ScalingNeed.of, answer.needs)))


def nodes() -> RpcCall[tuple[dict[str, Any], ...]]:
    return RpcCall("Nodes", pb.NodesRequest(), Repeating.READ, _nodes_of)


def _nodes_of(answer: pb.NodesResponse) -> tuple[dict[str, Any], ...]:
    """Each node's facts, with its processes as ``members``."""
    members = {info.id: [_member_of(member) for member in info.members] for info in answer.infos}
    facts: list[dict[str, Any]] = [json.loads(text) for text in answer.nodes]
    return tuple({**one, "members": members.get(one["id"], [])} for one in facts)


def _member_of(member: pb.NodeMember) -> dict[str, Any]:
    return {
        "id": member.id,
        "kind": member.kind,
        "pid": member.pid,
        "types": [TYPES[number].value for number in member.types if number in TYPES],
        "in_flight": member.in_flight,
        "troubles": list(member.troubles),
        "partitions": list(member.partitions),
        "partition_count": member.partition_count,
        "fired_per_s": member.fired_per_s,
        "lag_ms": member.lag_ms,
        "clock_offset_ms": member.clock_offset_ms if member.HasField("clock_offset_ms") else None,
        "rules_version": member.rules_version,
        "rules_since_ms": member.rules_since_ms,
        "seen_ms": member.seen_ms,
        "started_ms": member.started_ms,
    }
