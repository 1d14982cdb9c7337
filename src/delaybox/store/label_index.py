"""The index of labels: which tasks have a label of a value, for the labels that a configuration names, and where it
names them, functions: these are indexed as the label `FUNCTION`.

An entry of the index is a hint. Whether a task has the label is decided by its record when it is read. Every writer
reads once a second which labels are indexed (`knowledge`); what was stored before is indexed by the owners of
partitions, and until a partition is through, look-ups scan. scripts/lib/extension.lua says where entries lie: those of
new tasks in lists (`label_lists`), those of others in sets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence

from google.protobuf.message import DecodeError

from delaybox.core.needs import MARK
from delaybox.core.query import TaskQuery
from delaybox.store import keys
from delaybox.store.knowledge import Knowledge
from delaybox.store.label_entries import (
    FUNCTION,
    SETS,
    TOGETHER,
    entry,
    in_sets,
    listed,
    number_of,
    place,
    places,
    split,
)
from delaybox.store.label_lists import Known, enter
from delaybox.store.loader import ScriptCall
from delaybox.store.record import Record, UnreadableRecord, read
from delaybox.store.servers import Command
from delaybox.store.store import Store
from delaybox.wire import body as wire_body

_FUNCTIONS = "functions"
"""The field beside those of labels, which versions that know no index of functions do not read."""
_AT_ONCE = 16
"""Partitions in one round trip."""
_ENTRIES_AT_ONCE = 10_000
"""Entries that these look through together, unless one has more."""
SETTLED_MS = 30_000
"""From this time on after a label was named, every writer indexes it: it goes by names that are `knowledge.AWAY_S` old
at most, and what it sends may take a while to be stored."""
LOOKED_UP = 1_000_000
"""Past this many that it would go through, a look-up scans: entries of sets, elements of lists, and entries that lists
have of this label."""
_SAMPLES = 8
"""Elements of lists by which it is judged how many entries of a label there are."""


class IndexedLabels(Knowledge):
    """The labels that are indexed in one store, after `fresh`."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self.names: frozenset[str] = frozenset()
        self._functions = False
        self._spelled: tuple[bytes, ...] = ()
        """The names of labels as they stand in encoded bodies."""

    async def _read(self) -> None:
        self.names = frozenset(await declared(self._store))
        self._functions = FUNCTION in self.names
        self._spelled = tuple(name.encode() for name in self.names if name != FUNCTION)

    def may_have(self, name: str, body: bytes) -> bool:
        """Whether an encoded task may be indexed. ``name``: of its function or command, as its lane has it."""
        return bool(self._functions and name) or any(spelled in body for spelled in self._spelled)

    def entry_of(self, name: str, body: bytes) -> bytes:
        """The places of an encoded task, as `label_entries.entry` makes them."""
        if not self.may_have(name, body):
            return b""
        labels = wire_body.pairs(wire_body.decode(body).labels) if self._spelled else {}
        return entry(self.names, labels, name.partition(MARK)[0])


async def declare(store: Store, names: Sequence[str], *, functions: bool = False) -> None:
    """Names labels to be indexed, and ``functions``. What was named once stays so. StoreUnavailable."""
    if names or functions:
        now = await store.look()
        asked: list[Command] = [("HSETNX", keys.indexed(store.prefix), name, now) for name in names]
        if functions:
            asked.append(("HSETNX", keys.meta(store.prefix), _FUNCTIONS, now))
        await store.servers.ask_many(asked)


async def declared(store: Store) -> dict[str, int]:
    """The labels that are indexed, and since when (ms) each is named. StoreUnavailable."""
    found, functions = await store.servers.ask_many(
        [("HGETALL", keys.indexed(store.prefix)), ("HGET", keys.meta(store.prefix), _FUNCTIONS)]
    )
    out = {name.decode("utf-8", "replace"): int(since) for name, since in found.items()}
    return {**out, FUNCTION: int(functions)} if functions else out


async def complete(store: Store, partitions: Sequence[int]) -> list[frozenset[str]]:
    """For each partition the labels by which all of its tasks are indexed. StoreUnavailable."""
    found = await store.servers.ask_many(
        [("HMGET", keys.clock(store.tags[p]), "labels", _FUNCTIONS) for p in partitions]
    )
    return [
        frozenset((raw or b"").decode("utf-8", "replace").split("\n")) - {""} | ({FUNCTION} if functions else set())
        for raw, functions in found
    ]


async def completed(store: Store, partition: int, names: Collection[str]) -> None:
    """Notes that all tasks of a partition are indexed by these. StoreUnavailable."""
    functions = (_FUNCTIONS, 1) if FUNCTION in names else ()
    labels = "\n".join(sorted(name for name in names if name != FUNCTION))
    await store.servers.ask("HSET", keys.clock(store.tags[partition]), "labels", labels, *functions)


def asked(wanted: TaskQuery) -> dict[str, str]:
    """The labels of a filter by which tasks may be looked up, its function among them."""
    return {FUNCTION: wanted.name, **wanted.labels} if wanted.name else dict(wanted.labels)


async def usable(store: Store, labels: Mapping[str, str]) -> str:
    """A label of these by which tasks can be looked up; "" where a look-up has to scan. StoreUnavailable."""
    if not labels:
        return ""
    everywhere = frozenset(labels).intersection(*await complete(store, range(store.partitions)))
    if not everywhere:
        return ""
    names = sorted(everywhere)
    sums = [
        sum(size for _, size in await sizes(store, name, labels[name]))
        + await _in_lists(store, name, labels[name], exactly=len(names) > 1)
        for name in names
    ]
    best = min(range(len(names)), key=sums.__getitem__)
    return names[best] if sums[best] <= LOOKED_UP else ""


async def _in_lists(store: Store, name: str, value: str, *, exactly: bool) -> int:
    """About how many entries lists have of one label: as many as samples of them let expect. Not ``exactly``: 0 where
    even lists of nothing else would not have too many. StoreUnavailable."""
    where = place(name, value)
    number, mark = number_of(where), where[2:]
    lengths: list[int] = await store.servers.ask_many([("LLEN", keys.listed(tag, number)) for tag in store.tags])
    if not any(lengths) or (not exactly and sum(lengths) * TOGETHER <= LOOKED_UP):
        return 0
    longest = sorted((p for p, length in enumerate(lengths) if length), key=lengths.__getitem__)[-_SAMPLES:]
    samples = await store.servers.ask_many([("LRANGE", keys.listed(store.tags[p], number), 0, 0) for p in longest])
    found = sum(entry_.endswith(mark) for some in samples for element in some for entry_ in split(element))
    return found * sum(lengths) // len(longest)


async def candidates(store: Store, name: str, value: str, start: int = 0) -> AsyncIterator[list[tuple[int, bytes]]]:
    """(partition, id) of the tasks that seem to have a label, from a partition on, in this order; of some partitions at
    a time, because a page of a label that very many tasks have needs only the first. StoreUnavailable."""
    where = place(name, value)
    args = (int.from_bytes(where[:2], "big"), where[2:], number_of(where))
    left = [(p, size) for p, size in await sizes(store, name, value) if p >= start]
    while left:
        together, entries = 1, left[0][1]
        while together < min(len(left), _AT_ONCE) and entries + left[together][1] <= _ENTRIES_AT_ONCE:
            entries += left[together][1]
            together += 1
        part, left = left[:together], left[together:]
        replies = await store.runner.run_many([ScriptCall("labelled", store.tags[p], args) for p, _ in part])
        out: list[tuple[int, bytes]] = []
        for (p, _), reply in zip(part, replies, strict=True):
            if isinstance(reply, BaseException):
                raise reply
            out += [(p, task_id) for task_id in reply]
        yield out


async def sizes(store: Store, name: str, value: str) -> list[tuple[int, int]]:
    """The partitions that may hold such tasks, and how many entries of sets and elements of lists, which take about as
    long, a look-up goes through there. StoreUnavailable."""
    where = place(name, value)
    number = int.from_bytes(where[:2], "big")
    asked: list[Command] = []
    for tag in store.tags:
        asked += (("SCARD", keys.label(tag, number)), ("LLEN", keys.listing(tag)))
        asked += (("LLEN", keys.listed(tag, number_of(where))),)
    found = await store.servers.ask_many(asked)
    together = [sum(found[at : at + 3]) for at in range(0, len(found), 3)]
    return [(p, size) for p, size in enumerate(together) if size]


# -- what was stored before a label was named ---------------------------------------------------------------------


async def lacking(
    store: Store, partition: int, records: Iterable[Record], names: Collection[str], known: Known
) -> list[bytes]:
    """The entries that neither sets nor ``known`` have of records that were read from one partition.
    StoreUnavailable."""
    records = list(records)
    stubs = [record.task_id for record in records if record.stub]
    bodies = dict(zip(stubs, await store.bodies(partition, stubs), strict=True)) if stubs else {}
    out: list[bytes] = []
    for record in records:
        body = bodies.get(record.task_id) if record.stub else record.body
        try:
            message = wire_body.decode(body or b"")
            labels = wire_body.pairs(message.labels)
        except (DecodeError, ValueError):
            continue
        value = entry(names, labels, record.name or message.name)
        if value:
            there = in_sets(record)
            out += [listed(record.task_id, where) for where in places(value) if where not in there]
    return [one for one in out if one not in known]


async def index(
    store: Store, partition: int, found: Mapping[bytes, bytes], names: Collection[str], known: Known
) -> int:
    """Indexes records that were read from one partition (id -> record); how many entries were lacking.
    StoreUnavailable."""
    records: list[Record] = []
    for task_id, raw in found.items():
        try:
            if raw:
                records.append(read(task_id, raw))
        except UnreadableRecord:
            continue
    entries = await lacking(store, partition, records, names, known)
    await enter(store, partition, entries)
    known.add(entries)
    return len(entries)


async def dangling(
    store: Store, partition: int, number: int, cursor: bytes, *, count: int = 250, drop: bool = True
) -> tuple[bytes, int, int]:
    """Looks at entries of one set: (next cursor, entries seen, how many name no such task). ``drop``: removes
    those."""
    args = (store.bucket_ms, number, cursor, count, int(drop))
    reply = await store.runner.run(ScriptCall("delabel", store.tags[partition], args))
    return reply[0], reply[1], reply[2]


async def sets(store: Store, partition: int, first: int, count: int) -> list[int]:
    """Which of the sets from ``first`` on are there. StoreUnavailable."""
    numbers = range(first, min(first + count, SETS))
    tag = store.tags[partition]
    found = await store.servers.ask_many([("EXISTS", keys.label(tag, n)) for n in numbers])
    return [n for n, there in zip(numbers, found, strict=True) if there]
