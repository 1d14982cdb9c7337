"""What happens now, and what the coming hours bring; nodes and workers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from delaybox.api.dashboard import render, served
from delaybox.api.dashboard.frame import Frames
from delaybox.api.dashboard.live import Live
from delaybox.api.dashboard.looks import Looks
from delaybox.api.dashboard.visit import Visit
from delaybox.api.rest.refusal import Refusal
from delaybox.api.rest.routing import Answer
from delaybox.core.membership import SILENT_MS, LivingNode, keeps_time
from delaybox.service import Service

_encode = msgspec.json.Encoder().encode
_MINUTE: Final = 60_000
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
SPANS: Final = {
    "30m": ("30 minutes", 30 * _MINUTE, _MINUTE),
    "3h": ("3 hours", 3 * _HOUR, 2 * _MINUTE),
    "24h": ("24 hours", _DAY, 15 * _MINUTE),
    "7d": ("7 days", 7 * _DAY, 2 * _HOUR),
    "30d": ("30 days", 30 * _DAY, 6 * _HOUR),
    "1y": ("a year", 365 * _DAY, 3 * _DAY),
}
"""How far the forecast's picture may go: its name, its length and its step, in ms."""
_FARTHEST: Final = 10 * 365 * _DAY
_COLOURS: Final = 8
MOST: Final = 200
"""Rows of a table of nodes, workers or processes: pages of thousands would take seconds to make."""
_ANSWERED_S: Final = 1.0
"""For so long one answer of the store stands for all that ask whether it is there."""


class NowPages:
    """The first page, its numbers, and the nodes."""

    def __init__(self, frames: Frames, service: Service) -> None:
        self._frames = frames
        self._service = service
        self._live = Live(service, forecast=self._coming, nodes=self._nodes_part)
        self._looks = Looks(partial(service.queues, pending=False))
        self._answered = float("-inf")

    async def page(self, visit: Visit) -> Answer:
        """The page; what moves in it comes by `live`."""
        counts = await self._service.counts()
        nodes = await self._service.nodes()
        return self._frames.page(visit, "now.html", counts=counts, spans=SPANS, **_owners(nodes))

    async def live(self, visit: Visit) -> Answer:
        """The numbers, one frame a second, and the forecast of a span, as Server-Sent Events."""
        headers = (*render.HEADERS, (b"x-accel-buffering", b"no"))
        span = visit.query.get("span", "")
        stream = self._live.read(span if span in SPANS else "", ended=partial(self._frames.over, visit))
        return Answer(200, b"", headers, b"text/event-stream", stream)

    async def store(self, visit: Visit) -> Answer:
        """Nothing, while the store answers: pages of which no part renews itself learn by it that the store is away."""
        now = time.monotonic()
        if now - self._answered >= _ANSWERED_S:
            await self._service.counts()
            self._answered = now
        return Answer(200, b"", render.HEADERS, render.HTML)

    async def forecast(self, visit: Visit) -> Answer:
        """The picture's numbers, as JSON: a span by name, or any part of the future (from and to, Unix ms)."""
        now = time.time_ns() // 1_000_000
        if "from" in visit.query or "to" in visit.query:
            start, end = _whole(visit, "from", now), _whole(visit, "to", now + _HOUR)
            if not now - _DAY <= start < end <= now + _FARTHEST:
                raise Refusal(400, "from and to are no part of the coming ten years; choose another part")
            step = max(_MINUTE, -(-(end - start) // (120 * _MINUTE)) * _MINUTE)
        else:
            name = visit.query.get("span", "3h")
            if name not in SPANS:
                raise Refusal(400, f"span {name[:20]!r} is unknown; use one of {', '.join(SPANS)}")
            return Answer(200, await self._coming(name), render.HEADERS)
        return Answer(200, await self._picture(start, end, step), render.HEADERS)

    async def _coming(self, span: str) -> bytes:
        _, length, step = SPANS[span]
        now = time.time_ns() // 1_000_000
        return await self._picture(now, now + length, step)

    async def _picture(self, start: int, end: int, step: int) -> bytes:
        found = await self._service.outlook(start, end, step)
        body = {
            "step_ms": found.step_ms,
            "estimated": found.estimated,
            "at": [one.start_ms for one in found.steps],
            "due": [one.count for one in found.steps],
        }
        return _encode(body)

    def _nodes_part(self, nodes: Sequence[LivingNode]) -> str:
        return render.page("now_nodes.html", {"base": self._frames.base, **_owners(nodes)}).decode()

    async def nodes(self, visit: Visit) -> Answer:
        """Nodes with their processes, and workers."""
        nodes = await self._service.nodes()
        workers = [(node, worker) for node in nodes for worker in node.activity.workers]
        workers.sort(key=lambda pair: (pair[1].identity, pair[0].id))
        workers = workers[:MOST]
        missing = sum(node.activity.worker_count for node in nodes) - len(workers)
        members = [(node, member) for node in nodes for member in node.members]
        queues = await self._looks.last(renewed=visit.partly)
        functions, count = served.functions(nodes)
        return self._frames.page(
            visit, "nodes.html", workers=workers, missing=missing, unserved=[q for q in queues if q.unserved],
            functions=functions, more_functions=count - len(functions), members=members[:MOST],
            more_members=max(0, len(members) - MOST), **_owners(nodes),
        )  # fmt: skip


def _whole(visit: Visit, name: str, otherwise: int) -> int:
    text = visit.query.get(name, str(otherwise))
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Refusal(400, f"{name} {text[:20]!r} is no moment; give Unix milliseconds")
    return int(text)


def _owners(nodes: Sequence[LivingNode]) -> dict[str, Any]:
    """The nodes, and for each partition whose it is: (partition, number of the node's colour, its id)."""
    cells: dict[int, tuple[int, int, str]] = {}
    partitions = max((member.store.partitions for node in nodes for member in node.members if member.store), default=0)
    keepers = [node for node in nodes if any(keeps_time(member) for member in node.members)]
    colours = {node.id: at % _COLOURS for at, node in enumerate(keepers)}
    # What a killed node kept, others keep by now: who beat last counts.
    for node in sorted(keepers, key=lambda node: node.seen_ms):
        for partition in node.activity.partitions:
            cells[partition] = (partition, colours[node.id], node.id)
    newest_ms = max((node.seen_ms for node in nodes), default=0)
    return {
        "nodes": nodes[:MOST],
        "silent": {node.id: ms for node in nodes if (ms := newest_ms - node.seen_ms) >= SILENT_MS},
        "more_nodes": max(0, len(nodes) - MOST),
        "colours": colours,
        "partitions": partitions,
        "cells": [cells.get(at, (at, -1, "")) for at in range(partitions)] if partitions <= 256 else [],
    }
