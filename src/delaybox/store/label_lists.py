"""The lists of the index of labels, in which entries stay when their tasks end: when and how these are looked for.

Scripts put new entries at the end of one list, `listing`, as they come. From there, and from the front of the others,
`listed`, they are taken, and those whose tasks are still there go to the end of `listed`, by their marks. That is done
here and not by a script, because whatever Lua does for one entry costs the server more than all else that the index
does for it. A script only exchanges whole elements.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

from delaybox.core import ids
from delaybox.store import keys
from delaybox.store.label_entries import ENTRY, LISTS, MARK, TOGETHER, elements, number_of, split
from delaybox.store.loader import ScriptCall
from delaybox.store.scrubbed import run_id
from delaybox.store.servers import Command
from delaybox.store.store import MAX_ITEMS, Store

NEW, MANY_NEW = 32, 256
"""So many new elements may come before they are looked at; so many where they are small."""
FEW = 10_000
"""So many entries may come behind those that a look kept, however few these were, before there is another one."""
_PAGE = 20 * TOGETHER * ENTRY
"""Bytes of elements that are looked at together: 10,000 entries or so. Which tasks are there is asked once for them."""
_PAGE_BY_ID = TOGETHER * ENTRY
"""The same where each task is asked for by its id, which costs the server some milliseconds."""
_WORTH = 2 * TOGETHER * ENTRY
"""Bytes of new elements that are looked at together, unless these are `MANY_NEW`."""
_SMALL = 256
"""Elements that are looked at together at most."""
_TRIES = 5
"""So often in a row another process may be first, until a list is left to it."""
_PARTS = 4_096
_LISTING = -1
"""Stands for `listing` among the numbers of `listed`."""


class Behind(NamedTuple):
    """What is to be looked at in a partition."""

    new: bool
    all: bool


async def behind(store: Store, partitions: Sequence[int]) -> list[Behind]:
    """For each partition. ``all``: as many entries came as were kept last time, so `listed` holds twice what it must at
    most, and what came while it was looked through. StoreUnavailable."""
    asked: list[Command] = []
    for tag in (store.tags[p] for p in partitions):
        asked += (("LLEN", keys.listing(tag)), ("HMGET", keys.clock(tag), "relisted", "listed"))
    found = await store.servers.ask_many(asked)
    return [
        Behind(new >= NEW, int(came or 0) > max(int(kept or 0), FEW))
        for new, (came, kept) in zip(found[0::2], found[1::2], strict=True)
    ]


async def look_through(
    store: Store, partition: int, *, every: bool = False, new_alone: bool = False
) -> AsyncIterator[None]:
    """Drops the entries of ended tasks, some thousands a step. ``every``: also of those that were not due yet, as when
    they were cancelled; ``new_alone``: of `listing`, if it is worth it. StoreUnavailable."""
    tag = store.tags[partition]
    lists = [_LISTING] if new_alone else [_LISTING, *range(LISTS)]
    run = await run_id(store, partition)
    kept = seen = 0
    for number in lists:
        left, tries = await store.servers.ask("LLEN", _key(tag, number)), 0
        while left > 0:
            looked = await look(store, partition, number, left, every=every, worth_it=new_alone, run=run)
            # What is kept lies behind the last one of `listed` now. Whoever takes from one list is in the way of all.
            tries = tries + 1 if looked.again else 0
            left -= looked.taken or (0 if looked.again and tries < _TRIES else left)
            seen += looked.taken
            kept += looked.kept if number != _LISTING else 0
            yield
    if seen and not new_alone:
        await store.servers.ask("HSET", keys.clock(tag), "relisted", 0, "listed", kept)


class Exchanged(NamedTuple):
    """``taken``: elements; ``kept``: entries. ``again``: nothing was done, because another process took elements
    meanwhile, or because the server is another one."""

    taken: int = 0
    kept: int = 0
    again: bool = False


async def look(
    store: Store,
    partition: int,
    number: int,
    most: int,
    *,
    every: bool = False,
    worth_it: bool = False,
    run: bytes | None = None,
) -> Exchanged:
    """Looks at elements at the front of a list, ``most`` of them at most. ``worth_it``: not at few small ones; ``run``:
    the server's run id, if it was asked for before. StoreUnavailable."""
    tag = store.tags[partition]
    # First of all: after a fail-over what is read from here on need not be so any more, and nothing is taken.
    run = await run_id(store, partition) if run is None else run
    # Then this: if nothing was taken from the list until the end, what is read is what lies at its front.
    taken_before = await store.servers.ask("HGET", keys.clock(tag), "relists")
    found = await _front(store, _key(tag, number), most, _PAGE_BY_ID if every else _PAGE)
    if not found or (worth_it and most < MANY_NEW and sum(map(len, found)) < _WORTH):
        return Exchanged()
    there = await _there(store, partition, found, every=every)
    left = await _by_mark(found, there) if number == _LISTING else {number: await _left(found, there)}
    kept = sum(len(element) for some in left.values() for element in some) // ENTRY
    name = "listing" if number == _LISTING else f"listed:{number}"
    args: list[Any] = [run, taken_before or 0, name, len(found), kept if number == _LISTING else 0]
    for n, some in left.items():
        for element in some:
            args += (n, element)
    if await store.runner.run(ScriptCall("relist", tag, args)):
        return Exchanged(len(found), kept)
    return Exchanged(again=True)


def _key(tag: str, number: int) -> str:
    return keys.listing(tag) if number == _LISTING else keys.listed(tag, number)


async def _front(store: Store, key: str, most: int, page: int) -> list[bytes]:
    """A list's first elements, of ``page`` bytes together, or one."""
    count = 4
    while True:
        found: list[bytes] = await store.servers.ask("LRANGE", key, 0, min(most, count) - 1)
        size = sum(map(len, found))
        if size >= page // 2 or len(found) < count or count >= _SMALL:
            break
        count *= 4
    while size > page and len(found) > 1:
        size -= len(found.pop())
    return found


class _There(NamedTuple):
    """Which tasks are there: those with an id from ``due`` on, which were not due yet, and these others."""

    due: bytes
    others: set[bytes]


async def _there(store: Store, partition: int, found: Iterable[bytes], *, every: bool) -> _There:
    """Which tasks of elements that were read before are there. StoreUnavailable."""
    tag = store.tags[partition]
    due, named = b"\xff", b"-"
    if not every:
        now, named = await store.runner.run(ScriptCall("remain", tag, (store.bucket_ms, b"")))
        due = (now + 1).to_bytes(6, "big")
    others: set[bytes] = set()
    if named == b"-":
        asked = [name for element in found for name in _names(element) if name < due]
        for at in range(0, len(asked), MAX_ITEMS):
            some = b"".join(asked[at : at + MAX_ITEMS])
            _, named = await store.runner.run(ScriptCall("remain", tag, (store.bucket_ms, some)))
            others.update(_cut(named))
    else:
        others.update(_cut(named))
    return _There(due, others)


def _cut(text: bytes, first: int = 0) -> list[bytes]:
    return [text[at : at + ids.ID_BYTES] for at in range(first, len(text), ids.ID_BYTES)]


def _names(element: bytes) -> list[bytes]:
    """The ids of an element."""
    return _cut(element, len(element) // ENTRY * MARK)


async def _by_mark(found: Iterable[bytes], there: _There) -> dict[int, list[bytes]]:
    """Elements with what is left, by the number of their list."""
    out: defaultdict[int, list[bytes]] = defaultdict(list)
    due, others, size = there.due, there.others, ids.ID_BYTES
    seen: set[bytes] = set()
    for element in found:
        for entry in split(element):
            if (entry > due or entry[:size] in others) and entry not in seen:
                seen.add(entry)
                out[number_of(entry)].append(entry)
        await asyncio.sleep(0)
    return {number: elements(some) for number, some in out.items()}


async def _left(found: Iterable[bytes], there: _There) -> list[bytes]:
    """Elements with what is left of one list: nothing is done for one entry where all are left."""
    due, others = there.due, there.others
    marks: list[bytes] = []
    left: list[bytes] = []
    for element in found:
        names = _names(element)
        first = MARK * len(names)
        all_ = min(names) > due
        kept = [] if all_ else [n for n, name in enumerate(names) if name > due or name in others]
        if all_ or len(kept) == len(names):
            marks.append(element[:first])
            left.append(element[first:])
        else:
            marks += [element[MARK * n : MARK * (n + 1)] for n in kept]
            left += [names[n] for n in kept]
        await asyncio.sleep(0)
    all_marks, all_names, one = b"".join(marks), b"".join(left), ids.ID_BYTES
    return [
        all_marks[MARK * at : MARK * (at + TOGETHER)] + all_names[one * at : one * (at + TOGETHER)]
        for at in range(0, len(all_names) // one, TOGETHER)
    ]


async def enter(store: Store, partition: int, entries: Sequence[bytes]) -> None:
    """Adds entries of tasks that were there before. StoreUnavailable."""
    if entries:
        await store.servers.ask("RPUSH", keys.listing(store.tags[partition]), *elements(entries))


class Known:
    """Entries that the lists of one partition have, in 8 bytes each: a hash stands for an entry, and among a million of
    them one that is not there is taken for one of them once in 10,000,000,000,000."""

    def __init__(self) -> None:
        self._parts = [array("q") for _ in range(_PARTS)]
        self.count = 0

    def add(self, entries: Iterable[bytes]) -> None:
        for entry in entries:
            mark = hash(entry)
            self._parts[mark % _PARTS].append(mark)
            self.count += 1

    def __contains__(self, entry: bytes) -> bool:
        mark = hash(entry)
        return mark in self._parts[mark % _PARTS]

    async def read(self, store: Store, partition: int) -> AsyncIterator[None]:
        """Takes in what the lists hold, some thousand entries a step. They may change meanwhile, so an entry that is
        missing here may be there. StoreUnavailable."""
        tag = store.tags[partition]
        # In this order: what moves meanwhile goes from the first to the end of the second.
        for number in (_LISTING, *range(LISTS)):
            key, first = _key(tag, number), 0
            while found := await store.servers.ask("LRANGE", key, first, first + 9):
                for element in found:
                    self.add(split(element))
                first += len(found)
                yield
