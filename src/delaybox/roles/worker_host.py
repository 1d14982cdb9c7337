"""The engine that claims for workers, with what stands beside it: cancels, progress, and their functions' own queues.

It is no time keeper (ADR 0010). It runs in the process that the workers are connected to, or in a worker's own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from delaybox import metrics
from delaybox.core.errors import DelayBoxError
from delaybox.core.membership import Activity
from delaybox.core.queue import LiveRules, RuleBook
from delaybox.engine.engine import Engine
from delaybox.engine.listener import cancels
from delaybox.engine.loops import Loop, end
from delaybox.engine.options import EngineOptions
from delaybox.store import functions, progress
from delaybox.store.store import Store
from delaybox.targets.worker_gateway import Gateway
from delaybox.targets.worker_session import WorkerSession
from delaybox.targets.worker_spread import EVERY_S, WorkerSpread
from delaybox.wire import progress as wire_progress
from delaybox.wire.gen import worker_pb2

log = logging.getLogger("delaybox.workers")

PROGRESS_S = 0.25
"""Pause between two writes of progress; of each task only the last report in between is stored."""
_IDLE_S = 0.5
"""The same while nothing is reported."""


class WorkerHost:
    """Claims for the sessions of its ``gateway`` from `start` to `stop`.

    ``facts``: what the heartbeat reports of the workers; None: send none for now. ``max_output``: bytes of a result.
    With ``options.runs_tasks`` the sessions are this process's own.
    """

    def __init__(
        self,
        store: Store,
        options: EngineOptions,
        *,
        queues: RuleBook,
        max_output: int,
        facts: Callable[[Gateway], Activity | None],
    ) -> None:
        rules = LiveRules(queues)
        self._store = store
        # Workers of this very process have nowhere to go.
        self._spread = None if options.runs_tasks else WorkerSpread(options.node_id)
        self.engine = Engine(
            store,
            {},
            options,
            hosts=True,
            facts=lambda: facts(self.gateway),
            rules=rules,
            on_list=None if self._spread is None else self._spread.listed,
        )
        self.gateway = Gateway(
            self.engine,
            rules=rules,
            now_ms=store.now_ms,
            max_output=max_output,
            lease_ms=options.lease_ms,
            same_process=options.runs_tasks,
        )
        self.engine.meets = self.gateway.met
        self._listener = cancels(store, lambda task_id: self.gateway.cancel(task_id))
        self._noting = Loop("progress of tasks", self._note)
        self._spreading = Loop("spread of workers", self._even_out)
        self._reported: dict[bytes, bytes] = {}
        self._idle = False
        """Nothing was reported lately."""
        self._announced: dict[str, str] = {}

    async def start(self) -> None:
        """Returns when it is subscribed to wake-ups and to cancels."""
        await self.engine.start()
        await self._listener.start()
        self._noting.start()
        if self._spread is not None:
            self._spreading.start()

    async def empty(self, within_s: float) -> bool:
        """Hands nothing more out; returns when the workers hold nothing. False: they still do after ``within_s``."""
        await self._spreading.stop()
        self.gateway.leave()
        loop = asyncio.get_running_loop()
        give_up = loop.time() + within_s
        # Beside what follows, because the store may be away.
        ceding = asyncio.create_task(self.engine.cede(), name="delaybox-cedes")
        while self.gateway.held and loop.time() < give_up:
            await self.gateway.wait_for_answer(give_up - loop.time())
        await end(ceding)
        return not self.gateway.held

    async def stop(self) -> None:
        """Twice is harmless."""
        await self._spreading.stop()
        await self._noting.stop()
        await self._listener.stop()
        await self.engine.stop(0.0)

    def progress(self, session: WorkerSession, report: worker_pb2.TaskProgress) -> None:
        """A worker reports how far a task is."""
        d = session.delivery(report.sequence)
        if d is not None:
            self._reported[d.task_id] = wire_progress.encode(wire_progress.checked(report.progress))
            if self._idle:
                self._idle = False
                self._noting.wake()

    async def announce(self, own: Mapping[str, str]) -> None:
        """Keeps the queues that functions have of their own. Where the store is away they are kept later."""
        self._announced = functions.waiting(self._announced, own)
        try:
            await self._keep_announced()
        except DelayBoxError as error:
            log.warning("the queues that functions have of their own are not kept yet: %s", error)

    async def _even_out(self) -> float:
        if self._spread is not None:
            for session in self._spread.choose(self.gateway.sessions, time.monotonic()):
                session.ask_to_move()
        return EVERY_S

    async def _keep_announced(self) -> None:
        """Stores the announcements that could not be stored before."""
        if self._announced:
            now, self._announced = self._announced, {}
            try:
                left_out = await functions.announce(self._store, now)
            except BaseException:
                self._announced = functions.waiting(now, self._announced)
                raise
            if left_out:
                log.warning(
                    "%d functions have a queue of their own already: that of %s is not kept, callers must name it",
                    functions.MOST,
                    ", ".join(left_out[:5]),
                )

    async def _note(self) -> float:
        await self._keep_announced()
        metrics.workers(self.gateway.connected, self.gateway.held)
        if not self._reported:
            self._idle = True
            return _IDLE_S
        reports, self._reported = self._reported, {}
        await progress.note(self._store, reports)
        return PROGRESS_S
