"""Keeps one session with one server over broken streams: the shell with the I/O around `session.py`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import Any, Final, Protocol, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from delaybox.client.channel import ChannelTarget
from delaybox.client.endpoints import pause_s
from delaybox.core.errors import DelayBoxError
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker.attempt import TaskRun
from delaybox.worker.crew import Crew
from delaybox.worker.gathering import LEAST_S, MOST_S, Gathering
from delaybox.worker.session import NEVER, ContractBroken, NodeSession

log = logging.getLogger("delaybox.worker")

METHOD: Final = "/delaybox.v1.Worker/Work"
WELCOME_S: Final = 10.0
GOODBYE_S: Final = 3.0
SILENT_BEATS: Final = 3
LOOKS: Final = 4
"""How often a line that is to lead elsewhere is opened: behind a load balancer each time leads to another node."""
LOOK_AGAIN_S: Final = 0.1

Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"
_BROKEN = (grpc.RpcError, ContractBroken, DecodeError, OSError, asyncio.InvalidStateError)


_WONT: Final = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
)
"""Errors that another try does not mend."""


class WorkerRefused(DelayBoxError):
    """A node refuses this worker: its token, or what it announces."""

    code = "refused"


class _Over(Exception):
    """The node closed the stream."""


class Again(Protocol):
    """Begins another line to a place."""

    def __call__(self, place: str, leaving: WorkerLine | None = None) -> None:
        """``leaving``: a line that goes on unless the new one leads to another process than the crew's lines."""


class WorkerLine:
    """Keeps one session with one server and hands what comes to its crew.

    `run` ends when the session is over: after `drain` when no task is held any more, or after `cut`. ``replace`` is
    called when the node is going away, so that a new session begins while this one finishes. ``leaving``: see `Again`;
    if this line does not lead elsewhere, it ends.
    """

    def __init__(
        self,
        server: str,
        target: ChannelTarget,
        crew: Crew,
        introduction: pb.Hello,
        *,
        replace: Again,
        leaving: WorkerLine | None = None,
    ) -> None:
        self.server = server
        self.crew = crew
        self.session: NodeSession[TaskRun] = NodeSession(introduction, self.poke)
        self.up = asyncio.Event()
        """Set while the session is connected: between a welcome and the stream's end."""
        self._target = target
        self._replace = replace
        self._replaced = False
        self._leaving = leaving
        self._looking = False
        """Whether another line looks for a node to move to."""
        self._poked = asyncio.Event()
        self._closing = False
        self._cut = self._given_up = False
        self._call: Any = None
        self._watch: asyncio.TimerHandle | None = None
        self._goodbye = self._spoke = self._due_to_speak = False
        self._received_at = 0.0
        self._failures = 0
        self._reported_down = False
        self._took_part = False
        """Whether the last stream got as far as a welcome."""
        self._silent = False
        """Whether the session broke because nothing came any more, and not because its stream was closed."""
        self._known = False
        """Whether this server took this worker before."""
        self._forgotten: asyncio.TimerHandle | None = None

    # Asked from outside

    def poke(self) -> None:
        """Wakes the sender: there may be something to send."""
        self._poked.set()

    def drain(self) -> None:
        """Takes no more tasks; ends when all that are held have been reported."""
        self._closing = True
        self.crew.slots.leave(self.session)
        self.session.refusing = True
        self.session.drain()
        self.poke()

    def cut(self) -> None:
        """Ends now; tasks that were not reported go to others."""
        self._closing = self._cut = True
        self.crew.slots.leave(self.session)
        if self._call is not None:
            self._call.cancel()
        self.poke()

    @property
    def ending(self) -> bool:
        """Whether it takes no more tasks."""
        return self._closing or self._cut

    # The session's life

    async def run(self) -> None:
        """Opens streams until the session is over."""
        try:
            while not self._cut:
                try:
                    await self._stream()
                    return
                except _Over as over:
                    why = str(over) or "the node closed the stream"
                except grpc.aio.AioRpcError as error:
                    why = f"{error.code().name}: {error.details()}"
                    if error.code() in _WONT and not self._known and self._leaving is None and not self._cut:
                        raise WorkerRefused(f"{self.server} will not have this worker: {why}") from None
                    # A node that is overloaded answers with the same code, and that passes.
                    if self._took_part and "larger than max" in why:
                        self._too_large(why)
                except _BROKEN as error:
                    why = f"{type(error).__name__}: {error}"
                if self._over():
                    return
                if self._leaving is not None:
                    self._failures += 1
                    if self._failures >= LOOKS or self._leaving.ending:
                        return
                    await asyncio.sleep(LOOK_AGAIN_S * random.random())
                    continue
                if self._replaced and self.session.id and self.session.adopt_ms:
                    self._given_up = True
                    self._part()
                else:
                    self._down(why)
                    await self._pause()
                if self._over():
                    return
        finally:
            if self._leaving is not None:
                self._leaving._looking = False
            self._stop_forgetting()
            self.crew.slots.leave(self.session)
            self.crew.strays.free(self.session)
            self.crew.offer()
            for run in list(self.session.held.values()):
                self.crew.lose(run)
            self.session.held.clear()
            self.crew.freed()

    def _over(self) -> bool:
        """Whether nothing is left to do or to send."""
        session = self.session
        settled = self._given_up or not session.id or session.silent
        return self._cut or (self._closing and settled and not self._waits)

    @property
    def _waits(self) -> bool:
        """Whether this session has attempts under way, or may still get some that their node left."""
        session = self.session
        return bool(session.held or session.away or (self.crew.strays and not self._replaced))

    def _down(self, why: str) -> None:
        self.up.clear()
        self._failures += 1
        if self._forgotten is None and self.session.id:
            # A timer, because a try to connect may be under way at that moment and take long.
            resume_s = self.session.resume_ms / 1000
            if self.session.adopt_ms and self.crew.strays.takers:
                resume_s /= 2  # another node is there, and adopts the tasks before this one gives them to others
            self._forgotten = asyncio.get_running_loop().call_later(resume_s, self._give_up)
        if not self._reported_down:
            self._reported_down = True
            log.warning("no session with %s (%s functions): %s; trying again", self.server, self.crew.kind.value, why)

    def _too_large(self, why: str) -> None:
        if failed := self.session.refused(why):
            log.error("%s refuses the size of a message (%s): %d tasks fail because of that", self.server, why, failed)

    async def _pause(self) -> None:
        """Waits until the next try."""
        wait = pause_s(self._failures, random.random())
        if self._failures == 1:
            wait /= 4  # a stream that broke alone is back at once, and the session may be resumed
        loop = asyncio.get_running_loop()
        end = loop.time() + wait
        while (left := end - loop.time()) > 0 and not self._over():
            with contextlib.suppress(TimeoutError):
                self._poked.clear()
                await asyncio.wait_for(self._poked.wait(), left)

    def _stop_forgetting(self) -> None:
        if self._forgotten is not None:
            self._forgotten.cancel()
            self._forgotten = None

    def _give_up(self) -> None:
        """The node does not know this session any more, or is about to forget it."""
        self._given_up = True
        self.crew.slots.leave(self.session)
        # A node that only fell silent lives perhaps, and is about to give the tasks to others.
        if self.session.adopt_ms and (self.crew.strays.takers or not self._silent):
            self._part()
            return
        given_up = self.session.abandon()
        if given_up:
            log.warning(
                "%s was unreachable for longer than it keeps a session: %d tasks are stopped, as others have them",
                self.server,
                len(given_up),
            )
        for run in given_up:
            self.crew.lose(run)
        self.crew.freed()

    def _part(self) -> None:
        """Ends the session; what it has goes on and is offered to the next node that is there, this one or another."""
        session = self.session
        parted, lost, reports = session.part()
        if parted:
            log.warning("%s is gone: %d tasks go on and are brought to another node", self.server, len(parted))
        for run in lost:
            self.crew.lose(run)
        self.crew.common.stats.lost += reports
        self.crew.carry(session, parted, session.adopt_ms)
        self.crew.freed()

    def _hand_over(self) -> None:
        """The node is going away: another one that is there takes over what runs."""
        takers = self.crew.strays.takers
        if self.session.adopt_ms and takers and self.session.held:
            self.crew.carry(self.session, self.session.part_running(), self.session.adopt_ms, there=True)

    def _channel(self) -> grpc.aio.Channel:
        # A connection of its own, because streams that fail on a shared one would make others wait for its back-off.
        options = (*self._target.options, ("grpc.use_local_subchannel_pool", 1))
        if self._target.credentials is None:
            return grpc.aio.insecure_channel(self.server, options)
        return grpc.aio.secure_channel(self.server, self._target.credentials, options)

    async def _stream(self) -> None:
        """One stream, from hello to its end. Returns when the session ended as it should."""
        channel = self._channel()
        self._took_part = False
        writer: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        try:
            method: Any = channel.stream_stream(METHOD, request_serializer=None, response_deserializer=None)
            call = self._call = method(metadata=self._target.metadata)
            # A session can be resumed for a short time only, so a short wait and another try are better than a long
            # wait.
            patience_s = (
                WELCOME_S if self._forgotten is None or self._given_up else max(1.0, self.session.resume_ms / 2_000)
            )
            async with asyncio.timeout(patience_s):
                await call.write(self.session.hello(self._processes if self._leaving is not None else ()))
                await self._read(call)
            self._arrived()
            self._took_part = True
            for raw in self.session.resend():
                await call.write(raw)
            self.up.set()
            writer = loop.create_task(self._write(call))
            self._watch = loop.call_later(self.session.heartbeat_ms / 1000, self._beat, call)
            while await self._read(call):
                pass
        except TimeoutError:
            raise _Over("it gave no welcome in time") from None
        except asyncio.CancelledError:
            # Raise it if somebody cancelled this task; if only the call was cancelled, by `cut`, the stream has just
            # ended.
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise _Over from None
        finally:
            self._call = None
            self.up.clear()
            self._leave_strays()
            if self._watch is not None:
                self._watch.cancel()
            if writer is not None:
                writer.cancel()
                await asyncio.wait({writer})
            await channel.close()

    async def _read(self, call: Call) -> bool:
        """Handles one message. False when the stream ended as it should."""
        raw: Any = await call.read()
        if raw is grpc.aio.EOF:
            code = await call.code()
            if code is not grpc.StatusCode.OK:
                raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), await call.details())
            if not self._goodbye:
                raise _Over
            return False
        self._received_at = time.monotonic()
        session = self.session
        before, adopt_ms = session.id, session.adopt_ms
        received = session.receive(pb.ToWorker.FromString(raw))
        if session.id != before:
            self.crew.strays.free(session)
            self.crew.carry(session, received.parted, adopt_ms)
        if received.stale:
            self.crew.common.stats.stale += received.stale
            log.warning("%d reports came too late: other workers had been given the tasks", received.stale)
        self.crew.handle(self.session, received)
        if received.move and session.adopt_ms and not (self._looking or self.ending):
            self._looking = True
            self._replace(self.server, self)
        if received.drain and not self._replaced:
            self._replaced = True
            log.info("%s is going away: its tasks go on, and a new session is opened", self.server)
            self.drain()
            self._leave_strays()
            self._replace(self.server)
        return True

    @property
    def _processes(self) -> frozenset[str]:
        """The processes that the crew has sessions with."""
        return frozenset(session.process for session in self.crew.strays.takers)

    def _arrived(self) -> None:
        """There is a welcome. If this line was to lead elsewhere and does, the other one is left, and what it runs goes
        on here."""
        leaving = self._leaving
        if leaving is None:
            self._welcomed()
            return
        if leaving.ending or self.session.process in self._processes:
            self.session.part()
            raise _Over
        self._leaving, self._failures = None, 0
        log.info("%s has many workers: what runs there goes on at node %s", leaving.session.node, self.session.node)
        # All in one go: in between places would be given away that are taken.
        leaving._replaced = True
        leaving.drain()
        leaving._leave_strays()
        self._welcomed()
        leaving._hand_over()

    def _leave_strays(self) -> None:
        """This session takes over no more tasks."""
        takers = self.crew.strays.takers
        if self.session in takers:
            takers.remove(self.session)

    def _welcomed(self) -> None:
        session = self.session
        if self._reported_down or self._failures == 0:
            log.info("session with %s (node %s, %s functions)", self.server, session.node, self.crew.kind.value)
        self._failures = 0
        self._known = True
        self._silent = False
        self._reported_down = self._given_up = False
        self.crew.common.stats.streams += 1
        self._stop_forgetting()
        if session.adopt_ms and not self._replaced:
            self.crew.strays.takers.append(session)
            self.crew.offer()
        if not self._closing and not session.refusing:
            self.crew.slots.join(session)
        self.crew.freed()

    async def _write(self, call: Call) -> None:
        """Sends messages and heartbeats; cancels the call when the node is silent for too long."""
        try:
            await self._send(call)
        except (grpc.RpcError, asyncio.InvalidStateError):
            call.cancel()  # the reader has the reason
        except Exception:
            # An unexpected error here must also end the reader, or tasks would arrive and never be reported.
            log.exception("what is to be said to %s cannot be written; the stream is opened again", self.server)
            call.cancel()

    async def _send(self, call: Call) -> None:
        session, slots, poked = self.session, self.crew.slots, self._poked
        gathering = Gathering(asyncio.get_running_loop().time)
        while True:
            poked.clear()
            if self._replaced:
                self._hand_over()
            if not (self._closing or session.refusing or session.draining):
                slots.join(session)
            ends = session.ends
            raw = session.flush(slots.room(session), slots.ahead_of(session))
            if raw is None and self._due_to_speak:
                raw = session.beat()
            if raw is not None:
                self._due_to_speak = False
                self._spoke = True
                await call.write(raw)
                gathering.sent(ends)
                if session.held:
                    await self._gather(gathering)
            elif self._closing and not self._waits:
                # The node closes the stream when it has handled everything.
                self._goodbye = True
                await call.done_writing()
                await asyncio.sleep(GOODBYE_S)
                call.cancel()
            else:
                await poked.wait()
                if gathering.busy and not session.pressing:
                    # Tasks that began together end together: the first one would go alone.
                    await asyncio.sleep(LEAST_S)

    async def _gather(self, gathering: Gathering) -> None:
        """Returns when the next message is worth its cost, or something else than plain ends is to be said."""
        await asyncio.sleep(LEAST_S)
        session, crew, poked = self.session, self.crew, self._poked
        while session.held and not session.pressing and (left_s := gathering.left_s(crew.queued)) > 0:
            session.wake_at = gathering.enough(session.ends, crew.queued, crew.slots.share)
            if session.ends >= session.wake_at:
                break
            poked.clear()
            # Tasks that have not begun may begin in a moment, and then places wait.
            over = asyncio.get_running_loop().call_later(min(left_s, MOST_S / 2), poked.set)
            await poked.wait()
            over.cancel()
        session.wake_at = NEVER

    def _beat(self, call: Call) -> None:
        """Once in a heartbeat: gives up a silent node, and sends a heartbeat if nothing else was sent."""
        beat = self.session.heartbeat_ms / 1000
        silent = time.monotonic() - self._received_at
        if silent > SILENT_BEATS * beat:
            self._silent = True
            log.warning("%s is silent for %.1f s: the stream is opened again", self.server, silent)
            call.cancel()
            return
        self._due_to_speak, self._spoke = not self._spoke, False
        if self._due_to_speak:
            self.poke()
        self._watch = asyncio.get_running_loop().call_later(beat / 2, self._beat, call)
