"""Keeps child processes running: the one place where a node starts, restarts and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Literal

from delaybox.core.errors import DelayBoxError
from delaybox.processes.restart import RestartBackoff, reason
from delaybox.processes.settings import ProcessSettings
from delaybox.processes.spawn import ChildProcess
from delaybox.processes.spec import ProcessKind, Spec

log = logging.getLogger("delaybox.processes")


class Keeper:
    """Keeps one child running, with the same settings every time."""

    def __init__(
        self, spec: Spec, number: int = 1, *, counted_in: str = "", backoff: RestartBackoff | None = None
    ) -> None:
        self.kind = spec.kind
        self.spec = spec
        self.number = number
        self._counted_in = counted_in
        self._backoff = backoff or RestartBackoff()
        self._child: ChildProcess | None = None
        self._since = 0.0

    @property
    def child(self) -> ChildProcess:
        """The one that runs now."""
        assert self._child is not None, "it was not started"
        return self._child

    @property
    def _what(self) -> str:
        return self.kind.what + (f" {self.number}" if self.spec.count > 1 or self.number > 1 else "")

    async def start(self) -> None:
        """Starts the child, which imports what it needs and then waits for `begin`."""
        # One that comes and goes counts where the last one of its number did, so that the counters do not become more
        # and more.
        counted_as = f"{self.kind}{self.number}" if self.number > self.spec.count else ""
        self._child = await ChildProcess.start(
            self.kind,
            listening=self.spec.listening,
            counted_in=self._counted_in,
            counted_as=counted_as,
            shared=self.spec.shared,
        )

    async def begin(self, *, again: bool = False) -> Mapping[str, str]:
        """Lets the child work. Returns when it is ready, with the facts that it found out. ChildFailed when it cannot
        start."""
        found = await self.child.begin(self._settings(again))
        self._since = asyncio.get_running_loop().time()
        return found

    def learn(self, facts: Mapping[str, object]) -> None:
        """Adds facts to the settings, for a child that does not work yet and for those that will replace it."""
        names = {field.name for field in fields(self.spec.settings)}
        known = {name: value for name, value in facts.items() if name in names}
        self.spec = replace(self.spec, settings=replace(self.spec.settings, **known))  # type: ignore[arg-type]

    async def run(self, stop: asyncio.Event) -> None:
        """Starts the child again, after a pause, whenever it died, until ``stop`` is set."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stopping.done():
                died = asyncio.create_task(self.child.died.wait())
                await asyncio.wait({stopping, died}, return_when=asyncio.FIRST_COMPLETED)
                died.cancel()
                if not stopping.done():
                    await self._replace(stopping)
        finally:
            stopping.cancel()

    async def stop(self) -> None:
        """Stops the child. Twice is harmless."""
        if self._child is not None:
            await self._child.stop()

    async def _replace(self, stopping: asyncio.Task[bool]) -> None:
        lived_s = asyncio.get_running_loop().time() - self._since
        pause_s = self._backoff.pause_s(lived_s)
        log.error("%s", reason(self._what, self.child.exit_code, lived_s, pause_s))
        while True:
            await asyncio.wait({stopping}, timeout=pause_s)
            if stopping.done():
                return
            try:
                await self.start()
                await self.begin(again=True)
                return
            except (DelayBoxError, OSError) as error:
                pause_s = self._backoff.pause_s()
                log.error("the %s did not start: %s; trying again in %.1f s", self._what, error, pause_s)

    def _settings(self, again: bool) -> ProcessSettings:
        listening = self.spec.listening
        fd = None if listening is None else listening.fileno()
        return replace(self.spec.settings, number=self.number, again=again, listening=fd)


class Supervisor:
    """Keeps all children of a node. ``counted_in``: the folder for their counters."""

    def __init__(self, specs: Sequence[Spec], *, counted_in: str = "") -> None:
        self._specs = specs
        self._counted_in = counted_in
        self._until = asyncio.Event()
        self._kept: dict[Keeper, asyncio.Task[None]] = {}
        self._retiring: set[Keeper] = set()
        self._defect: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keepers = [
            Keeper(spec, number, counted_in=counted_in) for spec in specs for number in range(1, spec.count + 1)
        ]

    async def start(self) -> None:
        """Starts all of them; they import what they need, and none works before `begin`."""
        await _together(keeper.start() for keeper in self._keepers)

    def learn(self, **facts: object) -> None:
        """Adds facts to the settings of every child that does not work yet."""
        for keeper in self._keepers:
            keeper.learn(facts)

    async def begin_first(self, **facts: object) -> Mapping[str, str]:
        """Lets the first child work, which gets ``facts`` at this one start. Returns what it found out for the
        others."""
        first = self._keepers[0]
        before = first.spec
        first.learn(facts)
        try:
            return await first.begin()
        finally:
            first.spec = before

    async def begin(self, kinds: Collection[ProcessKind]) -> None:
        """Lets the children of ``kinds`` work; returns when all are ready. ChildFailed when one cannot start."""
        await _together(keeper.begin() for keeper in self._of(kinds) if not keeper.child.ready)

    async def run(self, stop: asyncio.Event) -> None:
        """Restarts children that died, also those that are added meanwhile, until ``stop`` is set."""
        self._until = stop
        for keeper in self._keepers:
            self._keep(keeper)
        stopping = asyncio.create_task(stop.wait())
        either: set[asyncio.Future[Literal[True]] | asyncio.Future[None]] = {stopping, self._defect}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._defect.done():
            self._defect.result()
        await asyncio.gather(*self._kept.values())

    def count(self, kind: ProcessKind) -> int:
        """How many children of a kind there are."""
        return len(self._of([kind]))

    async def add(self, kind: ProcessKind) -> None:
        """Starts one more child of a kind that there is, and keeps it running. ChildFailed when it cannot start."""
        same = self._of([kind])
        taken = {keeper.number for keeper in (*same, *self._retiring)}
        number = next(n for n in itertools.count(1) if n not in taken)
        added = Keeper(same[0].spec, number, counted_in=self._counted_in)
        try:
            await added.start()
            # As in the place of one that died: the node's store is there, and its start is over.
            await added.begin(again=True)
        except BaseException:
            await added.stop()
            raise
        self._keepers.append(added)
        self._keep(added)

    async def retire(self, kind: ProcessKind) -> None:
        """Ends the child of a kind that has the highest number; returns when it has finished its work."""
        last = max(self._of([kind]), key=lambda keeper: keeper.number)
        self._keepers.remove(last)
        self._retiring.add(last)
        try:
            if (kept := self._kept.pop(last, None)) is not None:
                kept.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await kept
            await last.stop()
        finally:
            self._retiring.discard(last)

    def _keep(self, keeper: Keeper) -> None:
        kept = self._kept[keeper] = asyncio.create_task(keeper.run(self._until))
        kept.add_done_callback(self._ended)

    def _ended(self, kept: asyncio.Task[None]) -> None:
        if not kept.cancelled() and (error := kept.exception()) is not None and not self._defect.done():
            self._defect.set_exception(error)

    async def stop(self, kinds: Collection[ProcessKind] = frozenset(ProcessKind)) -> None:
        """Stops the children of ``kinds``: they accept no more connections, and get the grace to finish what is under
        way.

        Twice is harmless.
        """
        for spec in self._specs:
            if spec.kind in kinds and spec.listening is not None:
                spec.listening.close()
        retiring = [keeper for keeper in self._retiring if keeper.kind in kinds]
        await asyncio.gather(*(keeper.stop() for keeper in (*self._of(kinds), *retiring)))

    def _of(self, kinds: Collection[ProcessKind]) -> list[Keeper]:
        return [keeper for keeper in self._keepers if keeper.kind in kinds]


async def _together(starting: Iterable[Coroutine[None, None, object]]) -> None:
    """Awaits all, even if one fails, so that every child that started can be stopped; then raises the first error."""
    for outcome in await asyncio.gather(*starting, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
