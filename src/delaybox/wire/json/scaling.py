"""How many processes or workers are needed, as ``/v1/scaling`` shows it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from delaybox.wire.json.types import Count

_Rate = Annotated[float, Meta(ge=0)]


class Term(Struct, gc=False):
    """One sort of work that the figure adds up: (busiest_per_s + unforeseen_per_s + backlog / clear) * service time,
    divided by the target use; not more than ``most``, and not less than ``occupied``."""

    name: Annotated[
        str,
        Meta(description="tasks, worker tasks, webhooks or calls; of workers queue:function, with what its tasks need"),
    ]
    due: Annotated[int, Meta(ge=0, description="stored tasks that become due within the lead")]
    busiest_per_s: Annotated[float, Meta(ge=0, description="their rate in the busiest sixth of the lead")]
    unforeseen_per_s: Annotated[
        float,
        Meta(ge=0, description="measured rate of tasks that are stored with less notice than 30 s, such as at once"),
    ]
    backlog: Annotated[int, Meta(ge=0, description="due tasks that nobody has taken yet")]
    service_ms: Annotated[float, Meta(ge=0, description="how long one task occupies its places, added up")]
    measured: Annotated[bool, Meta(description="false: too little was seen, so service_ms is assumed")]
    occupied: Annotated[float, Meta(ge=0, description="places of workers in which tasks of it run now")]
    most: Annotated[
        float | None,
        Meta(description="places that the limits of its queue allow, 0 while it is paused; null: any number"),
    ]


class Need(Struct, gc=False):
    """How many members of one kind are needed."""

    kind: Annotated[
        str, Meta(description="clock, grpc, rest or webhook: processes of nodes; worker: users' own workers")
    ]
    queue: Annotated[str, Meta(description="of workers: the queue; empty: any")]
    function: Annotated[str, Meta(description="of workers: the function; empty: any")]
    needed: Count
    running: Count
    places: Annotated[float, Meta(ge=0, description="places needed, at the target use")]
    places_each: Annotated[float, Meta(ge=0, description="places of one member")]
    terms: list[Term]


class Scaling(Struct, gc=False):
    """The figure that `--processes auto` and autoscalers go by, with its terms."""

    lead_ms: Annotated[int, Meta(ge=0, description="how far ahead was looked; at least as long as a process starts")]
    clear_ms: Annotated[int, Meta(ge=0, description="the time in which the backlog should be gone")]
    target_use: _Rate
    needs: list[Need]
