"""A worker's own engine: claims its tasks straight from Redis, and keeps time in a child process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
import socket
from collections.abc import Sequence
from typing import Final

from delaybox.api.grpc.work import profile_of
from delaybox.client.endpoints import pause_s
from delaybox.core.errors import StoreUnavailable
from delaybox.core.membership import WORKER, Activity, member_id
from delaybox.core.queue import RuleBook
from delaybox.direct.address import DirectAddress
from delaybox.direct.children import Children
from delaybox.direct.opening import EVENTS, HISTORY, OpenedStore
from delaybox.direct.session import OwnSession, Seat
from delaybox.engine.loops import end
from delaybox.engine.options import EngineOptions
from delaybox.roles.worker_host import WorkerHost
from delaybox.targets.worker_gateway import Gateway
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker.crew import Crew
from delaybox.worker.line import Again, WorkerLine
from delaybox.worker.task_sources import DirectOptions

log = logging.getLogger("delaybox.worker")

KIND: Final = WORKER
MAX_OUTPUT: Final = 64 << 10
"""Bytes of a result, as of a node that is not configured otherwise."""
POLL_MS: Final = 1_000
_BEATS_A_LEASE: Final = 3
_GOODBYE_S: Final = 5.0


class DirectSource:
    """The engine of one run of a worker, which its crews share. See `worker.task_sources.TaskSource`.

    ``stack``: closed at the end.
    """

    serves_metrics: Final = True

    def __init__(self, address: DirectAddress, name: str, options: DirectOptions, stack: contextlib.ExitStack) -> None:
        self._address = address
        self._options = options
        self._stack = stack
        # Readable in lists of nodes, and unique: process ids come again.
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:40] or KIND
        self._node = f"{plain}-{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        self._opening: asyncio.Task[WorkerHost] | None = None
        self._opened: OpenedStore | None = None
        self._host: WorkerHost | None = None
        self._children: Children | None = None
        self._ceding: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def where(self) -> str:
        """For people."""
        return self._address.describe()

    def lines(self, crew: Crew, introduction: pb.Hello, replace: Again) -> Sequence[DirectLine]:
        return [self.line("", crew, introduction, replace)]

    def line(
        self, place: str, crew: Crew, introduction: pb.Hello, replace: Again, leaving: WorkerLine | None = None
    ) -> DirectLine:
        return DirectLine(self, crew, introduction)

    async def host(self) -> WorkerHost:
        """The engine, when it runs; tries until the server is there. Errors that no further try can mend."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="delaybox-opening")
        return await asyncio.shield(self._opening)

    async def _open(self) -> WorkerHost:
        failures = 0
        while True:
            try:
                self._opened = opened = await OpenedStore.open(self._address, looks=False)
                break
            except StoreUnavailable as error:
                failures += 1
                if failures == 1:
                    log.warning("%s: %s; trying again", self.where, error)
                await asyncio.sleep(pause_s(failures, random.random()))
        o = self._options
        roles = ("work", "clock") if o.clock else ("work",)
        options = EngineOptions(
            node_id=member_id(self._node, KIND, 1),
            node=self._node,
            kind=KIND,
            roles=roles,
            clock=False,
            runs_tasks=True,
            channel="",
            lease_ms=o.lease_ms,
            heartbeat_ms=max(1, o.lease_ms // _BEATS_A_LEASE),
            poll_ms=POLL_MS,
            history=HISTORY,
            events=EVENTS,
        )
        self._host = host = WorkerHost(opened.store, options, queues=RuleBook(), max_output=MAX_OUTPUT, facts=_facts)
        self._children = Children(opened, self._address.prefix, node_id=self._node, roles=roles, options=o)
        await asyncio.gather(host.start(), self._children.start())
        return host

    def cede(self) -> None:
        """The crews take no more tasks: others claim them from now on, however long those take that run here. Twice is
        harmless."""
        if self._host is not None and self._ceding is None:
            self._ceding = asyncio.create_task(self._host.engine.cede(), name="delaybox-cedes")

    async def stop(self) -> None:
        """Twice is harmless."""
        if self._stopping:
            return
        self._stopping = True
        if self._ceding is not None:
            await end(self._ceding)
        if self._opening is not None:
            if not self._opening.done():
                self._opening.cancel()
            await asyncio.wait({self._opening})
        try:
            if self._host is not None:
                await self._host.stop()
            if self._children is not None:
                await self._children.stop()
            if self._opened is not None:
                await self._opened.close()
        finally:
            self._stack.close()


class DirectLine:
    """By which tasks come to one crew. See `worker.task_sources.Line`."""

    def __init__(self, source: DirectSource, crew: Crew, introduction: pb.Hello) -> None:
        self.crew = crew
        self.up = asyncio.Event()
        self.session = Seat(crew, self._emptied)
        self._source = source
        self._introduction = introduction
        self._own: OwnSession | None = None
        self._host: WorkerHost | None = None
        self._closing = False
        self._over = asyncio.Event()

    @property
    def server(self) -> str:
        """For people."""
        return self._source.where

    async def run(self) -> None:
        profile = profile_of(self._introduction)
        opening = asyncio.ensure_future(self._source.host())
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({opening, over}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                return
            host = self._host = opening.result()
            await host.announce(profile.own)
            self._own = self.session.open(host, profile)
            if self._closing:
                self.drain()
            self.up.set()
            log.info("session with %s (%s functions)", self._source.where, self.crew.kind.value)
            await over
        finally:
            for waiting in (opening, over):
                waiting.cancel()
            self.up.clear()
            self.crew.slots.leave(self.session)
            if self._host is not None and self._own is not None:
                # What was not reported goes to others.
                self._host.gateway.end(self._own)
            for run in list(self.session.held.values()):
                self.crew.lose(run)
            self.session.held.clear()
            self.crew.freed()

    def poke(self) -> None:
        """A place may have come free."""
        if self._own is not None and not self._over.is_set():
            self.session.poke()

    def drain(self) -> None:
        """Takes no more tasks; ends when all that are held have been reported."""
        self._closing = True
        if self._own is not None:
            self._own.leave()
        self._source.cede()
        self._emptied()

    def cut(self) -> None:
        """Ends now; tasks that were not reported go to others."""
        self._closing = True
        self._over.set()

    def _emptied(self) -> None:
        if self._closing and not self.session.held:
            self._over.set()


def _facts(gateway: Gateway) -> Activity | None:
    return gateway.activity()
