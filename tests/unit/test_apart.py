"""Round trips to several servers, where one that hangs holds up none of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from delaybox.core.errors import PartAway
from delaybox.store.apart import Apart
from tests.waiting import PATIENCE_S, until_async


class Servers:
    """Partition 0 lies at server 0, partition 1 at server 1."""

    def __init__(self, patience_s: float = 0.01) -> None:
        self.apart = Apart(lambda: (0, 1), patience_s=patience_s)
        self.sent: list[int] = []
        self.hangs: dict[int, asyncio.Event] = {}

    async def _send(self, asked: Sequence[int]) -> list[Any]:
        self.sent += asked
        await asyncio.sleep(0)
        for one in asked:
            if (hangs := self.hangs.get(one)) is not None:
                await hangs.wait()
        return [f"answer of {one}" for one in asked]

    async def ask(self) -> list[Any]:
        return await self.apart.send(self._send, [(0, 0), (1, 1)])


ANSWERS = ["answer of 0", "answer of 1"]


async def test_all_that_ask_at_the_same_time_are_answered() -> None:
    """Each of the others took a server that had not answered the first one yet for one that hangs."""
    servers = Servers(PATIENCE_S)
    assert await asyncio.gather(*(servers.ask() for _ in range(4))) == [ANSWERS] * 4


async def test_a_server_that_hangs_gets_nothing_more_and_holds_up_nobody() -> None:
    servers = Servers()
    servers.hangs[0] = hangs = asyncio.Event()
    for _ in range(2):
        for found in await asyncio.gather(servers.ask(), servers.ask()):
            assert isinstance(found[0], PartAway) and found[1] == ANSWERS[1]
    assert servers.sent.count(0) == 1
    del servers.hangs[0]
    hangs.set()
    await until_async(lambda: not servers.apart._under_way)
    assert await servers.ask() == ANSWERS
