"""The queues that functions have of their own, as workers announced them: a task goes there if its caller names no
queue.

One hash of name -> queue, with a version that changes with it. It outlives the workers: tasks are scheduled before they
are started and after they are gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from delaybox.store import keys
from delaybox.store.servers import Command
from delaybox.store.store import Store

MOST = 10_000
"""Most functions with a queue of their own; the queues of further ones are not kept."""
_VERSION = ""
"""The field that holds the version: no function has an empty name."""


def waiting(first: Mapping[str, str], then: Mapping[str, str]) -> dict[str, str]:
    """Announcements that wait until the store answers: the later of two of a function, of MOST functions at most.

    The store keeps no more; workers that come and go while it is away must not fill the memory.
    """
    return dict(itertools.islice((dict(first) | dict(then)).items(), MOST))


async def announce(store: Store, queues: Mapping[str, str]) -> list[str]:
    """Stores functions' own queues ("": the function has none any more). Returns the functions for which there was no
    room. Harmless when repeated. StoreUnavailable.
    """
    if not queues:
        return []
    key = keys.functions(store.prefix)
    names = list(queues)
    known: list[bytes | None] = await store.servers.ask("HMGET", key, *names)
    changed = {
        name: queues[name]
        for name, queue in zip(names, known, strict=True)
        if (queue or b"").decode("utf-8", "replace") != queues[name]
    }
    if not changed:
        return []
    fields = int(await store.servers.ask("HLEN", key))
    room = MOST - max(0, fields - 1)  # one of them is the version
    new = [name for name, queue in zip(names, known, strict=True) if queue is None and name in changed]
    left_out = new[max(0, room) :]
    for name in left_out:
        del changed[name]
    commands: list[Command] = [
        ("HSET", key, name, queue) if queue else ("HDEL", key, name) for name, queue in changed.items()
    ]
    await store.servers.together([*commands, ("HINCRBY", key, _VERSION, 1)])
    return left_out


async def version(store: Store) -> int:
    """A number that changes whenever a queue is announced or withdrawn. StoreUnavailable."""
    raw: bytes | None = await store.servers.ask("HGET", keys.functions(store.prefix), _VERSION)
    return int(raw or 0)


async def own_queues(store: Store) -> tuple[int, dict[str, str]]:
    """The version, and the own queue of each function that has one. StoreUnavailable."""
    flat: dict[bytes, bytes] = await store.servers.ask("HGETALL", keys.functions(store.prefix))
    number = int(flat.pop(_VERSION.encode(), 0))
    return number, {name.decode("utf-8", "replace"): queue.decode("utf-8", "replace") for name, queue in flat.items()}
