"""What is needed, and what was asked: REST's query and answer, gRPC's messages, and the metadata of an autoscaler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from delaybox.core.durations import duration_ms
from delaybox.core.errors import InvalidTask
from delaybox.core.limits import NAME, NAME_FORM
from delaybox.core.scaling import (
    CLEAR_MS,
    KINDS,
    LEAD_MS,
    LEAST_SPAN_MS,
    MAX_LEAD_MS,
    MAX_PLACES,
    WORKER,
    ScalingAnswer,
    ScalingQuery,
)
from delaybox.core.words import show
from delaybox.wire.json.tasks import queue_of

if TYPE_CHECKING:
    # Each front end needs one of these only.
    from delaybox.wire.gen import scheduler_pb2 as pb
    from delaybox.wire.json import scaling as shown

FIELDS: Final = ("kind", "queue", "function", "places", "lead", "clear")
_KINDS: Final = (*KINDS, WORKER)
_Answer = TypeVar("_Answer")


def query_of(given: Mapping[str, str | int]) -> ScalingQuery:
    """What is asked, from values by the names of FIELDS; one that is missing has its default. InvalidTask."""
    kind, queue, function = (str(given.get(name, "")) for name in ("kind", "queue", "function"))
    if "kind" in given and kind not in _KINDS:
        raise InvalidTask("kind", f"kind {show(kind)} is not known; use one of {', '.join(_KINDS)}, or leave it out")
    if kind not in ("", WORKER) and (queue or function):
        raise InvalidTask(
            "kind", f"kind {kind} is a process of nodes, which serves all queues; leave queue and function out"
        )
    if "queue" in given:
        queue = queue_of("queue", queue)
    if "function" in given and NAME.fullmatch(function) is None:
        raise InvalidTask("function", f"function {show(function)} is not a name; use {NAME_FORM}")
    return ScalingQuery(
        kind=kind,
        queue=queue,
        function=function,
        places=places_of("places", given["places"]) if "places" in given else 0,
        lead_ms=_span("lead", given["lead"]) if "lead" in given else LEAD_MS,
        clear_ms=_span("clear", given["clear"]) if "clear" in given else CLEAR_MS,
    )


def places_of(name: str, value: str | int) -> int:
    """How many tasks one member runs at once. ``name``: what the caller calls it. InvalidTask."""
    text = str(value)
    found = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    if not 1 <= found <= MAX_PLACES:
        raise InvalidTask(name, f"{name} {show(text)} is not in range; give a number from 1 to {MAX_PLACES}")
    return found


def _span(name: str, value: str | int) -> int:
    found = duration_ms(name, value, least=LEAST_SPAN_MS)
    if found > MAX_LEAD_MS:
        raise InvalidTask(name, f"{name} {show(str(value))} is too long; give at most {MAX_LEAD_MS // 60_000}m")
    return found


def scaling_json(found: ScalingAnswer) -> shown.Scaling:
    """The answer in REST's form."""
    from delaybox.wire.json import scaling as shown

    return _answer(found, shown.Scaling, shown.Need, shown.Term)


def scaling_message(found: ScalingAnswer) -> pb.ScalingResponse:
    """The answer in gRPC's form."""
    from delaybox.wire.gen import scheduler_pb2 as pb

    return _answer(found, pb.ScalingResponse, pb.ScalingNeed, pb.ScalingTerm)


def _answer(
    found: ScalingAnswer, answer: Callable[..., _Answer], need_of: Callable[..., Any], term_of: Callable[..., Any]
) -> _Answer:
    """Both protocols show the same fields."""
    return answer(
        lead_ms=found.lead_ms,
        clear_ms=found.clear_ms,
        target_use=found.target_use,
        needs=[
            need_of(
                kind=need.kind,
                queue=need.queue,
                function=need.function,
                needed=need.members,
                running=need.running,
                places=need.places,
                places_each=need.places_each,
                terms=[
                    term_of(
                        name=load.name,
                        due=load.due,
                        busiest_per_s=load.busiest_per_s,
                        unforeseen_per_s=load.unforeseen_per_s,
                        backlog=load.backlog,
                        service_ms=load.service_ms,
                        measured=load.measured,
                        occupied=load.occupied,
                        most=load.most,
                    )
                    for load in need.loads
                ],
            )
            for need in found.needs
        ],
    )


def asked_by(request: pb.ScalingRequest) -> ScalingQuery:
    """What a gRPC request asks. InvalidTask."""
    given: dict[str, str | int] = {
        "kind": request.kind,
        "queue": request.queue,
        "function": request.function,
        "places": request.places,
        "lead": request.lead_ms,
        "clear": request.clear_ms,
    }
    return query_of({name: value for name, value in given.items() if value})
