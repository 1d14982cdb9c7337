"""Heartbeats of members, which show who is alive: a hash with one small JSON for each member."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from delaybox.core.membership import Member
from delaybox.store import keys, roster
from delaybox.store.loader import ScriptCall
from delaybox.store.roster import Beat
from delaybox.store.store import Store
from delaybox.wire import members

log = logging.getLogger("delaybox.store")

_MOST_NAMED = 1_000
_named: set[str] = set()
"""Members whose damaged heartbeats were logged: each once in the life of a process."""

MANY = 200
"""In a list of more members than this only every third beat writes the record. What that says beside the moment of the
beat is up to 1.5 s old there; changes that others must know at once are written at once."""
_RECORD_MS = 1_250
"""Beats come every 500 ms."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The members that rank, by id, in a version of the list. ``returned``: those that were silent a short while ago,
    and rank soon. ``ending``: those that finish their work and rank no more."""

    version: int
    members: tuple[Member, ...]
    returned: tuple[Member, ...]
    ending: tuple[Member, ...] = ()

    @property
    def living(self) -> int:
        """How many these are."""
        return len(self.members) + len(self.returned) + len(self.ending)


async def beat(
    store: Store, member: Member, *, ending: bool = False, changed: bool = False, noted: bool = False
) -> Beat:
    """Writes a member's heartbeat; see `roster.beat`."""
    record = members.encode(member)
    return await roster.beat(store, member.id, record, ending=ending, changed=changed, noted=noted)


class OwnBeats:
    """The heartbeats of one member."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ranks = False
        self._written_ms = 0

    async def beat(
        self, member: Member, living: int, *, ending: bool = False, changed: bool = False, noted: bool = False
    ) -> Beat:
        """Writes a heartbeat; see `roster.beat`. ``living``: how many are on the list, as far as is known."""
        plain = self._ranks and not (ending or changed or noted)
        if living > MANY and plain and 0 <= member.seen_ms - self._written_ms < _RECORD_MS:
            answer = await roster.bare(self._store, member.id)
            if answer is not None:
                return answer
        self._ranks = False
        answer = await beat(self._store, member, ending=ending, changed=changed, noted=noted)
        self._ranks, self._written_ms = answer.ranks, member.seen_ms
        return answer


class MemberList:
    """The list of members, as one reader knows it: each `read` brings only the records that others were to read anew.

    What else heartbeats report, such as rates, is as old as that.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._noted = 0
        self._known: dict[str, Member] = {}

    async def read(self) -> Ranking:
        """Those who rank now. StoreUnavailable."""
        listed = await roster.read(self._store, self._noted)
        if not listed.whole:
            self._take(listed)
            # Beats of earlier versions note nothing.
            if not all(one in self._known and self._known[one].noted for one in listed.living):
                listed = await roster.read(self._store)
        if listed.whole:
            self._known = {}
            self._take(listed)
        for gone in self._known.keys() - listed.living:
            del self._known[gone]
        self._noted = listed.noted
        ending = listed.living - listed.ranking - listed.returned
        return Ranking(listed.version, *map(self._members, (listed.ranking, listed.returned, ending)))

    def _take(self, listed: roster.Roster) -> None:
        for member_id, raw in listed.records.items():
            if member_id in listed.living and (member := _read(member_id.encode(), raw)) is not None:
                self._known[member_id] = member

    def _members(self, ids: frozenset[str]) -> tuple[Member, ...]:
        return tuple(self._known[member_id] for member_id in sorted(ids & self._known.keys()))


async def leave(store: Store, member_id: str) -> None:
    """Takes a member off the list."""
    await roster.leave(store, member_id)


async def live(store: Store) -> list[Member]:
    """Every member by id, as its last heartbeat describes it; damaged heartbeats are left out."""
    flat: dict[bytes, bytes] = await store.servers.ask("HGETALL", keys.nodes(store.prefix))
    read = (_read(member_id, raw) for member_id, raw in sorted(flat.items()))
    found = [member for member in read if member is not None]
    if len(found) <= MANY:
        return found
    # Records do not have the moments of all beats there.
    lists = (keys.beats(store.prefix), keys.silent(store.prefix))
    seen: dict[str, int] = {}
    for scores in await store.servers.ask_many([("ZRANGE", key, 0, -1, "WITHSCORES") for key in lists]):
        seen.update((member_id.decode("utf-8", "replace"), int(at)) for member_id, at in scores)
    return [replace(member, seen_ms=max(member.seen_ms, seen.get(member.id, 0))) for member in found]


async def find(store: Store, member_id: str) -> Member | None:
    """A member, as its last heartbeat describes it; None if there is none that can be read."""
    return (await some(store, (member_id,)))[0]


async def some(store: Store, member_ids: Sequence[str]) -> list[Member | None]:
    """These members, each as by `find`."""
    rows: list[bytes | None] = await store.servers.ask("HMGET", keys.nodes(store.prefix), *member_ids)
    return [None if raw is None else _read(name.encode(), raw) for name, raw in zip(member_ids, rows, strict=True)]


async def forget(store: Store, now_ms: int, after_ms: int) -> int:
    """Deletes the heartbeats of members that have not beaten for ``after_ms``; returns how many."""
    flat: dict[bytes, bytes] = await store.servers.ask("HGETALL", keys.nodes(store.prefix))
    old: list[bytes] = []
    for member_id, raw in flat.items():
        # A heartbeat ahead of the clock was written before the clock was set back; a living member has written again
        # since.
        if abs(now_ms - members.seen_ms(raw)) > after_ms:
            old += (member_id, raw)
    gone = 0
    for at in range(0, len(old), 1_000):
        gone += int(await store.runner.run(ScriptCall("sweep", keys.nodes(store.prefix), old[at : at + 1_000])))
    return gone


def _read(member_id: bytes, raw: bytes) -> Member | None:
    """The member of a stored heartbeat; None for a damaged one, which is logged once."""
    name = member_id.decode("utf-8", "replace")
    try:
        return members.decode(name, raw)
    except ValueError as error:
        if name not in _named and len(_named) < _MOST_NAMED:
            _named.add(name)
            log.warning("%s; it is left out", error)
        return None
