"""What stands in front of every method: the token, the rule, the deadline, the bound on bytes; and errors as statuses.

A service is an object with one method a gRPC method, in snake case. It gets the parsed request (of a stream: an
iterator of them) and the `Caller`; methods that the service names as ``unparsed`` get bytes. It returns the response,
or yields responses. DelayBoxErrors become statuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from delaybox import metrics
from delaybox.api import disclosure, errors, policy
from delaybox.api.grpc.status import BY_NUMBER, DETAILS, status_of
from delaybox.api.tokens import Tokens
from delaybox.core.access import Grant
from delaybox.core.errors import DelayBoxError, InvalidTask, Overloaded, Unauthenticated
from delaybox.wire.bounds import check_items

_log = logging.getLogger("delaybox.grpc")

HELD_LIMIT = 256 * 1024 * 1024
"""Bytes of requests that are not answered yet, over all connections."""

Context = grpc.aio.ServicerContext[Any, Any]
_OUR_CONTRACT = "delaybox."
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


class DeadlinePassed(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what they may do."""

    grant: Grant
    context: Context


class Serialized:
    """A response that is serialized already."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """As it is."""
        return self._raw


class Service(Protocol):
    """One gRPC service of the process; its calls are methods in snake case."""

    @property
    def descriptor(self) -> ServiceDescriptor:
        """Of the service in the contract."""
        ...


class Guard:
    """What all services of a process share."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._held = 0

    def admit(self, context: Context, rule: policy.Rule) -> Grant:
        """What the caller may do. Unauthenticated, ScopeMissing, DeadlinePassed."""
        left: float | None = context.time_remaining()  # None, whatever its stubs say, where there is no deadline
        if left is not None and left <= 0:
            raise DeadlinePassed
        if isinstance(rule, policy.Open):
            return frozenset()
        given = b""
        for name, value in context.invocation_metadata() or ():
            if name == "authorization":
                if given:
                    # Which of the two a proxy looked at, nobody here can know.
                    raise Unauthenticated(
                        "the metadata authorization is given more than once; send it once", given=True
                    )
                given = value.encode() if isinstance(value, str) else value
        grant = self._tokens.grant(given)
        policy.admit(grant, rule)
        return grant

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Counts bytes that a call keeps in memory; Overloaded when all calls together keep too many."""
        if self._held + size > HELD_LIMIT:
            raise Overloaded("too many large requests at once; send it again later")
        self._held += size
        try:
            yield
        finally:
            self._held -= size


def handler_of(service: Service, guard: Guard, *, name: str = "") -> grpc.GenericRpcHandler:
    """Serves every method of a service, under another full name if one is given.

    LookupError for a method without a rule, AttributeError for a method of our own contract without code. A contract
    that is not ours grows with whatever version of its package is installed: what we have no code for is left out, and
    whoever calls it gets UNIMPLEMENTED.
    """
    described = service.descriptor
    name = name or described.full_name
    ours = described.full_name.startswith(_OUR_CONTRACT)
    made = {}
    for method in described.methods:
        attribute = _CAMEL.sub("_", method.name).lower()
        if not ours and not hasattr(service, attribute):
            continue
        call = getattr(service, attribute)
        made[method.name] = _method(f"/{name}/{method.name}", method, call, guard, service)
    return grpc.method_handlers_generic_handler(name, made)


def _method(
    name: str, method: MethodDescriptor, call: Callable[..., Any], guard: Guard, service: Service
) -> grpc.RpcMethodHandler[Any, Any]:
    rule = policy.grpc_rule(name)
    kind: type[Message] = GetMessageClass(method.input_type)
    unparsed = method.name in getattr(service, "unparsed", ())
    limits = disclosure.limits(rule, method.output_type.name)

    def parsed(raw: bytes) -> Any:
        if unparsed:
            return raw
        try:
            check_items(raw, kind)
            return kind.FromString(raw)
        except DecodeError:
            # Our own words: left to grpc it would be INTERNAL, as if we were to blame.
            raise InvalidTask(
                "request", f"the request is not a {method.input_type.full_name}; see the contract"
            ) from None

    async def one(raw: bytes, context: Context) -> Any:
        async def answer() -> Any:
            caller = Caller(guard.admit(context, rule), context)
            with guard.hold(len(raw)):
                return _shown(limits, caller, await call(parsed(raw), caller))

        return await _ended(name, context, answer())

    async def many(raw: bytes, context: Context) -> None:
        async def answer() -> None:
            caller = Caller(guard.admit(context, rule), context)
            with guard.hold(len(raw)):
                request = parsed(raw)
            async for response in call(request, caller):
                await context.write(_shown(limits, caller, response))

        await _ended(name, context, answer())

    async def both(requests: AsyncIterator[bytes], context: Context) -> None:
        async def answer() -> None:
            caller = Caller(guard.admit(context, rule), context)
            async for response in call((parsed(raw) async for raw in requests), caller):
                await context.write(_shown(limits, caller, response))

        await _ended(name, context, answer())

    write = _serialize
    if method.client_streaming and method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(both, None, write)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(many, None, write)
    assert not method.client_streaming, f"{name} streams requests only, which nothing here serves"
    return grpc.unary_unary_rpc_method_handler(one, None, write)


def _shown(limits: disclosure.Fields | None, caller: Caller, response: Any) -> Any:
    """The response without what this caller may not see; `TaskInfo.brief` says so."""
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


async def _ended(name: str, context: Context, answer: Awaitable[Any]) -> Any:
    """The answer, or a status that says why there is none; counted either way."""
    code = "OK"
    try:
        return await answer
    except DelayBoxError as error:
        status = status_of(error)
        code = BY_NUMBER[status.code].name
        trailer = ((DETAILS, status.SerializeToString()),)
        await context.abort(BY_NUMBER[status.code], status.message, trailing_metadata=trailer)
    except DeadlinePassed:
        code = "DEADLINE_EXCEEDED"
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the call began")
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
        await context.abort(grpc.StatusCode.INTERNAL, errors.DEFECT_TEXT)
    finally:
        metrics.rpc_done(name, code)
