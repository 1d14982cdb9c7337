"""Looks at many partitions with plain commands, which cost less than scripts: in round trips of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from delaybox.core.errors import PartAway
from delaybox.store.servers import Command, milliseconds
from delaybox.store.store import Store

_AT_ONCE = 64
"""Partitions read in one round trip."""


async def look(
    store: Store, partitions: Sequence[int], of: Callable[[str], list[Command]]
) -> tuple[int, list[list[Any]]]:
    """Redis's clock (ms) before the first look, and for each partition the replies to the commands that ``of`` makes
    for its tag: as many for each. The clock is that of the first partition's server. StoreUnavailable."""
    now, found = await reachable(store, partitions, of)
    return now, [_whole(replies) for replies in found]


async def reachable(
    store: Store, partitions: Sequence[int], of: Callable[[str], list[Command]]
) -> tuple[int, list[list[Any] | PartAway]]:
    """As `look`, for those who look at partition after partition: one that is on its way to another server, which may
    take minutes, is answered with that, and the others as ever."""
    now = 0
    found: list[list[Any] | PartAway] = []
    for at in range(0, len(partitions), _AT_ONCE):
        asked = [of(store.tags[p]) for p in partitions[at : at + _AT_ONCE]]
        clock, *replies = await store.servers.replies([("TIME",), *(command for each in asked for command in each)])
        now = now or milliseconds(_answer(clock))
        width = len(asked[0])
        found += [_row(replies[i : i + width]) for i in range(0, len(replies), width)]
    return now, found


def _row(replies: list[Any]) -> list[Any] | PartAway:
    away = next((reply for reply in replies if isinstance(reply, PartAway)), None)
    return [_answer(reply) for reply in replies] if away is None else away


def _whole(row: list[Any] | PartAway) -> list[Any]:
    if isinstance(row, PartAway):
        raise row
    return row


def _answer(reply: Any) -> Any:
    if isinstance(reply, BaseException):
        raise reply
    return reply


def first(key: str) -> Command:
    """Asks for the first entry of a zset; `score` reads the reply."""
    return ("ZRANGE", key, 0, 0, "WITHSCORES")


def score(reply: Any) -> int:
    """The score of that entry; -1 where there is none."""
    return int(reply[0][1]) if reply else -1
