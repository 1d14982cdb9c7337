"""When something ends by itself in each partition: read with plain commands, so that idle partitions cost no script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from delaybox.store import keys
from delaybox.store.loader import translate
from delaybox.store.store import Store

_AT_ONCE = 64
"""Partitions asked after in one round trip."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Of one partition, ms by Redis's clock; -1 where there is none.

    ``lease``: the first expiry, ``result``: until when the first need be kept, ``dead``: when the oldest dead letter
    died, ``reaped``: when a reaper looked last, ``grace``: until when nothing is reaped.
    """

    lease: int
    result: int
    dead: int
    reaped: int
    grace: int


async def ends(store: Store) -> tuple[int, list[Ends]]:
    """Redis's clock (ms) before the first look, and what each partition says; StoreUnavailable."""
    now = 0
    found: list[Ends] = []
    try:
        for at in range(0, store.partitions, _AT_ONCE):
            pipe = store.client.pipeline(transaction=False)
            pipe.time()
            for tag in store.tags[at : at + _AT_ONCE]:
                for key in (keys.leases(tag), keys.results_at(tag), keys.dead_at(tag)):
                    pipe.zrange(key, 0, 0, withscores=True)
                pipe.hmget(keys.clock(tag), "reaped", "grace")
            (seconds, micros), *replies = await pipe.execute()
            now = now or int(seconds) * 1000 + int(micros) // 1000
            for i in range(0, len(replies), 4):
                lease, result, dead, noted = replies[i : i + 4]
                reaped, grace = (-1 if value is None else int(value) for value in noted)
                found.append(Ends(_score(lease), _score(result), _score(dead), reaped, grace))
    except (RedisError, OSError) as error:
        raise translate(error) from error
    return now, found


def _score(reply: Any) -> int:
    return int(reply[0][1]) if reply else -1
