"""The feed of events as it is stored: one capped stream, whose entries are chunks of events.

scripts/emit.lua writes it. It lies with partition 0, so that the feed of a cluster has one order and one position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec

from delaybox.core.errors import InvalidTask
from delaybox.core.events import EventRules, FeedItem, Missed, StoredEvent
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.servers import Servers

WANTED_MS: Final = 300_000
"""For so long after a reader was there events are still written, so that it can go on where it was cut off."""
MOST_CHUNKS: Final = 16
"""Chunks in one call of ``emit``, and entries in one look of a reader."""
CHUNK_EVENTS: Final = 200
_CHUNK_BYTES: Final = 60_000
UNKNOWN: Final = -1
"""In place of how many events a writer lost: nobody knows, for nothing was written for a while."""


class EventChunk(msgspec.Struct, array_like=True, gc=False):
    """One entry of the stream. ``lost``: events that its writer had no room for, before these."""

    events: list[StoredEvent]
    lost: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(EventChunk).decode


def chunks(events: Sequence[StoredEvent], lost: int) -> Iterator[tuple[int, bytes]]:
    """(number of events, entry) of all of them, in order, each entry small enough for one script."""
    at, many = 0, CHUNK_EVENTS
    while at < len(events) or lost:
        some = list(events[at : at + many])
        raw = _encode(EventChunk(some, lost))
        if len(raw) > _CHUNK_BYTES and len(some) > 1:
            many = max(1, len(some) // 2)
            continue
        at, lost = at + len(some), 0
        yield len(some), raw


def emit_call(tag: str, rules: EventRules, entries: Sequence[tuple[int, bytes]]) -> ScriptCall:
    """Adds at most MOST_CHUNKS entries to the feed; the reply is how many events its bounds dropped."""
    args: list[bytes | int] = [rules.entries, rules.bytes, rules.keep_ms]
    for count, raw in entries:
        args += (count, raw)
    return ScriptCall("emit", tag, args)


async def want(servers: Servers, tag: str) -> bool:
    """Asks writers for events, for WANTED_MS; whether nobody had asked. StoreUnavailable."""
    key = keys.events_wanted(tag)
    fresh, _ = await servers.ask_many([("SET", key, 1, "NX", "PX", WANTED_MS), ("PEXPIRE", key, WANTED_MS)])
    return fresh is not None


async def wanted(servers: Servers, tag: str) -> bool:
    """Whether readers are there, or were a moment ago. StoreUnavailable."""
    return bool(await servers.ask("EXISTS", keys.events_wanted(tag)))


Way = Literal["topic", "webhook", "stream"]
"""Where one process of all sends events: to a Kafka topic, to a URL, or to a Redis stream for others to read."""


async def take_place(servers: Servers, tag: str, way: Way, member: str, ms: int) -> bool:
    """Whether this member sends events that way, for ``ms`` from now on. StoreUnavailable."""
    key = keys.events_sender(tag, way)
    _, holder = await servers.ask_many([("SET", key, member, "NX", "PX", ms), ("GET", key)])
    mine = bool(holder == member.encode())
    if mine:
        await servers.ask("PEXPIRE", key, ms)
    return mine


async def give_place(servers: Servers, tag: str, way: Way, member: str) -> None:
    """Another member may send events that way, if this one did. StoreUnavailable."""
    key = keys.events_sender(tag, way)
    if await servers.ask("GET", key) == member.encode():
        await servers.ask("DEL", key)


async def position(servers: Servers, tag: str, way: Way) -> str:
    """The position up to which events went that way; "" if none did. StoreUnavailable."""
    found = await servers.ask("GET", keys.events_position(tag, way))
    return found.decode() if found else ""


async def keep_position(servers: Servers, tag: str, way: Way, reached: str) -> None:
    """Stores the position up to which events went that way. StoreUnavailable."""
    await servers.ask("SET", keys.events_position(tag, way), reached)


async def stream(servers: Servers, key: str, most: int, entries: Sequence[bytes]) -> None:
    """Adds events in JSON to the stream for others to read, which keeps about ``most``. StoreUnavailable."""
    commands = [("XADD", key, "MAXLEN", "~", most, "*", "event", entry) for entry in entries]
    await servers.ask_many(commands)


async def newest(servers: Servers, tag: str) -> str:
    """The position behind everything that is in the feed now. StoreUnavailable."""
    found = await servers.ask("XREVRANGE", keys.events(tag), "+", "-", "COUNT", 1)
    return f"{found[0][0].decode()}.{CHUNK_EVENTS}" if found else "0-0.0"


async def dropped_behind(servers: Servers, tag: str, position: str) -> bool:
    """Whether the feed may have lost what came behind a position. StoreUnavailable."""
    exists, dropped = await servers.ask_many([("EXISTS", keys.events(tag)), ("HGET", keys.events_sums(tag), "dropped")])
    if not exists:
        return position != "0-0.0"
    # Of the entry of the position itself a part may be missing.
    return bool(dropped) and parse(f"{dropped.decode()}.{CHUNK_EVENTS}") > parse(position)


async def behind(servers: Servers, tag: str, position: str, *, inside: bool = False) -> list[tuple[str, EventChunk]]:
    """The next entries behind a position, MOST_CHUNKS at most. ``inside``: with the entry of the position itself, of
    which something may lie behind it. StoreUnavailable."""
    entry, _, _ = position.partition(".")
    start, most = (entry, MOST_CHUNKS + 1) if inside else (f"({entry}", MOST_CHUNKS)
    found = await servers.ask("XRANGE", keys.events(tag), start, "+", "COUNT", most)
    entries: list[tuple[str, EventChunk]] = []
    for name, fields in found:
        try:
            entries.append((name.decode(), _decode(fields[3])))
        except (msgspec.MsgspecError, IndexError):
            entries.append((name.decode(), EventChunk([], UNKNOWN)))  # a newer node's
    return entries


_WHY_LOST = "a writer had more events than it could store"
_WHY_UNKNOWN = "nobody read for a while, so nothing was written; with events.always: true it is written all the same"


def items(entry: str, chunk: EventChunk, position: str) -> Iterator[FeedItem]:
    """What an entry holds behind a position: events, and first that some are missed."""
    after = parse(position)
    start = after[2] if after[:2] == parse(f"{entry}.0")[:2] else -1
    if chunk.lost and start < 0:
        why = _WHY_UNKNOWN if chunk.lost < 0 else _WHY_LOST
        yield FeedItem(f"{entry}.0", Missed(max(0, chunk.lost), why))
    for number, event in enumerate(chunk.events, 1):
        if number > start:
            yield FeedItem(f"{entry}.{number}", event)


def parse(position: str) -> tuple[int, int, int]:
    """The numbers of a position. InvalidTask for text that is none."""
    entry, _, number = position.partition(".")
    ms, _, seq = entry.partition("-")
    parts = (ms, seq, number)
    if not all(part.isascii() and part.isdigit() and len(part) <= 19 for part in parts):
        raise InvalidTask(
            "after", f"{position[:60]!r} is not a position in the feed; give the id of the last event, or leave it out"
        )
    return int(ms), int(seq), int(number)
