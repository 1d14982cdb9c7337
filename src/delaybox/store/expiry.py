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
    """Of one partition, ms by Redis's clock; -1 where there is none. ``lease``: the first expiry, ``last_lease``: the
    last, ``result``: until when the first need be kept, ``dead``: when the oldest dead letter died.
    """

    lease: int
    last_lease: int
    result: int
    dead: int


async def ends(store: Store) -> tuple[int, list[Ends]]:
    """Redis's clock (ms) before the first look, and what each partition says; StoreUnavailable."""
    now = 0
    found: list[Ends] = []
    try:
        for at in range(0, store.partitions, _AT_ONCE):
            pipe = store.client.pipeline(transaction=False)
            pipe.time()
            for tag in store.tags[at : at + _AT_ONCE]:
                for key, place in (
                    (keys.leases(tag), 0),
                    (keys.leases(tag), -1),
                    (keys.results_at(tag), 0),
                    (keys.dead_at(tag), 0),
                ):
                    pipe.zrange(key, place, place, withscores=True)
            (seconds, micros), *replies = await pipe.execute()
            now = now or int(seconds) * 1000 + int(micros) // 1000
            scores = [_score(reply) for reply in replies]
            found += [Ends(*scores[i : i + 4]) for i in range(0, len(scores), 4)]
    except (RedisError, OSError) as error:
        raise translate(error) from error
    return now, found


def _score(reply: Any) -> int:
    return int(reply[0][1]) if reply else -1
