"""A fleet of a thousand members, as far as one machine can show it: the real decisions, and what beats and lists cost
a real server."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter

from benchmarks import ours
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import reset_costs, server_microseconds
from benchmarks.harness.report import OURS, Row, at_most
from benchmarks.harness.server import BenchServer
from delaybox.core.membership import Activity, Member
from delaybox.core.ownership import Assignment, Candidate, assigned, cap
from delaybox.engine.membership import BEAT_S
from delaybox.store import nodes

MEMBERS = 1_000
PARTITIONS = 4_096
CHANGES = 6
BEATS = 4_000
BATCH = 100
BEAT_MS = round(1_000 * BEAT_S)
READERS = 20


def thousand(bench: Bench) -> list[Row]:
    """How long a division takes, how much a change moves, and what a second of beats costs."""
    rng = bench.random()
    living = {f"m{n}": Candidate(f"m{n}.clock0", f"host{n}") for n in range(MEMBERS)}
    before = assigned(list(living.values()), PARTITIONS)
    slowest, moves, least = 0.0, 0, 0
    for change in range(CHANGES):
        gone = _change(living, rng, change)
        began = time.process_time()
        now = assigned(list(living.values()), PARTITIONS)
        slowest = max(slowest, time.process_time() - began)
        moves += sum(a.owner != b.owner for a, b in zip(before, now, strict=True))
        least += _least(before, gone, len(living))
        before = now
    with bench.server() as server:
        cost, read_us, whole_us = ours.run(_beats(server))
    return [
        Row(
            what=f"CPU time to divide {PARTITIONS:,} partitions among {MEMBERS:,} members",
            subject=OURS,
            value=slowest,
            unit="s",
            bounds=(at_most(2 * BEAT_S),),
            note=f"the slowest of {CHANGES} changes of the list; each partition has one owner in each",
        ),
        Row(
            what="partitions that change their owner, against the least",
            subject=OURS,
            value=moves / least,
            unit="×",
            bounds=(at_most(1.8),),
            note=(
                f"{moves} and {least} in {CHANGES} changes, of one member or of ten; the least is what the cap and "
                "fair shares of newcomers need"
            ),
        ),
        Row(
            what=f"share of a server core for the beats of {MEMBERS:,} members, and their reads once a minute",
            subject=OURS,
            value=100 * (cost * MEMBERS / BEAT_S + read_us * MEMBERS / 60) / 1e6,
            unit="%",
            bounds=(at_most(5),),
            note=(
                f"{cost:.1f} µs a beat, the median of {BEATS // BATCH} times {BATCH}; {MEMBERS:,} members on the list. "
                f"All read it when it changed: {read_us:.0f} µs where one member did, {whole_us / 1000:.1f} ms at first"
            ),
        ),
    ]


def _change(living: dict[str, Candidate], rng: random.Random, change: int) -> set[str]:
    """One member or ten leave, or join. The ids of those that left."""
    count = 1 if change % 4 < 2 else 10
    if change % 2:
        for n in range(count):
            name = f"new{change}-{n}"
            living[name] = Candidate(f"{name}.clock0", name)
        return set()
    return {living.pop(name).id for name in rng.sample(sorted(living), count)}


def _least(before: list[Assignment], gone: set[str], members: int) -> int:
    """Moves that no division can do without: what the gone had, what is over the new cap, and shares of newcomers."""
    orphans = sum(a.owner in gone for a in before)
    most = cap(1.0, float(members), PARTITIONS)
    over = sum(max(0, owned - most) for owned in Counter(a.owner for a in before if a.owner not in gone).values())
    newcomers = 0 if gone else members - len({a.owner for a in before})
    return orphans + max(over, newcomers * (PARTITIONS // members))


async def _beats(server: BenchServer) -> tuple[float, float, float]:
    """Microseconds of the server for a beat, for a read of the list after a change, and for the first one, with
    everybody on the list."""
    async with ours.opened(server) as store:
        now_ms = await store.ping()
        senders = [nodes.OwnBeats(store) for _ in range(MEMBERS)]
        for n, sender in enumerate(senders):
            # They do not all write their records at once.
            await sender.beat(_member(n, now_ms - n % 3 * BEAT_MS), n)
        found: list[float] = []
        for at in range(MEMBERS, MEMBERS + BEATS, BATCH):
            reset_costs(server)
            for n in range(at, at + BATCH):
                # Every third one with the record, as members beat.
                seen_ms = now_ms + BEAT_MS * (n // MEMBERS)
                await senders[n % MEMBERS].beat(_member(n % MEMBERS, seen_ms), MEMBERS)
            found.append(server_microseconds(server) / BATCH)
        readers = [nodes.MemberList(store) for _ in range(READERS)]
        reads: list[float] = []
        for again in range(2):
            if again:
                await nodes.beat(store, _member(0, now_ms), changed=True)
            reset_costs(server)
            for reader in readers:
                await reader.read()
            reads.append(server_microseconds(server) / READERS)
        return statistics.median(found), reads[1], reads[0]


def _member(n: int, now_ms: int) -> Member:
    kept = tuple(range(n, PARTITIONS, MEMBERS))
    activity = Activity(types="p", partitions=kept, partition_count=len(kept), fired_per_s={"pdefault": 12.5})
    name = f"m{n}"
    return Member(
        id=f"{name}.clock0",
        node=name,
        kind="clock",
        host=f"host{n}",
        seen_ms=now_ms,
        activity=activity,
        noted=True,
    )
