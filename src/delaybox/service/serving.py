"""Who serves worker tasks just now: why a due one waits, and how far a running one is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from msgspec.structs import replace

from delaybox.core import ids
from delaybox.core.lane import lane_of, split
from delaybox.core.task import TaskState, TaskType, TaskView
from delaybox.store import nodes, progress
from delaybox.store.store import Store
from delaybox.wire import progress as wire_progress

LIVE_NODE_MS = 15_000
_FRESH_S = 1.0


async def live_nodes(store: Store) -> list[dict[str, Any]]:
    """The nodes heard of lately, each with what it said of itself."""
    now = await store.ping()
    seen = await nodes.live(store)
    return [
        {"id": node_id, **facts}
        for node_id, facts in sorted(seen.items())
        if now - int(facts.get("seen_ms", 0)) <= LIVE_NODE_MS
    ]


def served_lanes(found: Sequence[Mapping[str, Any]]) -> frozenset[bytes] | None:
    """The lanes that connected workers serve; None where some are so many that their node does not tell them all."""
    lanes: set[bytes] = set()
    for node in found:
        told = node.get("lanes", ())
        if len(told) < int(node.get("lane_count", len(told))):
            return None
        lanes.update(lane.encode() for lane in told)
    return frozenset(lanes)


class Serving:
    """Completes views of worker tasks. What heartbeats say is remembered for a second."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lanes: frozenset[bytes] | None = None
        self._until = 0.0

    async def completed(self, view: TaskView) -> TaskView:
        """A READY task's reason to wait, a RUNNING one's progress. StoreUnavailable."""
        if view.type is not TaskType.WORKER:
            return view
        if view.state is TaskState.READY:
            served = await self._served()
            if served is not None and lane_of(view.type, view.queue, view.name) not in served:
                return replace(view, reason=unserved(view.name, view.queue))
        elif view.state is TaskState.RUNNING:
            (said,) = await progress.of(self._store, [ids.parse(view.task_id)])
            if said is not None:
                try:
                    return replace(view, progress=wire_progress.decode(said))
                except DecodeError:
                    return view
        return view

    async def _served(self) -> frozenset[bytes] | None:
        if time.monotonic() >= self._until:
            self._lanes = served_lanes(await live_nodes(self._store))
            self._until = time.monotonic() + _FRESH_S
        return self._lanes


def unserved(name: str, queue: str) -> str:
    """Why such a task waits."""
    return f"waits: no connected worker serves function {name!r} of queue {queue!r}"


def functions_unserved(lanes: Sequence[bytes], served: frozenset[bytes] | None) -> tuple[str, ...]:
    """The functions of worker lanes that nobody serves."""
    if served is None:
        return ()
    return tuple(sorted({split(lane).name for lane in lanes if lane not in served}))
