"""Which of several sentinels is believed, and how soon an old primary is left that still answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from delaybox.store.connections import Doubt
from delaybox.store.sentinel import _LEAVE_S, _LOOK_S, Sentinels
from tests.waiting import PATIENCE_S

OLD, NEW = ("10.0.0.1", 6379), ("10.0.0.2", 6379)


class Sentinel:
    """Answers as one does. ``names`` None: it does not answer."""

    def __init__(self) -> None:
        self.names: tuple[int, tuple[str, int]] | None = (1, OLD)

    async def execute_command(self, *_: Any) -> dict[bytes, bytes]:
        if self.names is None:
            raise RedisConnectionError("away")
        epoch, (host, port) = self.names
        return {b"ip": host.encode(), b"port": b"%d" % port, b"config-epoch": b"%d" % epoch}

    async def aclose(self) -> None: ...


class World:
    def __init__(self) -> None:
        self.each, self.doubt, self.left = [Sentinel() for _ in range(3)], Doubt(), asyncio.Event()
        self.all = Sentinels("main", self.each, self.doubt, "a, b, c")  # type: ignore[arg-type]

        async def leave() -> None:
            self.left.set()

        self.all.leave = leave


async def test_an_old_primary_is_left_within_a_second_though_nobody_opens_a_connection() -> None:
    world = World()
    assert await world.all.primary() == OLD
    world.each[2].names = (2, NEW)
    # The looks go on by themselves: what is in use leads to a server that still answers.
    await asyncio.wait_for(world.left.wait(), PATIENCE_S)
    assert world.doubt.count == 1 and await world.all.primary() == NEW
    assert _LOOK_S + _LEAVE_S < 1.0
    await world.all.close()


async def test_a_sentinel_that_was_cut_off_does_not_lead_back_to_the_old_primary() -> None:
    world = World()
    await world.all.primary()
    for one in world.each[:2]:
        one.names = (2, NEW)
    await world.all._look()
    assert await world.all.primary() == NEW
    # Only the one that missed it all answers.
    world.each[0].names = world.each[1].names = None
    await world.all._look()
    assert world.all._at == NEW and world.doubt.count == 1
    world.each[1].names = (3, OLD)
    await world.all._look()
    assert world.all._at == OLD and world.doubt.count == 2, "a fail-over back is one"
    await world.all.close()


async def test_where_no_sentinel_answers_it_is_said() -> None:
    world = World()
    for one in world.each:
        one.names = None
    with pytest.raises(RedisConnectionError, match="none of the sentinels a, b, c answers"):
        await world.all.primary()
    await world.all.close()
