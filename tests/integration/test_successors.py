"""While a partition changes hands somebody looks after it: the former owner, until the new one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.task import NewTask, TaskType
from delaybox.engine import lost_owners, successors
from delaybox.engine.engine import Engine
from delaybox.store.loader import ScriptCall
from delaybox.store.promises import promises
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.engines import Recorder, running, until
from tests.waiting import Gate

PARTITIONS = 8


class Pair:
    """Two time keepers. ``heir`` claims nothing while its gate is closed, whatever it has read."""

    def __init__(self, client: Redis, prefix: str, stores: Sequence[Store]) -> None:
        self.store, self.heirs_store = stores
        self.former, self.heir = Recorder(), Recorder()
        self.gate = Gate()
        self.gate.open()
        run_many = self.heirs_store.runner.run_many

        async def held_up(calls: Sequence[ScriptCall]) -> list[Any]:
            if calls[0].script == "claim":
                await self.gate.passed()
            return await run_many(calls)

        self.heirs_store.runner.run_many = held_up  # type: ignore[method-assign]

    def run(self, name: str) -> Any:
        store, target = (self.store, self.former) if name == "former" else (self.heirs_store, self.heir)
        options: dict[str, Any] = {"node": name, "kind": "clock", "channel": "", "roles": ("clock",)}
        return running(store, {TaskType.PUB_SUB: target}, node_id=name, **options)

    async def put(self, partitions: frozenset[int]) -> None:
        for answer in await self.store.schedule([Batch(p, [draft(NewTask())]) for p in sorted(partitions)]):
            assert not isinstance(answer, BaseException), answer

    async def looks(self, name: str, partitions: frozenset[int]) -> bool:
        """Whether this member looked last at each of these."""
        return all(one and one.looker == name for one in (await promises(self.store, sorted(partitions)))[1])


@pytest.fixture
async def pair(client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    # On a slow machine the former owner must not give up, nor a stand-in help it.
    monkeypatch.setattr(successors, "PATIENCE_MS", 60_000.0)
    monkeypatch.setattr(lost_owners, "PATIENCE_MS", 60_000.0)
    stores = [await Store.open(Servers(client), prefix=prefix, partitions=PARTITIONS) for _ in range(2)]
    made = Pair(client, prefix, stores)
    yield made
    made.gate.open()


def half(engine: Engine) -> bool:
    return len(engine._ownership.owned) == PARTITIONS // 2


async def test_who_leaves_looks_until_the_new_owner_does(pair: Pair):
    async with pair.run("heir") as heir, pair.run("former") as former:
        await until(lambda: half(heir) and half(former))
        lost = former._ownership.owned
        await until(lambda: former._ownership.kept == lost)
        pair.gate.close()
        ending = asyncio.create_task(former.stop(1.0))
        await until(lambda: len(heir._ownership.owned) == PARTITIONS)
        await pair.put(lost)
        await until(lambda: len(pair.former.got) == len(lost) or ending.done())
        assert {d.partition for _, d in pair.former.got} == lost
        assert not ending.done()
        assert await pair.looks("former", lost)
        pair.gate.open()
        await ending
        await until(lambda: pair.looks("heir", lost))
        await pair.put(lost)
        await until(lambda: len(pair.heir.got) == len(lost))


async def test_who_joins_takes_over_when_it_looks(pair: Pair):
    async with pair.run("former") as former:
        await until(lambda: former._known)
        pair.gate.close()
        async with pair.run("heir"):
            await until(lambda: half(former))
            assert len(former._ownership.kept) == PARTITIONS
            lost = former._ownership.ceded
            await pair.put(lost)
            await until(lambda: {d.partition for _, d in pair.former.got} == lost)
            pair.gate.open()
            await until(lambda: former._ownership.kept == former._ownership.owned)
            await until(lambda: pair.looks("heir", lost))
            await pair.put(lost)
            await until(lambda: len(pair.heir.got) == len(lost))
    assert len(pair.former.got) == len(lost)


async def test_a_new_owner_that_does_not_look_is_not_waited_for(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    async with pair.run("heir") as heir, pair.run("former") as former:
        await until(lambda: half(heir) and half(former))
        lost = former._ownership.owned
        pair.gate.close()
        monkeypatch.setattr(successors, "PATIENCE_MS", 20.0)
        await former.stop(1.0)
        assert not former._ownership.kept and await pair.looks("former", lost)
        pair.gate.open()
