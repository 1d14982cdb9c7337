"""Reads the bodies of requests: how large they may be, how long they may take, of which type they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from delaybox.api.rest.asgi import Headers, Receive
from delaybox.api.rest.refusal import CLOSE, Refusal, shown
from delaybox.api.rest.settings import ApiSettings

_MOST_TYPES = 1024
_HELD_LIMIT = 256 * 1024 * 1024
"""Most bytes of bodies that came in parts and are not complete, over all connections."""
_DRAIN_S = 1.0
_DRAIN_BYTES = 8 * 1024 * 1024
_RETRY = ((b"retry-after", b"1"),)


class Disconnected(Exception):
    """The body is not complete: the caller went away, or its chunks cannot be read."""


class RequestBodies:
    """All bodies that one API process reads. `start` runs the clock that ends slow ones; `stop` ends it."""

    def __init__(self, settings: ApiSettings) -> None:
        self._limit = settings.body_limit
        self._payload_limit = settings.payload_limit
        self._timeout_s = settings.body_timeout_s
        self._good_types = {b"application/json"}
        self._held = 0
        self._young: set[asyncio.Task[Any]] = set()
        self._old: set[asyncio.Task[Any]] = set()
        self._timed_out: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now on a body that takes longer than one to two time-outs is ended with 408."""
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._timeout_s, self._sweep)

    def stop(self) -> None:
        """Harmless when repeated."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def usual(self, headers: Headers, size: int) -> bool:
        """Whether `read_json` would take a whole body of so many bytes, as far as is known without learning a type."""
        return (
            headers.get(b"content-type", b"") in self._good_types
            and b"content-encoding" not in headers
            and size <= self._limit
        )

    def read_json(self, headers: Headers, receive: Receive, *, limit: int = 0, mend: str = "") -> Awaitable[bytes]:
        """The whole body of a JSON request, counted while it arrives. ``limit``: in place of the usual one; ``mend``:
        what a caller can do whose body is over it, in place of the usual words."""
        content_type = headers.get(b"content-type", b"")
        if content_type not in self._good_types:
            self._learn_type(content_type)
        return self.read(headers, receive, limit=limit, mend=mend)

    async def read(self, headers: Headers, receive: Receive, *, limit: int = 0, mend: str = "") -> bytes:
        """The same, whatever its type; the caller has checked that."""
        limit = limit or self._limit
        mend = mend or f"a payload may have {self._payload_limit} bytes before it is encoded"
        if b"content-encoding" in headers:
            raise Refusal(415, "a compressed body is not accepted; send it without Content-Encoding")
        length = -1
        declared = headers.get(b"content-length")
        if declared is not None:
            length = int(declared)
            if length > limit:
                raise _too_large(limit, f"it has {length}", mend)
        task = asyncio.current_task()
        assert task is not None
        self._young.add(task)
        try:
            message = await receive()
            if message["type"] != "http.request":
                raise Disconnected
            body: bytes = message["body"]
            if len(body) == length:
                return body
            if not message.get("more_body"):
                if len(body) > limit:
                    raise _too_large(limit, f"it has {len(body)}", mend)
                return body
            return await self._rest(body, receive, limit, mend)
        except asyncio.CancelledError:
            if task not in self._timed_out:
                raise
            self._timed_out.discard(task)
            task.uncancel()
            raise Refusal(
                408, f"the body was not complete within {self._timeout_s:g} s; send it faster", CLOSE
            ) from None
        finally:
            self._young.discard(task)
            self._old.discard(task)

    async def _rest(self, first: bytes, receive: Receive, limit: int, mend: str) -> bytes:
        parts = [first]
        total = held = len(first)
        self._held += held
        try:
            while True:
                if total > limit:
                    raise _too_large(limit, f"{total} have come, and it goes on", mend)
                if self._held > _HELD_LIMIT:
                    raise Refusal(429, "too many large bodies at once; send it again later", (*_RETRY, *CLOSE))
                message = await receive()
                if message["type"] != "http.request":
                    raise Disconnected
                part: bytes = message.get("body", b"")
                parts.append(part)
                total += len(part)
                self._held += len(part)
                held += len(part)
                if not message.get("more_body"):
                    break
            if total > limit:
                raise _too_large(limit, f"it has {total}", mend)
            return b"".join(parts)
        finally:
            self._held -= held

    async def drain(self, receive: Receive) -> None:
        """After a refusal: reads what the caller still sends, for a moment, so that the caller gets to read the answer.

        A connection that is closed on unread bytes is reset, and the reset may overtake the answer.
        """
        taken = 0
        try:
            async with asyncio.timeout(_DRAIN_S):
                while taken < _DRAIN_BYTES:
                    message = await receive()
                    if message["type"] != "http.request" or not message.get("more_body"):
                        return
                    taken += len(message.get("body", b""))
        except TimeoutError:
            return

    def _learn_type(self, content_type: bytes) -> None:
        if content_type.partition(b";")[0].strip().lower() != b"application/json":
            what = f"Content-Type {shown(content_type)} is not JSON" if content_type else "Content-Type is missing"
            raise Refusal(415, f'{what}; send the header "Content-Type: application/json"')
        if len(self._good_types) < _MOST_TYPES:
            self._good_types.add(content_type)

    def _sweep(self) -> None:
        for task in self._old:
            self._timed_out.add(task)
            task.cancel()
        self._old, self._young = self._young, set()
        self._sweeper = asyncio.get_running_loop().call_later(self._timeout_s, self._sweep)


def _too_large(limit: int, size: str, mend: str) -> Refusal:
    return Refusal(413, f"the body is larger than {limit} bytes: {size}; {mend}", CLOSE)
