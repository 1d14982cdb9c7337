"""delaybox.v1.Worker: the streams of workers. targets/worker_gateway.py has the sessions behind them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from itertools import islice

from delaybox.api.grpc.calls import Caller, Serialized
from delaybox.core.errors import InvalidTask, Overloaded, StoreUnavailable
from delaybox.core.lane import check_name, lane_of
from delaybox.core.limits import MAX_LABELS, MAX_LANES, MAX_WAIT_MS, STREAM_MESSAGE_BYTES
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import DEFAULT_QUEUE, TaskType
from delaybox.targets.worker_confirmations import Confirmations
from delaybox.targets.worker_gateway import Gateway
from delaybox.targets.worker_lost import RESUME_S, SILENT_BEATS
from delaybox.targets.worker_profile import DEFAULT_TAKES, Profile
from delaybox.targets.worker_session import WorkerSession
from delaybox.wire.gen import worker_pb2
from delaybox.wire.json.tasks import queue_of
from delaybox.wire.proto.tasks import retry_of

HELLO_S = 10.0
STORED_S = 2.0
"""How long the end of a worker's stream waits until all that it reported is stored."""
_TEXT = 200


class Streams:
    """Serves Work over a gateway. ``process``: this one's name on the list of members. ``on_progress`` is called with a
    worker's progress report on a running task, ``announce`` with the functions' own queues."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        node: str,
        process: str = "",
        heartbeat_ms: int,
        on_progress: Callable[[WorkerSession, worker_pb2.TaskProgress], None],
        announce: Callable[[Mapping[str, str]], Awaitable[None]],
    ) -> None:
        self._gateway = gateway
        self._node = node
        self._process = process
        self._heartbeat_ms = heartbeat_ms
        self._on_progress = on_progress
        self._announce = announce
        self._open: set[_Stream] = set()

    def end(self) -> None:
        """Ends every stream with a last confirmation, so that the workers go elsewhere."""
        for stream in self._open:
            stream.farewell = True
            stream.end()

    async def work(self, requests: AsyncIterator[worker_pb2.FromWorker], caller: Caller) -> AsyncIterator[Serialized]:
        """One stream, from its hello to its end."""
        try:
            first = await asyncio.wait_for(anext(requests), HELLO_S)
        except TimeoutError:
            raise InvalidTask("hello", f"no hello came within {HELLO_S:.0f} s; send it in the first message") from None
        except StopAsyncIteration:
            raise InvalidTask("hello", "the stream ended before a hello came; send it in the first message") from None
        if not first.HasField("hello"):
            raise InvalidTask("hello", "the first message has no hello; say what this worker serves")
        if self._process and self._process in first.hello.not_at:
            raise Overloaded(f"{self._process} has this worker already, and asked it to find another node")
        profile = profile_of(first.hello)
        await self._announce(profile.own)
        stream = _Stream(self._heartbeat_ms / 1000)
        session, resumed = self._session(first.hello, profile, stream)
        self._open.add(stream)
        reading = asyncio.ensure_future(self._read(requests, session, first, stream))
        try:
            yield self._welcome(session, resumed=resumed)
            while not stream.over:
                idle = await stream.wait()
                for raw in session.messages(idle=idle):
                    yield Serialized(raw)
            if stream.ended_by_worker:
                # It has no more to send, and ends when the stream does: all that it reported is to be stored by then.
                await session.received.wait(within_s=STORED_S)
            elif stream.farewell:
                for raw in session.messages(idle=True):
                    yield Serialized(raw)
            if reading.done() and not reading.cancelled() and (error := reading.exception()) is not None:
                raise error
        finally:
            self._open.discard(stream)
            stream.close()
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reading
            if stream.replaced:
                pass  # its worker came back on another stream
            elif stream.silent:
                self._gateway.end(session)
            else:
                self._gateway.broken(session)

    def _session(self, hello: worker_pb2.Hello, profile: Profile, stream: _Stream) -> tuple[WorkerSession, bool]:
        if hello.session:
            known = self._gateway.resume(hello.session, hello.seen, profile)
            if known is not None:
                known.attach(stream.ring, stream.replace)
                return known, True
        session = self._gateway.open(profile)
        session.attach(stream.ring, stream.replace)
        return session, False

    def _welcome(self, session: WorkerSession, *, resumed: bool) -> Serialized:
        message = worker_pb2.ToWorker(
            seen=session.received.confirmed,
            welcome=worker_pb2.Welcome(
                session=session.id,
                resumed=resumed,
                heartbeat_ms=self._heartbeat_ms,
                resume_ms=int(RESUME_S * 1000),
                node=self._node,
                process=self._process,
                max_output=self._gateway.max_output,
                adopt_ms=self._gateway.lease_ms if session.profile.moves else 0,
            ),
        )
        return Serialized(message.SerializeToString())

    async def _read(
        self,
        requests: AsyncIterator[worker_pb2.FromWorker],
        session: WorkerSession,
        first: worker_pb2.FromWorker,
        stream: _Stream,
    ) -> None:
        try:
            self._receive(session, first)
            async for message in requests:
                stream.received()
                self._receive(session, message)
                if message.drain:
                    stream.confirm(session.received)
                if stream.over:
                    return
            stream.ended_by_worker = True
        finally:
            stream.end()

    def _receive(self, session: WorkerSession, message: worker_pb2.FromWorker) -> None:
        for report in message.progress:
            self._on_progress(session, report)
        session.receive(message)
        self._gateway.received(session)


class _Stream:
    """Decides when to write: there is something to write, a heartbeat is due, or the stream is over."""

    def __init__(self, beat_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._beat_s = beat_s
        self._wake = asyncio.Event()
        self._received_at = self._loop.time()
        self._idle = False
        self.over = False
        self.silent = False
        self.replaced = False
        self.farewell = False
        """The node ends it, and says last how much is stored."""
        self.ended_by_worker = False
        self._to_confirm = False
        self._confirming: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(beat_s, self._beat)

    def ring(self) -> None:
        self._wake.set()

    def received(self) -> None:
        self._received_at = self._loop.time()

    def end(self) -> None:
        self.over = True
        self._wake.set()

    def replace(self) -> None:
        """The session's worker has opened another stream."""
        self.replaced = True
        self.end()

    def confirm(self, received: Confirmations) -> None:
        """Something is written as soon as what was received is confirmed: a worker that took its credit back gives
        none, to no node, before that."""
        self._to_confirm = True
        if self._confirming is None or self._confirming.done():
            self._confirming = asyncio.ensure_future(self._confirm(received))

    async def _confirm(self, received: Confirmations) -> None:
        while self._to_confirm:
            self._to_confirm = False
            await received.wait(within_s=STORED_S)
            self._speak()

    def _speak(self) -> None:
        self._idle = True
        self._wake.set()

    async def wait(self) -> bool:
        """Returns when there may be something to write. True: something must be written, such as a heartbeat."""
        await self._wake.wait()
        self._wake.clear()
        idle, self._idle = self._idle, False
        return idle

    def close(self) -> None:
        self._timer.cancel()
        if self._confirming is not None:
            self._confirming.cancel()

    def _beat(self) -> None:
        if self._loop.time() - self._received_at > SILENT_BEATS * self._beat_s:
            self.silent = True
            self.end()
            return
        self._speak()
        self._timer = self._loop.call_later(self._beat_s, self._beat)


class NotYet:
    """Stands before the store is open."""

    def work(self, requests: object, caller: Caller) -> AsyncIterator[Serialized]:
        """Refuses."""
        raise StoreUnavailable("the store is not open yet; try again in a moment")


def profile_of(hello: worker_pb2.Hello) -> Profile:
    """Checks what a worker announces; InvalidTask names the field."""
    if 0 < hello.max_message < STREAM_MESSAGE_BYTES:
        raise InvalidTask(
            "hello.max_message",
            f"hello.max_message {hello.max_message} is less than {STREAM_MESSAGE_BYTES} bytes; a worker takes "
            "messages of at least that",
        )
    if not hello.functions:
        raise InvalidTask("hello.functions", "hello names no functions; a worker serves at least one")
    # Counted before anything else: 2,500 functions of 2,500 queues took 18 s.
    shared = len(hello.queues) or 1
    pairs = sum(len(function.queues) or shared for function in hello.functions)
    if max(pairs, shared) > MAX_LANES:
        raise Overloaded(
            f"hello names {max(pairs, shared)} pairs of function and queue, more than {MAX_LANES}; use several workers"
        )
    for queue in hello.queues:
        queue_of("hello.queues", queue)
    lanes: set[bytes] = set()
    retry: dict[str, RetryPolicy] = {}
    own: dict[str, str] = {}
    keep_ms: dict[str, int] = {}
    for function in hello.functions:
        check_name(TaskType.WORKER, function.name)
        for queue in function.queues:
            queue_of("hello.functions.queues", queue)
        queues = function.queues or hello.queues or [DEFAULT_QUEUE]
        lanes.update(lane_of(TaskType.WORKER, queue, function.name) for queue in queues)
        if function.HasField("retry"):
            retry[function.name] = retry_of(function.retry)
        if function.HasField("queue"):
            own[function.name] = function.queue and queue_of("hello.functions.queue", function.queue)
        if function.keep_result_ms:
            keep_ms[function.name] = min(function.keep_result_ms, MAX_WAIT_MS)
    labels = {name[:_TEXT]: hello.labels[name][:_TEXT] for name in islice(hello.labels, MAX_LABELS)}
    return Profile(
        lanes=frozenset(lanes),
        retry=retry,
        keep_ms=keep_ms,
        own=own,
        labels=labels,
        identity=hello.identity[:_TEXT],
        concurrency=hello.concurrency,
        takes=hello.max_message or DEFAULT_TAKES,
        moves=hello.moves,
    )
