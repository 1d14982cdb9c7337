"""The primaries of a cluster, one by one: the connections to each, and the map of slots that it has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, ClusterDownError, RedisError

from delaybox.store import roundtrips
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from delaybox.store.slots import Address, SlotRange, parse_slots

log = logging.getLogger("delaybox.store")

PROBE_S = 1.0
"""A probe that is not answered within this time has failed."""
_PROBE = "return 1"


@dataclass(frozen=True, slots=True)
class Primary:
    """A primary as the map of slots has it. ``away``: it does not answer now."""

    address: Address
    shard: int
    slots: int
    replicas: int
    away: bool


class Link:
    """The connections to one primary. ``shard``: see `ServerCluster.shard_of`."""

    def __init__(self, address: Address, client: Redis, shard: int) -> None:
        self.address = address
        self.client = client
        self.shard = shard
        self.send = roundtrips.of(client).send
        self.away = False
        """Nothing is sent to it until a probe got through."""
        self.slots = 0
        self.replicas = 0
        self.heir_of: Link | None = None
        """The primary in whose place a redirection named it, until the map of slots was read."""

    def __repr__(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"


async def probed(link: Link, key: str | bytes | None) -> Any:
    """The reply to a script that does nothing, or the error."""
    command = ("EVAL", _PROBE, 1, key) if key is not None else ("PING",)
    try:
        async with asyncio.timeout(PROBE_S):
            return (await link.send([command]))[0]
    except (RedisError, OSError) as error:
        return error


async def read_slots(
    send: Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]], asked: Address
) -> list[SlotRange] | None:
    """The map of slots that a server has; None: it is in no cluster, or hides it. RedisError or OSError."""
    slots, nodes = await send([("CLUSTER", "SLOTS"), ("CLUSTER", "NODES")])
    if isinstance(slots, BaseException):
        if isinstance(slots, BusyLoadingError | ClusterDownError):
            raise slots
        return None
    text = nodes.decode(errors="replace") if isinstance(nodes, bytes) else ""
    return parse_slots(slots, text, asked)


async def ask_any(addresses: Iterable[Address], settings: ServerSettings) -> list[SlotRange] | None:
    """The map of slots that one of these has, over connections of its own, so that names are looked up anew; None where
    none answers."""
    for address in addresses:
        there = replace(settings, host=address[0], port=address[1], more=())
        client = make_client(there, timeout_s=PROBE_S, max_connections=1)
        try:
            async with asyncio.timeout(PROBE_S):
                if ranges := await read_slots(roundtrips.of(client).send, address):
                    return ranges
        except (RedisError, OSError) as error:
            log.debug("no map of slots from %s:%d: %s", *address, error)
        finally:
            await client.aclose()
    return None


def in_words(primaries: Collection[Primary]) -> str:
    """The primaries for a log or a report."""
    return ", ".join(f"{one.address[0]}:{one.address[1]}" for one in primaries)


def gaps_in_words(gaps: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Ranges of slots for an error."""
    return (f"{first}" if first == last else f"{first} to {last}" for first, last in gaps)
