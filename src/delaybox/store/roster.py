"""The list of members, which are processes that write heartbeats into one hash. Each beat also removes silent
members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.store import Store

_NEVER = 1e15
"""When one that is ending ranks again (lib/members.lua)."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The reply to a beat: Redis's clock (ms), the version of the list, and whether this member ranks."""

    now_ms: int
    version: int
    ranks: bool


@dataclass(frozen=True, slots=True)
class Roster:
    """The list as it is now.

    ``noted``: the number of the last note. ``records``: those that were noted since the note that the reader named;
    with ``whole`` the record of each member, also of those that went silent a short while ago. ``living``: members that
    beat in time. ``ranking``: those of them that may own partitions. ``returned``: those of them that were silent a
    short while ago and do not rank yet. The others are ending.
    """

    now_ms: int
    version: int
    noted: int
    whole: bool
    records: Mapping[str, bytes]
    living: frozenset[str]
    ranking: frozenset[str]
    returned: frozenset[str]


async def beat(
    store: Store,
    member_id: str,
    record: bytes,
    *,
    ending: bool = False,
    changed: bool = False,
    noted: bool = False,
) -> Beat:
    """Writes a heartbeat. StoreUnavailable.

    ``ending``: the member finishes its work and does not rank any more. ``changed``: others must read its record anew;
    ``noted``: they need not before the list changes.
    """
    # Each argument costs the server about 2,000 instructions.
    args: tuple[str | bytes | int, ...] = (member_id, record)
    if ending or changed or noted:
        args += (1 if changed else 2 if noted else 0, int(ending))
    now, version, ranks = await _beat(store, args)
    return Beat(now, version, ranks == 1)


async def bare(store: Store, member_id: str) -> Beat | None:
    """A heartbeat without a record, of a member that ranked at its last one. None: nothing was written, because a beat
    with the record is needed. StoreUnavailable."""
    now, version, ranks = await _beat(store, (member_id,))
    return Beat(now, version, True) if ranks == 1 else None


async def _beat(store: Store, args: tuple[str | bytes | int, ...]) -> tuple[int, int, int]:
    now, version, ranks = await store.runner.run(ScriptCall("beat", keys.nodes(store.prefix), args))
    return now, int(version or 0), ranks


async def leave(store: Store, member_id: str) -> None:
    """Takes the member off the list. StoreUnavailable."""
    await store.runner.run(ScriptCall("leave", keys.nodes(store.prefix), (member_id,)))


async def read(store: Store, since: int = 0) -> Roster:
    """Reads the list, with the records that were noted after the note ``since``; 0: with all. StoreUnavailable."""
    call = ScriptCall("roster", keys.nodes(store.prefix), (since,))
    now, version, noted, whole, records, beats, returned = await store.runner.run(call)
    living = frozenset(map(_text, beats))
    from_ms = {_text(member_id): float(at) for member_id, at in zip(returned[0::2], returned[1::2], strict=True)}
    return Roster(
        now,
        version,
        noted,
        bool(whole),
        {_text(member_id): record for member_id, record in zip(records[0::2], records[1::2], strict=True)},
        living,
        living - from_ms.keys(),
        frozenset(member_id for member_id, at in from_ms.items() if at < _NEVER),
    )


def _text(member_id: bytes) -> str:
    return member_id.decode(errors="replace")
