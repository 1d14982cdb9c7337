"""Proves the structure of a live store: scans with plain commands, and judges each suspect again in one script.

A store at work changes between two reads, so what looks wrong in a scan is only a suspect; ``scripts/check.lua`` and
MULTI then look at one moment. Bounded memory: one partition's leased, dead and quarantined ids, bucket numbers and one
page of records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from delaybox.core import ids
from delaybox.store import fsck_failures, fsck_labels, keys, label_entries, label_index, permits
from delaybox.store.fsck_kinds import KINDS
from delaybox.store.kafka import Stream
from delaybox.store.loader import ScriptCall
from delaybox.store.record import (
    Record,
    UnreadableRecord,
    group_member,
    hint,
    id_of_key,
    is_newer,
    read,
    read_dead,
)
from delaybox.store.scanning import hash_pages, zset_members
from delaybox.store.servers import Command, milliseconds
from delaybox.store.store import Store

PAGE = 500
_CHUNKS = 16
"""Entries of the feed of events, of 60 kB at most each, in one look."""
CHECKED_AT_ONCE = 100
MOST_SEEN = 10
"""Leases named with one suspect; it is seen in more than one only where something is broken."""
MOST_NAMED = 100_000
"""Problems that a report names; of further ones it says how many there are, at most."""


@dataclass(frozen=True, slots=True)
class FsckReport:
    """``problems``: sentences that start with one of `KINDS`; none is clean. ``counts``: what was looked at."""

    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


async def fsck(store: Store, *, repair: bool = False) -> FsckReport:
    """Checks the whole store, at work or not. StoreUnavailable when the server does not answer.

    ``repair`` asserts hints and index entries again (counted as ``repaired``); it never removes a record, a body or an
    idempotency entry. The report says what was found before the repair.
    """
    check = _Check(store, repair)
    await check.run()
    return FsckReport(sorted(check.problems), dict(sorted(check.counts.items())))


class _Check:
    def __init__(self, store: Store, repair: bool) -> None:
        self.store = store
        self.servers = store.servers
        self.repair = repair
        self.problems: set[str] = set()
        self.counts: dict[str, int] = defaultdict(int)
        self.buckets: dict[int, set[int]] = defaultdict(set)
        self.leases: dict[int, set[bytes]] = defaultdict(set)
        self.suspects: dict[int, set[tuple[bytes, bytes, bytes]]] = defaultdict(set)
        self.history: dict[int, list[bytes]] = defaultdict(list)
        self.pools: dict[int, list[bytes]] = defaultdict(list)
        self.in_lists = fsck_labels.Listed(store, repair=repair)
        self.seen_in: dict[bytes, list[bytes]] = {}
        """Of the partition at hand: the leases in which each leased task was seen."""

    async def run(self) -> None:
        await self._keyspace()
        for p in range(self.store.partitions):
            await self._partition(p)
            await self._permits(p)
            await self._judge(p)
            await self._remembered(p)
            await self._failures(p)
            if p == 0:
                await self._feed(p)
        if self.in_lists.repaired:
            self.counts["repaired"] += self.in_lists.repaired

    def _report(self, kind: str, partition: int, what: str) -> None:
        if len(self.problems) < MOST_NAMED:
            self.problems.add(f"{kind}: partition {partition}, {what}: {KINDS[kind]}")
        else:
            self.counts["problems that are not named"] += 1

    def _suspect(self, partition: int, task_id: bytes, key: bytes = b"", member: bytes = b"") -> None:
        self.suspects[partition].add((task_id, key, member))

    # -- the keyspace: which buckets and leases there are; bodies and keys' entries are looked at in passing ---

    async def _keyspace(self) -> None:
        tags = {tag.encode(): p for p, tag in enumerate(self.store.tags)}
        async for found in self.servers.keys_like(keys.pattern(self.store.prefix), 2 * PAGE):
            bodies: list[tuple[int, bytes]] = []
            idem: list[tuple[int, bytes]] = []
            fair: list[tuple[int, bytes, bytes]] = []
            for key in found:
                tag, kind, rest = keys.parts(key)
                p = tags.get(tag)
                if p is None:
                    continue
                if kind == b"b":
                    self.buckets[p].add(int(rest))
                elif kind == b"lease":
                    self.leases[p].add(rest)
                elif kind == b"body":
                    bodies.append((p, rest))
                elif kind == b"idem":
                    idem.append((p, rest))
                elif kind == b"kafka":
                    await self._watermarks(p)
                elif kind in (b"fair", b"fairq", b"fairidle") and rest:
                    fair.append((p, key, rest))
                elif kind == b"label" and rest.isdigit():
                    await self._labels(p, int(rest))
                elif kind == b"used":
                    self.pools[p].append(rest)
                elif kind == b"history" and keys.is_history(rest):
                    self.history[p].append(rest)
            await self._bodies(bodies)
            await self._idempotency(idem)
            await self._fairness(fair)

    async def _fairness(self, found: Sequence[tuple[int, bytes, bytes]]) -> None:
        """What is kept of fairness keys goes away with the ready work of their lane."""
        self.counts["sets of fairness keys"] += len(found)
        for p, key, lane in found:
            tag = self.store.tags[p]
            looks = [("EXISTS", key), ("EXISTS", keys.ready_of(tag, lane)), *keys.stands(tag, lane)]
            there, *needed = await self.servers.together(looks)
            if there and not any(needed):
                self._report("fair-orphan", p, f"set {lane.decode(errors='replace')!r}")

    async def _watermarks(self, p: int) -> None:
        async for page in self._hash(keys.kafka(self.store.tags[p])):
            self.counts["Kafka watermarks"] += len(page)
            for field_, value in page:
                stream = Stream.of_field(field_)
                if stream is None or not value.isdigit() or stream.home(self.store.partitions) != p:
                    self._report("watermark-wrong", p, f"watermark {field_.decode(errors='replace')!r}")

    async def _bodies(self, bodies: Sequence[tuple[int, bytes]]) -> None:
        self.counts["bodies"] += len(bodies)
        for (p, task_id), raw in zip(bodies, await self._at_home(bodies), strict=True):
            record = _readable(task_id, raw)
            if record is None or not record.stub:
                self._suspect(p, task_id)

    async def _idempotency(self, entries: Sequence[tuple[int, bytes]]) -> None:
        self.counts["keys"] += len(entries)
        names = [keys.idem(self.store.tags[p], key) for p, key in entries]
        replies = await self.servers.ask_many([(word, name) for name in names for word in ("GET", "PTTL")])
        live = [
            (p, key, id_of_key(held))
            for (p, key), held, ttl in zip(entries, replies[0::2], replies[1::2], strict=True)
            if ttl == -1
        ]
        self.counts["keys of live tasks"] += len(live)
        records = await self._at_home([(p, task_id) for p, _, task_id in live])
        for (p, key, task_id), raw in zip(live, records, strict=True):
            record = _readable(task_id, raw)
            if record is None or record.key != key:
                self._suspect(p, task_id, key)

    def _home(self, p: int, task_id: bytes) -> str:
        return keys.bucket(self.store.tags[p], ids.bucket(task_id, self.store.bucket_ms))

    async def _at_home(self, places: Sequence[tuple[int, bytes]]) -> list[bytes | None]:
        """Per (partition, id) what lies in its home bucket."""
        return await self.servers.ask_many([("HGET", self._home(p, task_id), task_id) for p, task_id in places])

    # -- one partition ----------------------------------------------------------------------------------------------

    async def _partition(self, p: int) -> None:
        tag = self.store.tags[p]
        elsewhere: set[bytes] = set()
        self.seen_in = {}
        if entries := await self.in_lists.begin(p):
            self.counts["labels"] += entries
        listed = {lease_id async for lease_id in self._zset(keys.leases(tag))}
        self.leases[p] |= listed
        await self._pairs(p, listed)
        for lease_id in self.leases[p]:
            self.counts["leases"] += 1
            async for page in self._hash(keys.lease(tag, lease_id)):
                for task_id, _ in page:
                    self.seen_in.setdefault(task_id, []).append(lease_id)
                await self._indexed(p, lease_id, [task_id for task_id, _ in page])
                records = [(i, _readable(i, raw)) for i, raw in page]
                await self._apart(p, elsewhere, records, "in flight")
                for task_id, record in records:
                    if record is not None and record.permit:
                        # Few tasks have one, and whether it is there is judged in one moment.
                        self._suspect(p, task_id)
        async for page in self._hash(keys.leased(tag)):
            for task_id, lease_id in page:
                if lease_id not in self.seen_in.get(task_id, ()):
                    self._suspect(p, task_id)
        async for page in self._hash(keys.dead(tag)):
            await self._apart(p, elsewhere, [(i, _readable_dead(i, value)) for i, value in page], "dead")
        async for page in self._hash(keys.quarantine(tag)):
            await self._apart(p, elsewhere, [(i, None) for i, _ in page], "quarantined")
        for held, times in (
            (keys.dead(tag), keys.dead_at(tag)),
            (keys.quarantine(tag), keys.quarantine_at(tag)),
            (keys.results(tag), keys.results_at(tag)),
        ):
            hash_ids = {task_id async for page in self._hash(held) for task_id, _ in page}
            for task_id in hash_ids ^ {member async for member in self._zset(times)}:
                self._suspect(p, task_id)

        await self._groups(p)
        expanded = int(await self.servers.ask("HGET", keys.clock(tag), "expanded") or 0)
        numbers = {int(member) async for member in self._zset(keys.buckets(tag))}
        await self._listed(p, self.buckets[p] ^ numbers)
        for number in sorted(self.buckets[p] | numbers):
            self.counts["buckets"] += 1
            async for page in self._hash(keys.bucket(tag, number)):
                await self._bucketed(p, number, expanded, elsewhere, page)

    async def _labels(self, p: int, number: int) -> None:
        """Entries of the index of labels, judged in the script that would drop them."""
        cursor, drop = b"0", self.repair
        while True:
            cursor, seen, wrong = await label_index.dangling(self.store, p, number, cursor, count=PAGE, drop=drop)
            self.counts["labels"] += seen
            if wrong:
                self._report("label-dangling", p, f"{wrong} in set {number}")
            if cursor == b"0":
                return

    async def _remembered(self, p: int) -> None:
        """What is remembered of ended tasks: each hash is listed, and the sums are those of the hashes."""
        tag = self.store.tags[p]
        for name in self.history[p]:
            self.counts["hashes of ended tasks"] += 1
            there, listed, counted = await self.servers.together(
                [
                    ("EXISTS", keys.history_hash(tag, name)),
                    ("ZSCORE", keys.history_at(tag, name[:1].decode()), name),
                    ("HEXISTS", keys.history_sizes(tag), name),
                ]
            )
            if there and not (listed and counted):
                self._report("history-not-listed", p, f"hash {name.decode(errors='replace')!r}")
        sizes, sums = await self.servers.together(
            [
                ("HVALS", keys.history_sizes(tag)),
                ("HMGET", keys.history(tag), "entries:s", "entries:f", "bytes:s", "bytes:f"),
            ]
        )
        entries = sum(int.from_bytes(size[:4], "big") for size in sizes)
        held = sum(int.from_bytes(size[4:8], "big") for size in sizes)
        noted = [int(value or 0) for value in sums]
        self.counts["ended tasks"] += entries
        if (entries, held) != (noted[0] + noted[1], noted[2] + noted[3]):
            self._report("history-not-counted", p, f"{entries} entries of {held} bytes")

    async def _failures(self, p: int) -> None:
        """Why attempts failed."""
        found = await fsck_failures.look(self.store, p)
        self.counts["tasks with failures"] += found.tasks
        for kind, what in found.problems:
            self._report(kind, p, what)

    async def _feed(self, p: int) -> None:
        """The sums over the feed of events are those of its entries."""
        tag = self.store.tags[p]
        asked = ("HMGET", keys.events_sums(tag), "events", "bytes")
        before = await self.servers.ask(*asked)
        counted, held, start = 0, 0, "-"
        while found := await self.servers.ask("XRANGE", keys.events(tag), start, "+", "COUNT", _CHUNKS):
            counted += sum(int(fields[1]) for _, fields in found)
            held += sum(len(fields[3]) for _, fields in found)
            start = f"({found[-1][0].decode()}"
        self.counts["events"] += counted
        sums = [int(value or 0) for value in before]
        # Where both differ it was written to meanwhile.
        if sums != [counted, held] and before == await self.servers.ask(*asked):
            self._report("events-not-counted", p, f"{counted} events of {held} bytes")

    async def _groups(self, p: int) -> None:
        """Suspects entries of groups whose tasks do not lie at home and belong to that group."""
        after = b"-"
        while True:
            index = keys.groups(self.store.tags[p])
            found: list[bytes] = await self.servers.ask("ZRANGE", index, after, "+", "BYLEX", "LIMIT", 0, PAGE)
            self.counts["in groups"] += len(found)
            task_ids = [member[-ids.ID_BYTES :] for member in found]
            at_home = await self._at_home([(p, task_id) for task_id in task_ids])
            for member, task_id, raw in zip(found, task_ids, at_home, strict=True):
                record = _readable(task_id, raw)
                if record is None or group_member(record.group, task_id) != member:
                    self._suspect(p, task_id, member=member)
            if len(found) < PAGE:
                return
            after = b"(" + found[-1]

    async def _permits(self, p: int) -> None:
        """What is in use of pools, and that no partition may use more than its record says."""
        for kind, what in await permits.problems(self.store, p, self.pools[p], self.seen_in):
            self._report(kind, p, what)

    async def _pairs(self, p: int, listed: set[bytes]) -> None:
        """Lease hashes and their expiries, those that differ looked at again in one moment each."""
        tag = self.store.tags[p]
        for lease_id in self.leases[p] - listed | {i for i in listed if not await self._exists(keys.lease(tag, i))}:
            there, expiry, now = await self.servers.together(
                [("EXISTS", keys.lease(tag, lease_id)), ("ZSCORE", keys.leases(tag), lease_id), ("TIME",)]
            )
            if bool(there) == (expiry is not None):
                continue
            self._report("lease-without-expiry" if there else "expiry-without-lease", p, f"lease {lease_id.hex()}")
            if self.repair:
                # A lease that nobody reaps gets an expiry of now: its tasks go back, charged with one loss.
                if there:
                    await self.servers.ask("ZADD", keys.leases(tag), "NX", milliseconds(now), lease_id)
                else:
                    await self.servers.ask("ZREM", keys.leases(tag), lease_id)
                self.counts["repaired"] += 1

    async def _exists(self, key: bytes | str) -> bool:
        return bool(await self.servers.ask("EXISTS", key))

    async def _listed(self, p: int, numbers: Iterable[int]) -> None:
        tag = self.store.tags[p]
        for number in numbers:
            there, score = await self.servers.together(
                [("EXISTS", keys.bucket(tag, number)), ("ZSCORE", keys.buckets(tag), number)]
            )
            if bool(there) == (score is not None):
                continue
            self._report("bucket-not-listed" if there else "bucket-empty", p, f"bucket {number}")
            if self.repair:
                # index.lua is the one step that lists a bucket or strikes it off, whichever is right by then.
                await self.store.index(p, number, b"0", count=1)
                self.counts["repaired"] += 1

    async def _apart(
        self, p: int, elsewhere: set[bytes], found: Sequence[tuple[bytes, Record | None]], name: str
    ) -> None:
        """Ids outside the buckets: each once, in its partition, with its key's entry and its body."""
        self.counts[name] += len(found)
        for task_id, record in found:
            self._right_partition(p, task_id)
            if task_id in elsewhere or (record is None and name != "quarantined"):
                self._suspect(p, task_id)
            elsewhere.add(task_id)
        await self._belongings(p, [record for _, record in found if record is not None])

    async def _indexed(self, p: int, lease_id: bytes, task_ids: list[bytes]) -> None:
        """Suspects the tasks of a lease that the index does not name for that lease."""
        if not task_ids:
            return
        named: list[bytes | None] = await self.servers.ask("HMGET", keys.leased(self.store.tags[p]), *task_ids)
        for task_id, lease in zip(task_ids, named, strict=True):
            if lease != lease_id:
                self._suspect(p, task_id)

    def _right_partition(self, p: int, task_id: bytes) -> None:
        if len(task_id) != ids.ID_BYTES or ids.partition(task_id) != p:
            self._report("wrong-partition", p, f"id {_name(task_id)}")

    async def _bucketed(
        self, p: int, number: int, expanded: int, elsewhere: set[bytes], page: Sequence[tuple[bytes, bytes]]
    ) -> None:
        records: list[Record] = []
        for task_id, raw in page:
            home = ids.bucket(task_id, self.store.bucket_ms)
            if home != number:
                await self._pointer(p, number, expanded, task_id, raw)
                continue
            self.counts["pending"] += 1
            self._right_partition(p, task_id)
            record = _readable(task_id, raw)
            if record is not None:
                records.append(record)
            elif is_newer(raw):
                self.counts["of a newer format"] += 1
            else:
                self._suspect(p, task_id)
            if task_id in elsewhere:
                self._suspect(p, task_id)
        await self._belongings(p, records)
        await self._hints(p, number, expanded, records)

    async def _pointer(self, p: int, number: int, expanded: int, task_id: bytes, raw: bytes) -> None:
        self.counts["pointers"] += 1
        if raw:
            self._report("wrong-bucket", p, f"id {_name(task_id)} in bucket {number}")
        elif number < expanded:
            # A pointer in a bucket that is not expanded yet may name a task that has ended since: expansion drops it.
            pointer = keys.bucket(self.store.tags[p], number)
            there, named = await self.servers.together(
                [("HEXISTS", pointer, task_id), ("HEXISTS", self._home(p, task_id), task_id)]
            )
            if there and not named:
                self._report("pointer-dangling", p, f"id {_name(task_id)} in bucket {number}")

    async def _belongings(self, p: int, records: Sequence[Record]) -> None:
        """Suspects records whose idempotency entry or large body is missing or wrong."""
        tag = self.store.tags[p]
        in_groups = [r for r in records if r.group]
        if in_groups:
            names = [group_member(r.group, r.task_id) for r in in_groups]
            scores = await self.servers.ask("ZMSCORE", keys.groups(tag), *names)
            for r, score in zip(in_groups, scores, strict=True):
                if score is None:
                    self._suspect(p, r.task_id)
        listed = [(r, number, field_) for r in records for number, field_ in label_entries.entries_of(r)]
        if listed:
            there = await self.servers.ask_many([("SISMEMBER", keys.label(tag, n), f) for _, n, f in listed])
            for (r, _, _), found in zip(listed, there, strict=True):
                if not found:
                    self._suspect(p, r.task_id)
        for task_id in await self.in_lists.missing(records):
            self._report("label-missing", p, f"id {_name(task_id)}")
        special = [r for r in records if r.stub or r.key is not None]
        if not special:
            return
        commands: list[Command] = []
        for r in special:
            name = keys.idem(tag, r.key or b"")
            commands += [("EXISTS", keys.body(tag, r.task_id)), ("GET", name), ("PTTL", name)]
        replies = await self.servers.ask_many(commands)
        for r, body, held, ttl in zip(special, replies[0::3], replies[1::3], replies[2::3], strict=True):
            if bool(body) != r.stub or (r.key is not None and (id_of_key(held or b"") != r.task_id or ttl != -1)):
                self._suspect(p, r.task_id)

    async def _hints(self, p: int, number: int, expanded: int, records: Sequence[Record]) -> None:
        """Suspects records that will not be found: neither near nor a bucket that is still to be expanded names
        them."""
        width, tag = self.store.bucket_ms, self.store.tags[p]
        named = [r for r in records if number < expanded or r.due_ms // width < number]
        by_index: dict[str, list[Record]] = defaultdict(list)
        for r in named:
            by_index[keys.near(tag, r.priority, chr(r.lane[0]))].append(r)
        for index, those in by_index.items():
            scores = await self.servers.ask("ZMSCORE", index, *[hint(r.task_id, r.lane) for r in those])
            for r, score in zip(those, scores, strict=True):
                if score is None or score > r.due_ms:
                    self._suspect(p, r.task_id)

    # -- the second look --------------------------------------------------------------------------------------------

    async def _judge(self, p: int) -> None:
        suspects = sorted(self.suspects.pop(p, ()))
        self.counts["looked at twice"] += len(suspects)
        head: list[Any] = [self.store.bucket_ms, int(self.repair), self.store.key_keep_ms]
        for at in range(0, len(suspects), CHECKED_AT_ONCE):
            some = suspects[at : at + CHECKED_AT_ONCE]
            args = [*head]
            for task_id, key, member in some:
                seen = self.seen_in.get(task_id, [])[:MOST_SEEN]
                args += (task_id, key, member, len(seen), *seen)
            replies = await self.store.runner.run(ScriptCall("check", self.store.tags[p], args))
            for (task_id, key, _), kinds in zip(some, replies, strict=True):
                for kind in map(bytes.decode, kinds):
                    named = f", key {key!r}" if key and kind.startswith("key-") else ""
                    self._report(kind, p, f"id {_name(task_id)}{named}")
                if self.repair and kinds:
                    self.counts["repaired"] += 1

    # -- pages ------------------------------------------------------------------------------------------------------

    def _hash(self, key: bytes | str) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        return hash_pages(self.servers, key, PAGE)

    def _zset(self, key: bytes | str) -> AsyncIterator[bytes]:
        return zset_members(self.servers, key, PAGE)


def _readable(task_id: bytes, raw: bytes | None) -> Record | None:
    try:
        return read(task_id, raw) if raw else None
    except UnreadableRecord:
        return None


def _readable_dead(task_id: bytes, value: bytes) -> Record | None:
    try:
        return read_dead(task_id, value)[2]
    except ValueError:
        return None


def _name(task_id: bytes) -> str:
    return ids.render(task_id) if len(task_id) == ids.ID_BYTES else task_id.hex()
