"""The client's calls on a store, in the caller's own process: the transport beside gRPC.

The calls are those that a node serves, so both ways check, refuse and answer the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from delaybox.api import errors
from delaybox.api.grpc.calls import Caller, Serialized, attribute_of
from delaybox.api.grpc.guard import too_long
from delaybox.api.grpc.scheduler import Scheduler
from delaybox.api.grpc.settings import receive_limit
from delaybox.api.grpc.status import BY_NUMBER, field_of
from delaybox.client.batches import StoredBatch, TaskBatch
from delaybox.client.errors import REFUSALS, REFUSED_CODES, CallTimeout, Failure, closed
from delaybox.client.steps import Invoke, OpenStream
from delaybox.core.errors import DelayBoxError, InvalidTask
from delaybox.core.limits import DEFAULT_PAYLOAD_BYTES
from delaybox.core.scopes import EVERYTHING
from delaybox.core.webhook import WebhookRules
from delaybox.direct.address import DirectAddress, direct_address
from delaybox.direct.opening import EVENTS, HISTORY, OpenedStore
from delaybox.direct.scheduler import DirectScheduler
from delaybox.direct.threads import DirectThreads
from delaybox.service import Service
from delaybox.wire.bounds import check_items
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.json.tasks import TaskRules
from delaybox.wire.shell_rules import ShellRules

_DESCRIBED: Final = pb.DESCRIPTOR.services_by_name["Scheduler"].methods
_METHODS: Final = {method.name: attribute_of(method.name) for method in _DESCRIBED}
_ANSWERS: Final[dict[str, type[Message]]] = {method.name: GetMessageClass(method.output_type) for method in _DESCRIBED}
_LIMIT: Final = receive_limit(DEFAULT_PAYLOAD_BYTES)
_COUNTED: Final = 16 * 1024
"""The items of a request of more bytes are counted, as a node does before it parses one."""
_WAITING: Final = 4
"""Answers of a stream that wait to be received."""
_RULES: Final = TaskRules(
    # Whether a command is run and a URL is called is for the node that would do it to judge; it has the settings.
    shell=ShellRules(payloads=True, judged_later=True),
    webhooks=WebhookRules(enabled=True, allow=("0.0.0.0/0", "::/0", "localhost")),
)


class _NoMetadata:
    """A call without gRPC comes with nothing beside its request."""

    def invocation_metadata(self) -> None:
        return None


@contextlib.contextmanager
def _hold(size: int) -> Iterator[None]:
    """A caller's own memory is not rationed."""
    yield


_CALLER: Final = Caller(EVERYTHING, _NoMetadata(), _hold)


@dataclass(frozen=True, slots=True)
class DirectTarget:
    """A store, as the target of a client's calls."""

    address: DirectAddress

    @property
    def endpoints(self) -> tuple[str, ...]:
        """One, for people."""
        return (self.address.describe(),)

    def batch(self, tasks: Sequence[pb.NewTask]) -> TaskBatch:
        """The request for tasks in bulk: as they stand."""
        return TaskBatch(tasks)

    def blocking(self) -> DirectThreads:
        """For threads. One thread carries the calls of all of them out."""
        return DirectThreads(self.looping)

    def looping(self) -> DirectLoop:
        """For one event loop."""
        return DirectLoop(self.address)


def direct_target(
    url: str,
    *,
    token: str | None,
    tls: bool,
    ca_file: str | Path | None,
    cert_file: str | Path | None,
    key_file: str | Path | None,
) -> DirectTarget:
    """The target that a URL leads to. ConfigError."""
    return DirectTarget(
        direct_address(url, token=token, tls=tls, ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    )


class DirectLoop:
    """Carries calls out on one event loop. The store is opened by the first call. See `transports.LoopTransport`."""

    def __init__(self, address: DirectAddress) -> None:
        self._address = address
        self._opening: asyncio.Task[DirectScheduler] | None = None
        self._opened: OpenedStore | None = None
        self._scheduler: DirectScheduler | None = None
        self.is_closed = False

    async def invoke(self, effect: Invoke) -> Message | Failure:
        if self.is_closed:
            return closed()
        sent = False
        try:
            async with asyncio.timeout(effect.timeout_s):
                scheduler = self._scheduler or await self.scheduler()
                request = checked(effect.method, effect.request)
                sent = True
                answer = await getattr(scheduler, _METHODS[effect.method])(request, _CALLER)
        except TimeoutError:
            return self.late(sent=sent)
        except DelayBoxError as error:
            return self.failed(error, sent=sent)
        return message_of(effect.method, answer)

    def open(self, effect: OpenStream) -> DirectStream:
        """Raises Unreachable when it was closed."""
        if self.is_closed:
            raise closed().error
        return DirectStream(self, effect)

    async def scheduler(self) -> DirectScheduler:
        """The calls, when the store is open. StoreUnavailable, StoreRefused, EmbeddedServerError."""
        if self._scheduler is None:
            if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
                self._opening = asyncio.create_task(self._open(), name="delaybox-opening")
            # Callers that stop waiting leave it to the others.
            self._scheduler = await asyncio.shield(self._opening)
        return self._scheduler

    async def _open(self) -> DirectScheduler:
        self._opened = await OpenedStore.open(self._address, looks=True)
        return DirectScheduler(Service(self._opened.store, history=HISTORY, events=EVENTS), _RULES)

    def late(self, *, sent: bool) -> Failure:
        error = CallTimeout(f"{self._address.describe()} did not answer in time")
        return Failure(error, "DEADLINE_EXCEEDED", sent=sent)

    def failed(self, error: DelayBoxError, *, sent: bool) -> Failure:
        return closed(sent=sent) if self.is_closed else failure_of(error, sent=sent)

    async def close(self) -> None:
        """Calls under way end as those of a closed client. Twice is harmless."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._opening is not None:
            if not self._opening.done():
                self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._scheduler is not None:
            await self._scheduler.stop()
        if self._opened is not None:
            await self._opened.close()


class DirectStream:
    """A stream of responses. A task of its own asks for them ahead, a few at a time."""

    def __init__(self, transport: DirectLoop, effect: OpenStream) -> None:
        self._transport = transport
        self._effect = effect
        self._requests: asyncio.Queue[Message | TaskBatch] = asyncio.Queue()
        self._answers: deque[Message | StoredBatch] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._over = False
        self._outcome: Failure | None = None
        self._defect: Exception | None = None
        self._task = asyncio.create_task(self._run(), name="delaybox-stream")

    def send(self, message: Message | TaskBatch) -> None:
        self._requests.put_nowait(message)

    async def receive(self) -> Message | StoredBatch | Failure | None:
        while not self._answers:
            if self._over:
                if self._defect is not None:
                    raise self._defect
                return closed(sent=True) if self._transport.is_closed else self._outcome
            self._news.clear()
            await self._news.wait()
        self._room.set()
        return self._answers.popleft()

    def drop(self) -> None:
        self._task.cancel()
        self._end()

    def _end(self) -> None:
        self._over = True
        self._news.set()

    async def _run(self) -> None:
        sent = False
        try:
            async with asyncio.timeout(self._effect.timeout_s):
                scheduler = await self._transport.scheduler()
                sent = True
                async with aclosing(self._call(scheduler)) as answers:
                    async for answer in answers:
                        given = isinstance(answer, StoredBatch)
                        self._answers.append(answer if given else message_of(self._effect.method, answer))
                        self._news.set()
                        while len(self._answers) >= _WAITING:
                            self._room.clear()
                            await self._room.wait()
        except TimeoutError:
            self._outcome = self._transport.late(sent=sent)
        except DelayBoxError as error:
            self._outcome = self._transport.failed(error, sent=sent)
        except Exception as error:  # noqa: BLE001 - raised where the caller receives
            self._defect = error
        finally:
            self._end()

    def _call(self, scheduler: DirectScheduler) -> Any:
        method, request = self._effect.method, self._effect.request
        call = getattr(scheduler, _METHODS[method])
        return call(self._sent() if request is None else checked(method, request), _CALLER)

    async def _sent(self) -> AsyncIterator[Any]:
        while True:
            request = await self._requests.get()
            # The client keeps the bytes of a batch below every limit.
            yield request if isinstance(request, TaskBatch) else checked(self._effect.method, request)


def checked(method: str, request: Message) -> Any:
    """The request as the call takes it. PayloadTooLarge for one that no node would take either."""
    size = request.ByteSize()
    if size > _LIMIT:
        raise too_long(size, _LIMIT)
    unparsed = method in Scheduler.unparsed
    if unparsed or size > _COUNTED:
        raw = request.SerializeToString()
        if unparsed:
            return raw
        check_items(raw, type(request))
    return request


def message_of(method: str, answer: Any) -> Message:
    """The answer as the client reads it."""
    if isinstance(answer, Serialized):
        return _ANSWERS[method].FromString(answer.SerializeToString())
    message: Message = answer
    return message


def failure_of(error: DelayBoxError, *, sent: bool) -> Failure:
    """The failure of a call, as it would be over gRPC."""
    status = BY_NUMBER[errors.outside(error).grpc].name
    if isinstance(error, InvalidTask):
        error.field = field_of(error)
    refused = status in REFUSALS or error.code in REFUSED_CODES
    wait_s = errors.retry_after_ms(error) / 1000 or None
    return Failure(error, status, sent=sent, refused=refused, retry_after_s=wait_s)
