"""Streams straight on Redis: what is made ahead of a reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from delaybox.client.steps import OpenStream
from delaybox.direct import transport
from delaybox.direct.transport import DirectStream
from delaybox.wire.gen import scheduler_pb2 as pb


class Calls:
    """The calls of a scheduler that has more to answer than anybody reads."""

    def __init__(self) -> None:
        self.made = 0

    async def list(self, _request: object, _caller: object) -> AsyncIterator[pb.ListResponse]:
        for n in range(1_000):
            self.made += 1
            yield pb.ListResponse(cursor=str(n))


class Transport:
    is_closed = False

    def __init__(self) -> None:
        self.calls = Calls()

    async def scheduler(self) -> Calls:
        return self.calls


async def turns() -> None:
    """What can go on without anybody who reads has gone on."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_no_more_answers_are_made_than_may_wait() -> None:
    at: Any = Transport()
    stream = DirectStream(at, OpenStream(0, "List", pb.ListRequest(), None))
    await turns()
    assert at.calls.made == transport._WAITING
    for n in range(10):
        answer = await stream.receive()
        assert isinstance(answer, pb.ListResponse) and answer.cursor == str(n)
        await turns()
        assert at.calls.made == transport._WAITING + n + 1
    stream.drop()
