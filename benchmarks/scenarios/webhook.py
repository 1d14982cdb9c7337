"""Webhooks to a receiver that shares the cores: how many a second, how late, beside a silent host, how much memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import Enum
from statistics import median

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.figures import Spread, middle, spread
from benchmarks.harness.process import Child, python
from benchmarks.harness.report import OURS, Row, at_least, at_most
from benchmarks.harness.server import BenchServer
from benchmarks.peers import single_zset, zset_webhooks

LEAD_MS = 3_000
"""From the scheduling of the first task to its time."""
RATE_TARGET = 2_000
LATE_TARGET_MS = 15.0
SILENT_TARGET = 1.2
FIFTH_RATE = 100
SAME_MS = 1.0
"""A difference that counts as none, in place of the ratio."""
MEMORY_TARGET = 1.2
PAIRS = 5


class Fifth(Enum):
    """A host beside those that are measured."""

    NONE = 0
    ANSWERS = 1
    SILENT = 2


def run(bench: Bench) -> None:
    _rate(bench)
    _late(bench)
    _beside_a_silent_host(bench)
    _memory(bench)


def _rate(bench: Bench) -> None:
    what, count = "signed webhooks a second to one local server", bench.size(20_000, 4_000)
    bounds = (at_least(RATE_TARGET),)

    def once() -> float:
        with bench.server() as server, ours.receiver(count=count, seconds=60) as hosts, ours.sender(server) as _:
            due_ms = workload.now_ms() + LEAD_MS
            _schedule(bench, server, hosts.urls, lambda _: due_ms, count)
            found = hosts.child.read()
            if found["n"] < count:
                raise RuntimeError(f"only {found['n']} of {count} webhooks arrived")
            return count / (found["finished_ms"] - due_ms) * 1_000

    def measure() -> Row:
        runs = [once() for _ in range(bench.size(3, 1))]
        each = ", ".join(f"{rate:,.0f}" for rate in runs)
        note = f"n={count} due at once, 110 bytes each; from due to the last arrival; runs: {each}"
        return Row(what=what, subject=OURS, value=median(runs), unit="webhooks/s", note=note, bounds=bounds)

    bench.attempt(what, OURS, "webhooks/s", measure, bounds=bounds)


def _late(bench: Bench) -> None:
    """By turns with the least that can send a webhook from a store, because the machine's own pauses are in both."""
    what = "p99 lateness of webhooks at 500/s"
    bounds = (at_most(LATE_TARGET_MS),)
    ours_found: list[Spread] = []
    bare_found: list[Spread] = []

    def measure() -> list[Row]:
        for _ in range(bench.size(PAIRS, 1)):
            bare_found.append(_bare_lateness(bench, 500))
            ours_found.append(_lateness(bench, 500))
        found, bare = (middle(runs, lambda one: one.p99) for runs in (ours_found, bare_found))
        each = ", ".join(f"{a.p99:.1f} and {b.p99:.1f}" for a, b in zip(ours_found, bare_found, strict=True))
        note = f"{found.note()}; p99 of ours and of the bare one by turns: {each} ms"
        return [
            Row(what=what, subject=OURS, value=found.p99, unit="ms", note=note, bounds=bounds),
            Row(what=what, subject=zset_webhooks.NAME, value=bare.p99, unit="ms", note=bare.note()),
        ]

    bench.attempt(what, OURS, "ms", measure, bounds=bounds)


def _beside_a_silent_host(bench: Bench) -> None:
    """By turns the four hosts' p99 with a fifth that never answers, without it, and with one that does: what the last
    one costs the four is the price of more webhooks on the same cores, and says nothing of silence."""
    what = "p99 lateness at 400/s to 4 hosts, a fifth never answers"
    bounds = (at_most(SILENT_TARGET, part="ratio"),)

    def measure() -> Row:
        turns = [
            tuple(_lateness(bench, 400, fifth=fifth, hosts=4).p99 for fifth in Fifth)
            for _ in range(bench.size(PAIRS, 1))
        ]
        silent = median(silent / alone for alone, _, silent in turns)
        answers = median(answers / alone for alone, answers, _ in turns)
        differences = median(silent - alone for alone, _, silent in turns)
        each = ", ".join(f"{alone:.1f}, {answers:.1f} and {silent:.1f}" for alone, answers, silent in turns)
        note = (
            f"100/s to it, each due with one of the others; without it, if it answers, if it does not: {each} ms; "
            f"median ratio {silent:.2f}, difference {differences:.2f} ms; where it answers: ratio {answers:.2f}"
        )
        # Where the difference is nothing, the ratio of two small figures is noise.
        held = min(silent, SILENT_TARGET) if differences <= SAME_MS else silent
        value = median(silent for _, _, silent in turns)
        extra = {"ratio": held, "ratio_where_it_answers": answers}
        return Row(what=what, subject=OURS, value=value, unit="ms", note=note, bounds=bounds, extra=extra)

    bench.attempt(what, OURS, "ms", measure, bounds=bounds)


def _memory(bench: Bench) -> None:
    what, count = "memory of the webhook process, 100,000 due at once", bench.size(100_000, 20_000)
    few = count // 10
    bounds = (at_most(MEMORY_TARGET, part="ratio"),)

    def peak(count: int) -> tuple[float, float]:
        with (
            bench.server() as server,
            ours.receiver(count=count, seconds=180, hosts=4) as hosts,
            ours.sender(server) as node,
        ):
            due_ms = workload.now_ms() + bench.size(15_000, 5_000)
            _schedule(bench, server, hosts.urls, lambda _: due_ms, count)
            found = hosts.child.read()
            if found["n"] < count:
                raise RuntimeError(f"only {found['n']} of {count} webhooks arrived")
            return ours.peak_mib(node), count / (found["finished_ms"] - due_ms) * 1_000

    def measure() -> Row:
        (small, _), (large, rate) = peak(few), peak(count)
        note = f"most resident memory; {small:.0f} MiB with {few:,} due at once; {rate:,.0f} webhooks/s to 4 hosts"
        extra = {"ratio": large / small}
        return Row(what=what, subject=OURS, value=large, unit="MiB", note=note, bounds=bounds, extra=extra)

    bench.attempt(what, OURS, "MiB", measure, bounds=bounds)


def _lateness(bench: Bench, rate: int, *, fifth: Fifth | None = None, hosts: int = 1) -> Spread:
    """Of the webhooks to ``hosts`` that answer. With ``fifth`` they begin when it has been sent to for some seconds,
    and as long after the node where there is none."""
    seconds, ahead_s = bench.size(10, 3), 0 if fifth is None else 8
    count = rate * seconds
    more = 0 if fifth in (None, Fifth.NONE) else FIFTH_RATE * (seconds + ahead_s)
    expected = count + (more if fifth is Fifth.ANSWERS else 0)
    # Time-outs of the silent host in the measured time.
    flags = ("--set", "webhooks.timeout=2s")
    with (
        bench.server() as server,
        ours.receiver(count=expected, seconds=seconds + ahead_s + 30, hosts=hosts + 1) as found,
        ours.sender(server, *flags),
    ):
        start_ms = workload.now_ms() + LEAD_MS
        if more:
            url = found.silent if fifth is Fifth.SILENT else found.urls[hosts]
            _schedule(bench, server, [url], workload.every(FIFTH_RATE, start_ms), more)
        due = workload.every(rate, start_ms + ahead_s * 1_000)
        _schedule(bench, server, found.urls[:hosts], due, count)
        late = [value for some in found.child.read()["late_ms"][:hosts] for value in some]
        if len(late) < count:
            raise RuntimeError(f"only {len(late)} of {count} webhooks arrived")
    return spread(late)


def _bare_lateness(bench: Bench, rate: int) -> Spread:
    """The same from a single ZSET with nothing around it."""
    seconds = bench.size(10, 3)
    count = rate * seconds
    with bench.server() as server, ours.receiver(count=count, seconds=seconds + 30) as found:
        options = {"unix": server.unix, "url": found.urls[0], "secret": ours.WEBHOOK_SECRET}
        with Child(python("benchmarks.peers.zset_webhooks", json.dumps(options))) as child:
            child.read()
            items = workload.items(count, bench.random(), workload.every(rate, workload.now_ms() + LEAD_MS))
            single_zset.SingleZset(server).schedule(items, chunk=500)
            (late,) = found.child.read()["late_ms"]
        if len(late) < count:
            raise RuntimeError(f"only {len(late)} of {count} webhooks arrived")
    return spread(late)


def _schedule(bench: Bench, server: BenchServer, urls: Sequence[str], due: Callable[[int], int], count: int) -> None:
    body = workload.payload(bench.random())
    ours.run(ours.schedule(server, count, due, payload=body, url=lambda i: urls[i % len(urls)]))


SCENARIO = Scenario("webhook", "webhooks a second, how late, beside a silent host, memory", run)
