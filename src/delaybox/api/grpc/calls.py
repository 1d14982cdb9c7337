"""The methods of a service as grpc calls them: with the guard before each (guard.py), and errors as statuses.

A service is an object with one method a gRPC method, in snake case. It gets the parsed request (of a stream: an
iterator of them) and the `Caller`; methods that the service names as ``unparsed`` get bytes. It returns the response,
or yields responses. What a service has in ``before`` for a method is called first, before the request is read, and may
refuse it. DelayBoxErrors become statuses.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from delaybox import metrics
from delaybox.api import call_scopes, disclosure, errors
from delaybox.api.grpc import took
from delaybox.api.grpc.guard import Context, DeadlinePassed, Guard, MessageTooLong, TooSlow
from delaybox.api.grpc.status import BY_NUMBER, DETAILS, status_of
from delaybox.core.errors import DelayBoxError, InvalidTask
from delaybox.core.scopes import Grant
from delaybox.otel import tracing
from delaybox.service.arrivals import ArrivingCall
from delaybox.wire.bounds import check_items

_log = logging.getLogger("delaybox.grpc")

_OUR_CONTRACT = "delaybox."
_LATE = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


class CallContext(Protocol):
    """What a call came with beside its request."""

    def invocation_metadata(self) -> Any:
        """Pairs of name and value, or None."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller and its rights."""

    grant: Grant
    context: CallContext
    hold: Callable[[int], AbstractContextManager[None]]
    """Counts bytes that the call keeps in memory. Overloaded."""


class Serialized:
    """A response that is serialized already."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Returns it unchanged."""
        return self._raw


class Servicer(Protocol):
    """One gRPC service of the process; its calls are methods in snake case."""

    @property
    def descriptor(self) -> ServiceDescriptor:
        """Of the service in the contract."""
        ...


def handler_of(service: Servicer, guard: Guard, *, name: str = "") -> grpc.GenericRpcHandler:
    """Serves every method of a service, under another full name if one is given.

    LookupError for a method without a rule, AttributeError for a method of DelayBox's own contract without code. Other
    contracts (health, reflection) may gain methods with a newer package: methods without code are left out, and their
    callers get UNIMPLEMENTED.
    """
    described = service.descriptor
    name = name or described.full_name
    ours = described.full_name.startswith(_OUR_CONTRACT)
    made = {}
    for method in described.methods:
        attribute = attribute_of(method.name)
        if not ours and not hasattr(service, attribute):
            continue
        call = getattr(service, attribute)
        made[method.name] = _method(f"/{name}/{method.name}", method, call, guard, service)
    return grpc.method_handlers_generic_handler(name, made)


def attribute_of(method: str) -> str:
    """The name of the function that serves a gRPC method."""
    return _CAMEL.sub("_", method).lower()


def _method(
    name: str, method: MethodDescriptor, call: Callable[..., Any], guard: Guard, service: Servicer
) -> grpc.RpcMethodHandler[Any, Any]:
    rule = call_scopes.grpc_rule(name)
    kind: type[Message] = GetMessageClass(method.input_type)
    unparsed = method.name in getattr(service, "unparsed", ())
    before: Callable[[], None] | None = getattr(service, "before", {}).get(method.name)
    path = getattr(service, "paths", {}).get(method.name, "")
    limits = disclosure.limits(rule, method.output_type.name)

    def parsed(raw: bytes) -> Any:
        if unparsed:
            return raw
        try:
            check_items(raw, kind)
            return kind.FromString(raw)
        except DecodeError:
            # Answered here: grpc would answer INTERNAL, as if the node were to blame.
            raise InvalidTask(
                "request", f"the request is not a {method.input_type.full_name}; see the contract"
            ) from None

    async def one(requests: AsyncIterator[bytes], context: Context) -> Any:
        arriving = ArrivingCall()

        async def answer() -> Any:
            with guard.admitted(context, rule) as grant:
                if before is not None:
                    before()
                raw = await guard.only(requests, rule)
                arriving.take()
                with guard.hold(len(raw)):
                    request = parsed(raw)
                    del raw
                    caller = Caller(grant, context, guard.hold)
                    return _shown(limits, caller, await call(request, caller))

        with arriving:
            return await _ended(name, path, context, answer())

    async def many(requests: AsyncIterator[bytes], context: Context) -> None:
        arriving = ArrivingCall()

        async def answer() -> None:
            with guard.admitted(context, rule) as grant:
                raw = await guard.only(requests, rule)
                arriving.take()
                with guard.hold(len(raw)):
                    request = parsed(raw)
                del raw
                caller = Caller(grant, context, guard.hold)
                async for response in call(request, caller):
                    await context.write(_shown(limits, caller, response))

        with arriving:
            await _ended(name, path, context, answer(), timed=False)

    async def both(requests: AsyncIterator[bytes], context: Context) -> None:
        async def messages() -> AsyncIterator[Any]:
            async for raw in requests:
                yield parsed(guard.plain(raw, rule))
            ArrivingCall().take()

        async def answer() -> None:
            with guard.admitted(context, rule) as grant:
                if before is not None:
                    before()
                caller = Caller(grant, context, guard.hold)
                async for response in call(messages(), caller):
                    await context.write(_shown(limits, caller, response))

        await _ended(name, path, context, answer(), timed=False)

    # Every method is registered as one that streams requests. The request of a unary method would be read by grpc
    # before this code is called.
    if method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(both if method.client_streaming else many, None, _serialize)
    assert not method.client_streaming, f"{name} streams requests only, which nothing here serves"
    return grpc.stream_unary_rpc_method_handler(one, None, _serialize)


def _shown(limits: disclosure.Fields | None, caller: Caller, response: Any) -> Any:
    """The response without the fields that this caller may not see; `TaskInfo.brief` marks that."""
    if limits is None or disclosure.whole(caller.grant):
        return response
    for field, _ in response.ListFields():
        if field.name not in limits:
            response.ClearField(field.name)
    if "brief" in response.DESCRIPTOR.fields_by_name:
        response.brief = True
    return response


def _serialize(message: Message | Serialized) -> bytes:
    return message.SerializeToString()


async def _ended(name: str, path: str, context: Context, answer: Awaitable[Any], *, timed: bool = True) -> Any:
    """The answer, or a status with the reason why there is none; counted either way. ``timed``: it is no stream."""
    began = perf_counter()
    code = "OK"
    status: status_pb2.Status
    try:
        return await answer
    except DelayBoxError as error:
        status = status_of(error, path)
        if isinstance(error, MessageTooLong):
            status.code = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        code = BY_NUMBER[status.code].name
    except DeadlinePassed:
        code = "DEADLINE_EXCEEDED"
        status = status_pb2.Status(code=_LATE, message="the deadline passed before the call began")
    except TooSlow as error:
        code = "DEADLINE_EXCEEDED"
        status = status_pb2.Status(code=_LATE, message=str(error))
    except asyncio.CancelledError:
        code = "CANCELLED"
        raise
    except Exception:  # noqa: BLE001 - whatever it was, the caller gets an answer
        code = "INTERNAL"
        if context.cancelled():
            # The caller went away in the middle of an answer.
            code = "CANCELLED"
            return None
        # The request is not logged: payloads are the callers' secrets.
        _log.exception("%s failed", name)
        status = status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message=errors.DEFECT_TEXT)
    finally:
        metrics.rpc_done(name, code)
        if timed:
            took.one(name, perf_counter() - began, context, b"" if tracing.spans is None else tracing.latest.get())
    # Only here, where the error is gone: it holds stack frames, and these hold the request.
    trailer = ((DETAILS, status.SerializeToString()),) if status.details else ()
    return await context.abort(BY_NUMBER[status.code], status.message, trailing_metadata=trailer)
