"""Whose turn it is where there is more work than places: priorities, shares, fairness keys, one lane among many."""

from __future__ import annotations

import asyncio
import contextlib
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from benchmarks import ours
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.figures import spread
from benchmarks.harness.report import OURS, Row, at_least, at_most
from benchmarks.harness.server import BenchServer
from benchmarks.ours.queues import Places, ServerClock, add, add_drafts, call, longest, queue_of, taking, watch
from benchmarks.ours.storing import opened
from benchmarks.scenarios import limits
from delaybox.core import ids
from delaybox.core.lane import lane_of
from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.core.waits import longest_wait_ms
from delaybox.service.rules import Rules
from delaybox.store.record import draft, extension_entries, read
from delaybox.store.replies import ClaimLimits
from delaybox.store.store import Store

QUEUES = 10
TAKEN = 10_000
WARM = 3_000
"""Tasks that are taken before it is counted: by then what is due was made ready, so that all of it is seen."""


def run(bench: Bench) -> None:
    bench.attempt(f"{QUEUES} queues by weight", OURS, "%", lambda: _shares(bench), bounds=(at_most(5),))
    bench.attempt("critical in overload", OURS, "ms", lambda: _overload(bench), bounds=(at_most(50),))
    bench.attempt("fairness keys", OURS, "tasks", lambda: _keys(bench), bounds=(at_most(1),))
    bench.attempt("keys among pending ones", OURS, "tasks", lambda: _pending_keys(bench), bounds=(at_most(1),))
    bench.attempt("one lane among many", OURS, "ms", lambda: _one_lane(bench), bounds=(at_most(50),))
    limits.run(bench)


def _shares(bench: Bench) -> list[Row]:
    async def measure(server: BenchServer) -> tuple[float, str]:
        async with opened(server) as store:
            weights = {f"q{n}": float(n + 1) for n in range(QUEUES)}
            drawn = bench.random()
            for at, (queue, weight) in enumerate(weights.items()):
                await Rules(store).set(queue, QueueRules(weight=weight))
                # Some lie in one partition, some in a few, some in all.
                spread_over = drawn.sample(range(store.partitions), (1, 3, store.partitions)[at % 3])
                for p in spread_over:
                    await add(store, p, [call(queue) for _ in range(6 * TAKEN // QUEUES // len(spread_over))])
            places = Places(100, 0.02, queue_of, WARM + TAKEN + 100)
            async with taking(store, places):
                await asyncio.wait_for(places.full.wait(), 120)
            counts = places.counts(WARM, WARM + TAKEN)
            whole = sum(weights.values())
            off = {queue: counts[queue] / (TAKEN * weight / whole) - 1 for queue, weight in weights.items()}
            worst = max(off, key=lambda queue: abs(off[queue]))
            return 100 * abs(off[worst]), f"worst is {worst}: {counts[worst]} of {TAKEN:,}; weights 1 to {QUEUES}"

    with bench.server() as server:
        watch(server)
        worst, note = ours.run(measure(server))
        slow = longest(server, f"{QUEUES} queues by weight")
    what = f"shares of {QUEUES} queues over {TAKEN:,} tasks, off their weights by at most"
    return [Row(what=what, subject=OURS, value=worst, unit="%", note=note, bounds=(at_most(5),)), slow]


def _overload(bench: Bench) -> list[Row]:
    seconds = bench.size(20, 8)
    places_, takes_s = 20, 0.1
    capacity = places_ / takes_s

    due: dict[str, list[int]] = {}
    ends_ms = 0.0

    async def store_some(store: Store, p: int, tasks: Sequence[NewTask]) -> None:
        for task, task_id in zip(tasks, await add(store, p, tasks), strict=True):
            due.setdefault(task.queue, []).append(ids.due_ms(task_id))

    async def measure(server: BenchServer) -> Places:
        nonlocal ends_ms
        async with opened(server) as store:
            levels = (Priority.HIGH, Priority.NORMAL, Priority.LOW)
            # The backlog of a minute at ten times what can be done, less for a quick run.
            backlog = int(bench.size(60, 10) * 10 * capacity) // store.partitions
            for p in range(store.partitions):
                new = [call(f"q-{levels[n % 3].name}", priority=levels[n % 3]) for n in range(backlog)]
                await store_some(store, p, new)
            # If all places came free together, every 100 ms, critical tasks would wait up to that, whatever is chosen.
            places = Places(places_, takes_s, queue_of, 1 << 60, drawn=bench.random())
            async with taking(store, places):
                each, until, turn = int(capacity / 20), time.monotonic() + seconds, 0
                while time.monotonic() < until:
                    turn += 1
                    # Half of what can be done is critical, due one by one; the rest of ten times that much is not.
                    critical = range(0, 50, 50 // (each // 2))
                    new = [call("critical", priority=Priority.CRITICAL, delay_ms=ms) for ms in critical]
                    new += [call("q-NORMAL") for _ in range(each * 19 // 2)]
                    await store_some(store, turn % store.partitions, new)
                    await asyncio.sleep(0.05)
                ends_ms = time.time() * 1000
            return places

    with bench.server() as server:
        watch(server)
        places = ours.run(measure(server))
        slow = longest(server, "10 x overload with a backlog")
    late = [late_ms for key, late_ms in places.got[100:] if key == "critical"]
    found = spread(late)
    rows = [
        Row(
            what="10 x overload with a backlog, critical tasks late, p99",
            subject=OURS,
            value=sorted(late)[int(len(late) * 0.99)],
            unit="ms",
            note=f"{len(late):,} critical of {len(places.got):,} taken; {found.note()}",
            bounds=(at_most(50),),
        )
    ]
    return [*rows, _stated_wait(places, due, ends_ms, takes_s * 1500), slow, *_floor(bench)]


def _stated_wait(places: Places, due: Mapping[str, Sequence[int]], ends_ms: float, turn_ms: float) -> Row:
    """The longest waits of the levels that are not critical, against those that docs/queues.md states."""
    taken = len(places.got)
    of = {priority: "critical" if priority is Priority.CRITICAL else f"q-{priority.name}" for priority in Priority}
    load = {priority: len(due.get(queue, ())) / taken for priority, queue in of.items()}
    everybody = sorted(at for some in due.values() for at in some)
    took = sorted(places.took_ms)
    worst: dict[str, tuple[float, float, float]] = {}
    for priority, queue in of.items():
        waits = [(late, at - late) for (key, late), at in zip(places.got, places.took_ms, strict=True) if key == queue]
        for late, due_ms in waits if priority is not Priority.CRITICAL else ():
            # First due first would have taken as many tasks, in the order of their due times.
            rank = bisect_right(everybody, due_ms) - 1
            first_due_first = max((took[rank] if rank < taken else ends_ms) - due_ms, 0.0)
            # Places come free only every so often.
            stated = longest_wait_ms(priority, first_due_first, load) + turn_ms
            worst[queue] = max(worst.get(queue, (0.0, 0.0, 0.0)), (late / stated, late, stated))
    note = ", ".join(f"{queue} {late:,.0f} of {stated:,.0f} ms" for queue, (_, late, stated) in worst.items())
    return Row(
        what="10 x overload with a backlog, longest wait of the other levels, of the stated one", subject=OURS,
        value=100 * max(one[0] for one in worst.values()), unit="%", note=note, bounds=(at_most(100),),
    )  # fmt: skip


def _floor(bench: Bench) -> list[Row]:
    async def measure(server: BenchServer) -> Places:
        async with opened(server) as store:
            for p in range(store.partitions):
                await add(store, p, [call("critical", priority=Priority.CRITICAL) for _ in range(1_000)])
            for p in (0, 3):
                await add(store, p, [call("low", priority=Priority.LOW) for _ in range(500)])
            places = Places(20, 0.002, queue_of, TAKEN + WARM)
            async with taking(store, places):
                await asyncio.wait_for(places.full.wait(), 120)
            return places

    with bench.server() as server:
        places = ours.run(measure(server))
    sums = [0, *accumulate(key == "low" for key, _ in places.got)]
    counts = [b - a for a, b in zip(sums, sums[TAKEN:], strict=False)]
    what = f"share of low tasks among any {TAKEN:,} taken while critical ones wait"
    note = f"of {len(counts):,} runs of {TAKEN:,}"
    return [
        Row(what=f"{what}: {word}", subject=OURS, value=100 * count / TAKEN, unit="%", note=note, bounds=bounds)
        for word, count, bounds in (("least", min(counts), (at_least(4),)), ("most", max(counts), (at_most(6),)))
    ]


def _keys(bench: Bench) -> list[Row]:
    keys, tasks = 10_000, bench.size(1_000_000, 100_000)

    async def measure(server: BenchServer) -> int:
        async with opened(server) as store:
            each = tasks // keys // store.partitions or 1
            drafts = [draft(call("mail", fairness_key=f"customer-{n}")) for n in range(keys)]
            for p in range(store.partitions):
                for _ in range(each):
                    await add_drafts(store, p, drafts)
            return max([await _worst(store, p, keys, each, clock) for p in range(2)])

    with bench.server() as server:
        clock = ServerClock(server)
        worst = ours.run(measure(server))
        slow = clock.row(f"{keys:,} fairness keys")
    what = f"{keys:,} fairness keys over {tasks:,} tasks, off an equal share in a partition by at most"
    return [_off(what, worst, "looked at after each round of all keys"), slow]


def _pending_keys(bench: Bench) -> list[Row]:
    """Keys whose work is due later are nobody's business yet."""
    pending, ready = bench.size(1_000_000, 50_000), bench.size(10_000, 1_000)

    async def measure(server: BenchServer) -> int:
        async with opened(server) as store:
            each = pending // store.partitions
            for p in range(store.partitions):
                names = (f"customer-{p}-{n}" for n in range(each))
                await add(store, p, [call("mail", fairness_key=name, delay_ms=3_600_000) for name in names])
            await add(store, 0, [call("mail", fairness_key=f"customer-{n}") for n in range(ready)])
            return await _worst(store, 0, ready, 1, clock)

    with bench.server() as server:
        clock = ServerClock(server)
        worst = ours.run(measure(server))
        slow = clock.row(f"{ready:,} ready fairness keys among {pending:,} pending ones")
    what = f"{ready:,} ready fairness keys among {pending:,} pending ones, off an equal share by at most"
    return [_off(what, worst, "in one partition"), slow]


def _off(what: str, worst: int, note: str) -> Row:
    return Row(what=what, subject=OURS, value=float(worst), unit="tasks", note=note, bounds=(at_most(1),))


async def _worst(store: Store, p: int, keys: int, each: int, clock: ServerClock) -> int:
    """By how much a key's tasks differ from an equal share, at worst, once all are ready."""
    limits = ClaimLimits(slots=250, types="w", guest=True, lanes=(lane_of(TaskType.WORKER, "mail", "f"),))
    made_ready = 0
    while made_ready < keys * each:
        with clock.one("claim that makes ready"):
            # As many as the engine asks for.
            claimed = await store.claim(p, b"%016d" % made_ready, ClaimLimits(slots=0, types="w", items=250))
        made_ready += claimed.promoted
    counts: dict[bytes, int] = {}
    taken = worst = 0
    while taken < keys * each * 9 // 10:
        with clock.one("claim"):
            claimed = await store.claim(p, b"%016d" % (keys * each + taken), limits)
        for at in range(0, len(claimed.leased), 2):
            key = extension_entries(read(claimed.leased[at], claimed.leased[at + 1]).extension)[9]
            counts[key] = counts.get(key, 0) + 1
        taken += len(claimed.leased) // 2
        # Every twentieth goes by virtual deadline and not by key: it comes on top.
        share = taken * 0.95 / keys
        worst = max(worst, int(max(counts.values()) - share), int(share - min(counts.get(k, 0) for k in counts)))
    return worst


def _one_lane(bench: Bench) -> list[Row]:
    lanes = bench.size(100_000, 10_000)

    async def measure(server: BenchServer) -> list[float]:
        async with opened(server) as store:
            for first in range(0, lanes, 500):
                await add(store, 0, [call(f"q{n}") for n in range(first, first + 500)])
            made_ready = 0
            while made_ready < lanes:
                # As many as the engine asks for.
                some = ClaimLimits(slots=0, types="w", items=250)
                made_ready += (await store.claim(0, b"%016d" % made_ready, some)).promoted
            late: list[float] = []
            for n in range(50):
                places = Places(1, 0.0, queue_of, 1)
                async with taking(store, places, f"q{n * (lanes // 50)}"):
                    admitted = time.monotonic()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(places.full.wait(), 5)
                    late.append((time.monotonic() - admitted) * 1000)
            return late

    with bench.server() as server:
        watch(server)
        late = ours.run(measure(server))
        slow = longest(server, f"one lane of {lanes:,}")
    what = f"a worker that serves one lane of {lanes:,} with ready work gets its task after"
    note = f"the longest of 50, the median {sorted(late)[25]:.1f} ms"
    return [Row(what=what, subject=OURS, value=max(late), unit="ms", note=note, bounds=(at_most(50),)), slow]


SCENARIO = Scenario("queues", "whose turn it is where there is more work than places", run=run)
