"""Reads hashes and sorted sets of any size, some of their members at a time.

A member that is there all the time is returned at least once; one that comes or goes meanwhile may be missing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from delaybox.store.servers import Command, Servers


def hscan(key: str | bytes, cursor: int, count: int) -> Command:
    """One step through a hash, from ``cursor`` on (0: the beginning); its reply is for `fields`."""
    return ("HSCAN", key, cursor, "COUNT", count)


def fields(reply: Any) -> tuple[int, dict[bytes, bytes]]:
    """(the next cursor, 0 at the end; field -> value) of `hscan`."""
    cursor, flat = reply
    return int(cursor), dict(zip(flat[0::2], flat[1::2], strict=True))


async def hash_pages(servers: Servers, key: str | bytes, count: int) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """(field, value) of a hash, at most ``count`` at a time, because the server returns a small hash all at once."""
    cursor = 0
    while True:
        cursor, found = fields(await servers.ask(*hscan(key, cursor, count)))
        page = list(found.items())
        for at in range(0, len(page), count):
            yield page[at : at + count]
        if cursor == 0:
            return


async def zset_members(servers: Servers, key: bytes | str, count: int) -> AsyncIterator[bytes]:
    """Members of a sorted set. ``count``: about how many are read in one round trip."""
    cursor: bytes | int = 0
    while True:
        cursor, flat = await servers.ask("ZSCAN", key, cursor, "COUNT", count)
        for member in flat[0::2]:
            yield member
        if int(cursor) == 0:
            return
