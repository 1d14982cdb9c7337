"""When leases, results, dead letters and quarantined records end, per partition: read without scripts, as that is
cheaper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from delaybox.store import keys
from delaybox.store.loader import translate
from delaybox.store.store import Store

_AT_ONCE = 64
"""Partitions read in one round trip."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Of one partition, ms by Redis's clock; -1 where there is none.

    ``lease``: the first expiry, ``reaped``: when a reaper looked last, ``grace``: until when nothing is reaped.
    """

    lease: int
    reaped: int
    grace: int


@dataclass(frozen=True, slots=True)
class Ages:
    """Of one partition, ms by Redis's clock; -1 where there is none.

    ``result``: until when the first need be kept, ``dead`` and ``quarantined``: since when the oldest lies there.
    """

    result: int
    dead: int
    quarantined: int


async def ages(store: Store) -> tuple[int, list[Ages]]:
    """As `ends`, for results, dead letters and quarantined records, which are deleted after a time."""
    now, rows = await _firsts(store, (keys.results_at, keys.dead_at, keys.quarantine_at))
    return now, [Ages(*row) for row in rows]


async def _firsts(store: Store, of: Sequence[Callable[[str], str]]) -> tuple[int, list[list[int]]]:
    """Redis's clock (ms) before the first look, and per partition the first score of each zset; StoreUnavailable."""
    now = 0
    found: list[list[int]] = []
    try:
        for at in range(0, store.partitions, _AT_ONCE):
            pipe = store.client.pipeline(transaction=False)
            pipe.time()
            for tag in store.tags[at : at + _AT_ONCE]:
                for key in of:
                    pipe.zrange(key(tag), 0, 0, withscores=True)
            (seconds, micros), *replies = await pipe.execute()
            now = now or int(seconds) * 1000 + int(micros) // 1000
            scores = [_score(reply) for reply in replies]
            found += [scores[i : i + len(of)] for i in range(0, len(scores), len(of))]
    except (RedisError, OSError) as error:
        raise translate(error) from error
    return now, found


async def ends(store: Store) -> tuple[int, list[Ends]]:
    """Redis's clock (ms) before the first look, and the figures of each partition. StoreUnavailable."""
    now = 0
    found: list[Ends] = []
    try:
        for at in range(0, store.partitions, _AT_ONCE):
            pipe = store.client.pipeline(transaction=False)
            pipe.time()
            for tag in store.tags[at : at + _AT_ONCE]:
                pipe.zrange(keys.leases(tag), 0, 0, withscores=True)
                pipe.hmget(keys.clock(tag), "reaped", "grace")
            (seconds, micros), *replies = await pipe.execute()
            now = now or int(seconds) * 1000 + int(micros) // 1000
            for lease, noted in zip(replies[0::2], replies[1::2], strict=True):
                found.append(Ends(_score(lease), *(-1 if value is None else int(value) for value in noted)))
    except (RedisError, OSError) as error:
        raise translate(error) from error
    return now, found


def _score(reply: Any) -> int:
    return int(reply[0][1]) if reply else -1
