"""Which keys a taker asks for in one command before it decides: whether critical or earlier tasks may have come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from delaybox.engine.in_front import InFront
from delaybox.store import keys
from delaybox.store.store import Store

TAGS = [f"{{delaybox:{p}}}" for p in range(4)]


class Servers:
    """Keeps the keys of the last question. ``found``: the answer."""

    sharded = False

    def __init__(self) -> None:
        self.found = 0
        self.asked: set[str] = set()

    async def ask(self, command: str, *names: str) -> int:
        assert command == "EXISTS" and len(set(names)) == len(names)
        self.asked = set(names)
        return self.found


async def test_each_question_names_the_keys_of_its_partitions_also_when_it_is_asked_again() -> None:
    servers = Servers()
    in_front = InFront(cast(Store, SimpleNamespace(servers=servers, tags=TAGS)), dict, guest=True)

    async def asks(partitions: list[int], priorities: int, types: str = "w") -> None:
        indexes: list[Any] = [(priority, types) for priority in range(priorities)]
        found = await in_front._any(partitions, indexes, types)
        assert found is bool(servers.found)
        near = {keys.near(TAGS[p], priority, types) for p in partitions for priority in range(priorities)}
        assert servers.asked == near | {keys.active(TAGS[p], types, critical=True) for p in partitions}

    await asks([0, 1], 4)
    await asks([1, 2], 1)
    servers.found = 1
    await asks([3, 1], 4)
    await asks([2], 1)
    await asks([0, 2], 4, "h")
    await asks([0, 1, 2, 3], 4)
