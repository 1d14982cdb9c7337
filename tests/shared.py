"""What the tests of a module share, for it takes a second to start: a process on a store that each test finds empty."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from redis.asyncio import Redis

from delaybox.store import keys

T = TypeVar("T")
_STARTS_S = 60.0


def a_prefix() -> str:
    """A store prefix that nobody else uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def kept(manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Enters it on an event loop of its own, which outlives those of the tests, and leaves it at the end.

    What it yields must be used by its data alone (ports, process ids): its coroutines belong to that loop.
    """
    ready: Future[T] = Future()
    leave = threading.Event()

    async def hold() -> None:
        async with manager as found:
            ready.set_result(found)
            await asyncio.to_thread(leave.wait)

    def run() -> None:
        try:
            asyncio.run(hold())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    with ThreadPoolExecutor(1, "kept") as thread:
        ended = thread.submit(run)
        try:
            yield ready.result(_STARTS_S)
        finally:
            leave.set()
            ended.result(_STARTS_S)


async def empty(client: Redis, prefix: str) -> None:
    """Takes everything out of the store but what says which store it is."""
    raw: Any = client  # its answers are bytes
    left: list[bytes] = await raw.keys(f"*{prefix}*")
    store: bytes = await raw.hget(keys.clock(keys.tag(prefix, 0)), "store")
    async with raw.pipeline(transaction=True) as pipe:
        for name in left:
            if name == keys.meta(prefix).encode():
                continue
            pipe.unlink(name)
            if name.endswith(b":clock"):
                pipe.hset(name, "store", store)
        await pipe.execute()
