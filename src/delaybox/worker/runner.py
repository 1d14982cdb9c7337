"""Runs a worker: a crew for each kind of function, a session with each node for each crew, and their end."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import socket
from collections.abc import Iterable, Mapping
from typing import Any, Final

from delaybox import __version__
from delaybox.client import channel
from delaybox.core.errors import ConfigError, DelayBoxError
from delaybox.otel.environment import follow_program
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker import forks, pulse, pushing
from delaybox.worker.attempt import HAND_BACK, Common, Stats, TaskRun
from delaybox.worker.coroutines import Coroutines
from delaybox.worker.cpu_processes import Processes
from delaybox.worker.crew import Crew
from delaybox.worker.figures import Figures, Places, State
from delaybox.worker.functions import FunctionKind, TaskFunction
from delaybox.worker.line import GOODBYE_S, Again, WorkerLine
from delaybox.worker.sizes import Sizes
from delaybox.worker.task_sources import Line, WorkerTarget
from delaybox.worker.threads import Threads
from delaybox.worker.timeouts import STOP_S

log = logging.getLogger("delaybox.worker")

CREWS: Final[Mapping[FunctionKind, type[Crew]]] = {crew.kind: crew for crew in (Coroutines, Threads, Processes)}
_HURRY_S: Final = 1.0
_MOST_HELLO: Final = 1 << 20
"""Most bytes of a worker's hello. A node refuses a larger one, however often it is tried."""


class Runner:
    """One run of a worker, from `start` to `stop`."""

    def __init__(
        self,
        *,
        name: str,
        functions: Mapping[str, TaskFunction[..., Any]],
        served: Mapping[FunctionKind, Mapping[str, tuple[str, ...]]],
        sizes: Sizes,
        target: WorkerTarget,
        labels: Mapping[str, str],
        metrics_port: int | None = None,
        metrics_host: str = "127.0.0.1",
        metrics_sent: bool = False,
    ) -> None:
        self._source = target.source()
        self._common = Common()
        self._lines: dict[asyncio.Task[None], Line] = {}
        self._hurry = asyncio.Event()
        self._refused: DelayBoxError | None = None
        self._asked = asyncio.Event()
        self._stopping = False
        self._crews: list[tuple[Crew, pb.Hello]] = []
        for kind, names in served.items():
            crew = CREWS[kind]({name: functions[name] for name in names}, size=sizes.of(kind), common=self._common)
            crew.freed = self._poke
            hello = pb.Hello(
                queues=sorted({queue for queues in names.values() for queue in queues}),
                functions=[functions[name].described(list(queues)) for name, queues in names.items()],
                labels=labels,
                identity=f"{name} on {socket.gethostname()}, process {os.getpid()}, delaybox {__version__}, "
                f"Python {platform.python_version()}",
                concurrency=sizes.of(kind),
                max_message=channel.MAX_MESSAGE,
                moves=True,
            )
            if hello.ByteSize() > _MOST_HELLO:
                raise ConfigError(
                    f"worker {name!r} has {len(names)} functions, and with labels {hello.ByteSize()} bytes to tell a "
                    f"node; at most {_MOST_HELLO} are taken: use several workers, or shorter labels"
                )
            self._crews.append((crew, hello))
        self._pulse: pulse.Pulse | None = None
        # The source comes first: straight on Redis it may name the folder in which processes count.
        push = not metrics_sent and pushing.wanted(os.environ)
        if push or pulse.wanted(metrics_port):
            figures = self._common.figures = Figures(name for names in served.values() for name in names)
            port = None if self._source.serves_metrics else metrics_port
            self._pulse = pulse.Pulse(figures, self.stats, self._state, host=metrics_host, port=port, push=push)

    @property
    def stats(self) -> Stats:
        """What was done so far."""
        return self._common.stats

    @property
    def held(self) -> int:
        """Tasks under way."""
        return sum(len(line.session.held) for line in self._lines.values())

    async def start(self) -> None:
        """Begins; returns before a node was reached. ValueError when a cpu function cannot be run in another
        process."""
        self._common.bind()
        if self._pulse is not None:
            await self._pulse.start()
        follow_program("delaybox.worker.traced")
        for crew, _ in self._crews:
            await crew.start()
        for crew, hello in self._crews:
            for line in self._source.lines(crew, hello, self._again(crew, hello)):
                self._begin(line)

    async def connected(self) -> None:
        """Returns when each kind of function has a session."""
        for crew, _ in self._crews:
            ups = [asyncio.ensure_future(line.up.wait()) for line in self._lines.values() if line.crew is crew]
            _, others = await asyncio.wait(ups, return_when=asyncio.FIRST_COMPLETED)
            for other in others:
                other.cancel()

    async def until_asked_to_stop(self, grace_s: float, watched: int | None = None) -> int:
        """Runs until SIGTERM or SIGINT, or until no node will have it. The exit code. ``watched``: see `Worker.run`."""
        loop = asyncio.get_running_loop()

        def on_word() -> None:
            if watched is not None and not os.read(watched, 4096):
                loop.remove_reader(watched)
                self._asked.set()

        if watched is not None:
            loop.add_reader(watched, on_word)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ask_to_stop)
        forks.set_free()
        try:
            await self.start()
            await self._asked.wait()
            await self.stop(grace_s)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        if self._refused is not None:
            raise self._refused
        return 0

    def ask_to_stop(self) -> None:
        """What a signal does: asks to stop; the second time at once."""
        if self._asked.is_set():
            self._hurry.set()
        self._asked.set()

    async def stop(self, grace_s: float) -> None:
        """Takes no more tasks, waits for those that run, hands back those that are left. Twice is harmless."""
        if self._stopping:
            return
        self._stopping = True
        log.info("draining: %d tasks under way, they have %g s", self.held, grace_s)
        for line in self._lines.values():
            line.drain()
        if not await self._ended(grace_s):
            log.warning("%d tasks did not end in time: they are stopped and handed back", self.held)
            for line in self._lines.values():
                for run in [*line.session.held.values(), *line.crew.strays.running]:
                    line.crew.end_early(run, HAND_BACK)
            if not await self._ended(STOP_S):
                for run in self._all_held():
                    run.hand_back()
                self._hurry.clear()
                await self._ended(_HURRY_S if self._hurry.is_set() else GOODBYE_S)
        for line in self._lines.values():
            line.cut()
        if self._lines:
            await asyncio.wait(self._lines, timeout=GOODBYE_S)
        for crew, _ in self._crews:
            await crew.stop()
        await self._source.stop()
        if self._pulse is not None:
            await self._pulse.stop()
        log.info("stopped: %s", self.stats.summary())

    def _state(self) -> State:
        sessions: dict[str, tuple[int, int]] = {}
        # Not the slots' own count, which includes places that were only offered to a node.
        taken = {crew.kind: crew.slots.lingering for crew, _ in self._crews}
        for line in self._lines.values():
            taken[line.crew.kind] += len(line.session.held)
            up, down = sessions.get(line.server, (0, 0))
            sessions[line.server] = (up + 1, down) if line.up.is_set() else (up, down + 1)
        kinds = {crew.kind for crew, _ in self._crews}
        served = {line.crew.kind for line in self._lines.values() if line.up.is_set()}
        return State(
            places={crew.kind.value: Places(crew.slots.size, taken[crew.kind]) for crew, _ in self._crews},
            sessions=sessions,
            ready=served == kinds and not self._stopping,
            draining=self._stopping,
        )

    async def _ended(self, within_s: float) -> bool:
        """Whether all sessions ended within that time. A second signal ends the wait."""
        if not self._lines:
            return True
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            waiting: set[asyncio.Future[Any]] = set(self._lines)
            loop = asyncio.get_running_loop()
            end = loop.time() + within_s
            while waiting and not hurry.done():
                _, waiting = await asyncio.wait(
                    {*waiting, hurry}, timeout=max(0.0, end - loop.time()), return_when=asyncio.FIRST_COMPLETED
                )
                waiting.discard(hurry)
                if loop.time() >= end:
                    break
            return not waiting
        finally:
            hurry.cancel()

    def _all_held(self) -> Iterable[TaskRun]:
        return [run for line in self._lines.values() for run in line.session.held.values()]

    def _again(self, crew: Crew, hello: pb.Hello) -> Again:
        def again(place: str, leaving: WorkerLine | None = None) -> None:
            if not self._stopping:
                self._begin(self._source.line(place, crew, hello, again, leaving))

        return again

    def _begin(self, line: Line) -> None:
        task = asyncio.get_running_loop().create_task(line.run())
        self._lines[task] = line
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._lines.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._refused = error if isinstance(error, DelayBoxError) else self._refused
            log.error("a session cannot go on: %s", error, exc_info=None if isinstance(error, DelayBoxError) else error)
            if not self._lines:
                self._asked.set()

    def _poke(self) -> None:
        for line in self._lines.values():
            line.poke()
