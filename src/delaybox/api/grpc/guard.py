"""Stands in front of every call: checks the token and the rule by the headers alone, and counts calls and their bytes.

The core gives a call to Python as soon as its headers are there. The message is read only after the check, so that
nothing is read or inflated for a caller who may not call.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import grpc

from delaybox.api import call_scopes
from delaybox.api.grpc.frames import refusal
from delaybox.api.tokens import Tokens
from delaybox.core.errors import InvalidTask, Overloaded, PayloadTooLarge, Unauthenticated
from delaybox.core.scopes import Grant

HELD_LIMIT: Final = 256 * 1024 * 1024
"""Most bytes of requests that are not answered yet, over all connections."""
MAX_CALLS: Final = 10_000
"""Most calls under way, streams included."""
MAX_OPEN_CALLS: Final = 1_000
"""Most calls under way that need no token; the oldest of the connection with most of them makes room for a new one."""
OPEN_BYTES: Final = 64 * 1024
"""Most bytes of a message of a call that needs no token."""

Context = grpc.aio.ServicerContext[Any, Any]

_GZIP = b"\x1f\x8b\x08"
"""No protobuf message begins with this byte: it would name a kind of field that does not exist."""


class DeadlinePassed(Exception):
    """Nobody waits for the answer any more."""


class MessageTooLong(PayloadTooLarge):
    """A message of more bytes than one may have: gRPC has a status of its own for it."""


class TooSlow(Exception):
    """The request was not complete in time."""


class Guard:
    """Shared by all services of a process. ``limit``: bytes of a message; ``know``: called with the peer whose call was
    allowed."""

    def __init__(self, tokens: Tokens, *, limit: int, message_s: float, know: Callable[[str], None]) -> None:
        self._tokens = tokens
        self._limit = limit
        self._message_s = message_s
        self._know = know
        self._held = 0
        self._calls = 0
        self._open: dict[str, dict[asyncio.Task[Any], None]] = {}
        self._open_count = 0

    @property
    def running(self) -> int:
        """How many calls have been admitted and have not ended."""
        return self._calls + self._open_count

    @contextlib.contextmanager
    def admitted(self, context: Context, rule: call_scopes.Rule) -> Iterator[Grant]:
        """What the caller may do, while the call goes on.

        Unauthenticated, ScopeMissing, Overloaded, DeadlinePassed.
        """
        left: float | None = (
            context.time_remaining()
        )  # None where there is no deadline, although grpc's type stubs exclude that
        if left is not None and left <= 0:
            raise DeadlinePassed
        if isinstance(rule, call_scopes.WithoutToken):
            with self._opened(context.peer()):
                yield frozenset()
            return
        given = [value for name, value in context.invocation_metadata() or () if name == "authorization"]
        if len(given) > 1:
            raise Unauthenticated("the metadata authorization is given more than once; send it once", given=True)
        token = given[0] if given else b""
        grant = self._tokens.grant(token.encode() if isinstance(token, str) else token)
        call_scopes.admit(grant, rule)
        self._know(context.peer())
        if self._calls >= MAX_CALLS:
            raise Overloaded(f"{MAX_CALLS} calls are under way; try again in a moment")
        self._calls += 1
        try:
            yield grant
        finally:
            self._calls -= 1

    @contextlib.contextmanager
    def _opened(self, peer: str) -> Iterator[None]:
        """Makes room for a new call without a token, so that health checks are answered however many such calls stay
        open."""
        task = asyncio.current_task()
        assert task is not None
        if self._open_count >= MAX_OPEN_CALLS:
            crowded = max(self._open, key=lambda name: len(self._open[name]))
            oldest = next(iter(self._open[crowded]))
            self._close(crowded, oldest)
            oldest.cancel()
        mine = self._open.setdefault(peer, {})
        mine[task] = None
        self._open_count += 1
        try:
            yield
        except asyncio.CancelledError:
            if task in mine or task.cancelling() > 1:
                raise
            task.uncancel()
            raise Overloaded("newer calls took the place of this one; call again") from None
        finally:
            if task in mine:
                self._close(peer, task)

    def _close(self, peer: str, task: asyncio.Task[Any]) -> None:
        mine = self._open[peer]
        del mine[task]
        self._open_count -= 1
        if not mine:
            del self._open[peer]

    async def only(self, requests: AsyncIterator[bytes], rule: call_scopes.Rule) -> bytes:
        """The one message of a call. InvalidTask, Overloaded, MessageTooLong, TooSlow."""
        try:
            async with asyncio.timeout(self._message_s):
                raw = await anext(requests)
        except TimeoutError:
            raise TooSlow(f"the request was not complete within {self._message_s:g} s; send it faster") from None
        except StopAsyncIteration:
            raise InvalidTask("request", "the call has no request; send one message") from None
        return self.plain(raw, rule)

    def plain(self, raw: bytes, rule: call_scopes.Rule) -> bytes:
        """Decompresses a message. InvalidTask, Overloaded, MessageTooLong."""
        limit = OPEN_BYTES if isinstance(rule, call_scopes.WithoutToken) else self._limit
        refused = refusal(raw)
        if refused is not None:
            is_long, size = refused
            raise too_long(size, limit) if is_long else _busy()
        if raw.startswith(_GZIP):
            raw = _inflated(raw, limit)
        if len(raw) > limit:
            raise too_long(len(raw), limit)
        return raw

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Counts bytes that a call keeps in memory; Overloaded when all calls together keep too many."""
        if self._held + size > HELD_LIMIT:
            raise _busy()
        self._held += size
        try:
            yield
        finally:
            self._held -= size


def _inflated(raw: bytes, limit: int) -> bytes:
    inflating = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        found = inflating.decompress(raw, limit + 1)
    except zlib.error:
        raise InvalidTask("request", "the request is not gzip as its first bytes say; send it again") from None
    if len(found) <= limit and not inflating.eof:
        raise InvalidTask("request", "the compressed request ends too early; send it again")
    return found


def too_long(size: int, limit: int) -> MessageTooLong:
    """The error for a message of so many bytes or more."""
    return MessageTooLong(
        "request", f"the request holds {size} bytes or more, over {limit}; send it in several calls", limit=limit
    )


def _busy() -> Overloaded:
    return Overloaded("too many large requests at once; send it again later")
