"""Nodes and their workers as ``/v1`` shows them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from delaybox.wire.json.types import Count, Moment


class NodeMember(Struct, gc=False):
    """A process of a node."""

    id: str
    kind: Annotated[str, Meta(description="clock, work, rest, grpc or kafka; empty: it is all that an engine does")]
    pid: int
    types: Annotated[list[str], Meta(description="the task types it carries out")]
    in_flight: Count
    troubles: Annotated[list[str], Meta(description="what it cannot do now, in sentences")]
    partitions: Annotated[
        list[int], Meta(description="the partitions it keeps time for; the first ones where there are very many")
    ]
    partition_count: Annotated[int, Meta(ge=0, description="how many partitions it keeps time for")]
    fired_per_s: Annotated[float, Meta(ge=0, description="tasks that it handed out a second, over the last minute")]
    lag_ms: Annotated[
        float, Meta(ge=0, description="by how much its event loop wakes too late, 99 of 100 times in the last 10 s")
    ]
    clock_offset_ms: Annotated[
        int | None,
        Meta(description="by how much its machine's clock is ahead of the server's; null: it does not measure that"),
    ]
    rules_version: Annotated[
        int, Meta(ge=0, description="of the rules of queues that it goes by; 0: it needs none, or there were never any")
    ]
    rules_since: Annotated[
        str | None,
        Meta(description="when it took that version; null: never", extra_json_schema={"format": "date-time"}),
    ]
    seen: Moment
    started: Moment


class Node(Struct, gc=False):
    """A living node, with the work of all its members together."""

    id: str
    host: str
    pid: int
    version: str
    roles: list[str]
    types: Annotated[list[str], Meta(description="the task types it carries out")]
    in_flight: Count
    seen: Moment
    started: Moment
    members: list[NodeMember]


class Nodes(Struct, gc=False):
    """All nodes that live."""

    nodes: list[Node]


class Worker(Struct, gc=False):
    """A session of a worker with a node."""

    node: Annotated[str, Meta(description="the id of the node it is connected to")]
    identity: Annotated[str, Meta(description="as the worker names itself: name, host, process, versions")]
    labels: dict[str, str]
    functions: Annotated[int, Meta(ge=0, description="pairs of a function and a queue that it serves")]
    concurrency: Annotated[int, Meta(ge=0, description="tasks that it can run at once; 0 = it did not say")]
    running: Annotated[int, Meta(ge=0, description="tasks that it has just now")]
    connected: Annotated[bool, Meta(description="false: its connection broke, and it may still come back")]
    since: Annotated[
        Moment | None, Meta(description="when the session began; null: its node's version does not report it")
    ] = None


class Workers(Struct, gc=False):
    """Workers that are connected. ``count``: all of them, also those that are not listed."""

    workers: list[Worker]
    count: Annotated[int, Meta(ge=0)]
