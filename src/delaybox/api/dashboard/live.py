"""What the page Now shows of this second, for all who look: made and encoded once, and sent to each.

The numbers come once a second; the nodes and the forecast when they have changed. A page that asked for these itself
would cost as much as all the rest, for each one that looks. Nothing is asked of the store while nobody looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

import msgspec

from delaybox.api.dashboard.totals import NodeTotals, totals
from delaybox.core.errors import DelayBoxError, Overloaded
from delaybox.core.membership import LivingNode
from delaybox.service import Service

_log = logging.getLogger("delaybox.api")

MOST: Final = 4_000
"""Readers at once in one process."""
_KEPT: Final = 300
"""Frames that a new reader gets at once: the last five minutes, if somebody looked."""
_WINDOW: Final = 5
"""Seconds over which lateness is taken."""
_IN_TIME_S: Final = 2.0
_EVERY_S = 1.0
_NODES_EVERY: Final = 2
_FORECAST_EVERY: Final = 3
"""Frames after which these are looked at again."""
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
    """Makes the frames while there are readers.

    ``forecast``: the picture of the coming time, by its span, as JSON. ``nodes``: the page's part about them, as HTML.
    """

    def __init__(
        self,
        service: Service,
        *,
        forecast: Callable[[str], Awaitable[bytes]],
        nodes: Callable[[Sequence[LivingNode]], str],
    ) -> None:
        self._service = service
        self._ask_forecast = forecast
        self._show_nodes = nodes
        self._frames: deque[Frame] = deque(maxlen=_KEPT)
        self._count = 0
        self._readers: Counter[str] = Counter()
        self._next: asyncio.Future[bytes] | None = None
        self._making: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._seen: deque[tuple[float, NodeTotals]] = deque(maxlen=_WINDOW + 1)
        self._nodes = b""
        self._forecasts: dict[str, bytes] = {}

    async def read(self, span: str = "", *, ended: Callable[[], bool] = lambda: False) -> AsyncGenerator[bytes, None]:
        """Events until the reader goes: first those of the last minutes, then one a second. Overloaded.

        ``span``: of the forecast that the reader shows; "" for none. ``ended``: whether the reader's session has."""
        if self._readers.total() >= MOST:
            raise Overloaded(f"{MOST} pages are open already; close some, or look at another node")
        self._readers[span] += 1
        try:
            self._begin()
            nodes, ahead = self._nodes, self._forecasts.get(span, b"")
            yield b"retry: 2000\nevent: before\ndata: " + _encode(list(self._frames)) + b"\n\n" + nodes + ahead
            while True:
                # Shielded, because a reader that goes must not end the wait of the others.
                text = await asyncio.shield(self._begin())
                if ended():
                    return
                # By what this one was told last: who is slow is not there for every frame.
                if self._nodes is not nodes:
                    nodes = self._nodes
                    text += nodes
                if self._forecasts.get(span, ahead) is not ahead:
                    ahead = self._forecasts[span]
                    text += ahead
                yield text
        finally:
            self._readers[span] -= 1
            if self._readers[span] <= 0:
                del self._readers[span]
                self._forecasts.pop(span, None)

    def _begin(self) -> asyncio.Future[bytes]:
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_future()
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make(), name="delaybox-dashboard")
        return self._next

    async def _make(self) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time()
        while self._readers:
            frame, nodes = await self._frame()
            self._frames.append(frame)
            if self._count % _FORECAST_EVERY == 0 and (self._looking is None or self._looking.done()):
                # Beside the frames, because over a year of many tasks it takes a while.
                self._looking = asyncio.create_task(self._look_ahead(), name="delaybox-dashboard-forecast")
            if self._count % _NODES_EVERY == 0 and nodes is not None:
                shown = b"event: nodes\ndata: " + _encode(self._show_nodes(nodes)) + b"\n\n"
                if shown != self._nodes:
                    self._nodes = shown
            self._count += 1
            if self._next is not None and not self._next.done():
                self._next.set_result(b"event: now\ndata: " + _encode(frame) + b"\n\n")
            at = max(at + _EVERY_S, loop.time())
            await asyncio.sleep(at - loop.time())
        self._seen.clear()
        self._nodes = b""

    async def _look_ahead(self) -> None:
        for span in list(self._readers):
            if not span:
                continue
            try:
                found = b"event: forecast\ndata: " + await self._ask_forecast(span) + b"\n\n"
            except DelayBoxError:
                continue  # the frames say that the store is away
            if span in self._readers and found != self._forecasts.get(span):
                self._forecasts[span] = found

    async def _frame(self) -> tuple[Frame, list[LivingNode] | None]:
        """The numbers, and the nodes; None where the store did not answer."""
        nodes = None
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
        return frame, nodes

    def _rates(self, frame: Frame) -> None:
        now = time.monotonic()
        # A process of this node is starting or ending; its file may be there, and nothing in it yet.
        with contextlib.suppress(OSError, RuntimeError, ValueError, struct.error):
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
