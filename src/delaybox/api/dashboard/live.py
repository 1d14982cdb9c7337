"""The numbers of this second, for all who look: one frame a second, made and encoded once.

Nothing is asked of the store while nobody looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from delaybox.api.dashboard.totals import NodeTotals, totals
from delaybox.core.errors import DelayBoxError, Overloaded
from delaybox.service import Service

_log = logging.getLogger("delaybox.api")

MOST: Final = 4_000
"""Readers at once in one process."""
_KEPT: Final = 300
"""Frames that a new reader gets at once: the last five minutes, if somebody looked."""
_WINDOW: Final = 5
"""Seconds over which lateness is taken."""
_IN_TIME_S: Final = 2.0
_encode = msgspec.json.Encoder().encode


class Frame(msgspec.Struct, gc=False):
    """One second. Counts None: the store did not answer, for the reason ``away``. ``late_p50``, ``late_p99``: ms, None
    where this node fired nothing in the last seconds. ``scheduled``, ``fired``: by this node, in a second.
    ``fired_everywhere``: by all living nodes, the mean of the last minute."""

    at_ms: int
    pending: int | None = None
    ready: int | None = None
    in_flight: int | None = None
    dead: int | None = None
    estimated: bool = False
    scheduled: float = 0.0
    fired: float = 0.0
    fired_everywhere: float = 0.0
    late_p50: float | None = None
    late_p99: float | None = None
    nodes: int = 0
    workers: int = 0
    away: str = ""


class Live:
    """Makes the frames while there are readers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._frames: deque[Frame] = deque(maxlen=_KEPT)
        self._readers = 0
        self._next: asyncio.Future[bytes] | None = None
        self._making: asyncio.Task[None] | None = None
        self._seen: deque[tuple[float, NodeTotals]] = deque(maxlen=_WINDOW + 1)

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Events until the reader goes: first those of the last minutes, then one a second. Overloaded."""
        if self._readers >= MOST:
            raise Overloaded(f"{MOST} pages are open already; close some, or look at another node")
        self._readers += 1
        try:
            self._begin()
            yield b"retry: 2000\nevent: before\ndata: " + _encode(list(self._frames)) + b"\n\n"
            while True:
                self._begin()
                assert self._next is not None
                # Shielded, because a reader that goes must not end the wait of the others.
                yield await asyncio.shield(self._next)
        finally:
            self._readers -= 1

    def _begin(self) -> None:
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_future()
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make(), name="delaybox-dashboard")

    async def _make(self) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time()
        while self._readers:
            frame = await self._frame()
            self._frames.append(frame)
            if self._next is not None and not self._next.done():
                self._next.set_result(b"event: now\ndata: " + _encode(frame) + b"\n\n")
            at = max(at + 1.0, loop.time())
            await asyncio.sleep(at - loop.time())
        self._seen.clear()

    async def _frame(self) -> Frame:
        frame = Frame(at_ms=time.time_ns() // 1_000_000)
        self._rates(frame)
        try:
            async with asyncio.timeout(_IN_TIME_S):
                counts = await self._service.counts()
                nodes = await self._service.nodes()
        except TimeoutError:
            frame.away = f"the store did not answer within {_IN_TIME_S:g} s"
        except DelayBoxError as error:
            frame.away = str(error)
        except Exception:  # noqa: BLE001 - those who look are told, and the next frame may be better
            _log.exception("the dashboard's numbers cannot be taken")
            frame.away = "the numbers cannot be taken; the node's log says more"
        else:
            frame.pending, frame.ready, frame.in_flight, frame.dead = (
                counts.pending, counts.ready, counts.in_flight, counts.dead,
            )  # fmt: skip
            frame.estimated = counts.estimated
            frame.nodes = len(nodes)
            for node in nodes:
                activity = node.activity
                frame.workers += activity.worker_count
                frame.fired_everywhere += sum(activity.fired_per_s.values())
            frame.fired_everywhere = round(frame.fired_everywhere, 1)
        return frame

    def _rates(self, frame: Frame) -> None:
        now = time.monotonic()
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # a process of this node is starting or ending
            done = totals()
            if self._seen:
                then, last = self._seen[-1]
                took = max(now - then, 0.001)
                frame.scheduled = round(max(0.0, done.scheduled - last.scheduled) / took, 1)
                frame.fired = round(max(0.0, done.fired - last.fired) / took, 1)
            self._seen.append((now, done))
            first = self._seen[0][1]
            frame.late_p50 = done.late_ms(0.5, first)
            frame.late_p99 = done.late_ms(0.99, first)
