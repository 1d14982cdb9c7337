"""Whole nodes with a worker each: what a node more brings, and what one whose workers are slow costs the others."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import ours, workload
from benchmarks.harness import tally
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Spread, middle, spread
from benchmarks.harness.process import ROOT, Child, python
from benchmarks.harness.report import OURS, Row, at_least, at_most
from benchmarks.harness.server import BenchServer
from benchmarks.ours.fleet_worker import NAP_MS, PLACES
from delaybox.core.membership import Member
from delaybox.store import nodes

NAP = 50
SLOW = 5
PAYLOAD = b'"x"'
SLOW_PLACES = 50
SLOW_RATE = 1_000
"""Three nodes whose workers nap 50 ms in 50 places carry 3,000/s; a third of this is more than a slow one carries."""
BASE, PEAK = 750, 7_500
"""Tasks a second. A clock process is taken to carry 7,000 before its own work has been measured."""
RATES = 3
"""Rates of one node and of several, by turns, of which the medians count."""
PAIRS = 5
"""Pairs of percentiles, of which the one with the middle ratio counts: one alone says more of the machine's moment."""


def run(bench: Bench) -> None:
    bench.attempt("functions that sleep, 4 nodes", OURS, "×", lambda: _scaling(bench, "nap", 4, 3.8))
    bench.attempt("functions that compute, 2 nodes", OURS, "×", lambda: _scaling(bench, "spin", 2, 1.6))
    bench.attempt("a node whose workers are slow", OURS, "×", lambda: _slow(bench))
    bench.attempt("a peak with --processes auto", OURS, "ms", lambda: _peak(bench))


@dataclass(frozen=True, slots=True)
class Fleet:
    """``folder``: what the workers count."""

    server: BenchServer
    folder: Path
    workers: Sequence[Child]
    counts: tally.Counts

    @property
    def done(self) -> int:
        return self.counts.total()

    def wait(self, count: int, *, seconds: float) -> None:
        """Until so many have ended."""
        deadline = time.monotonic() + seconds
        while self.done < count:
            for worker in self.workers:
                if worker.ended():
                    raise RuntimeError(f"a worker ended: {worker.words() or 'no word'}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.done} of {count} tasks ended in {seconds:.0f} s")
            # What this costs is taken from those that are measured: every 2 ms it was a fiftieth of two cores.
            time.sleep(0.01)


@contextmanager
def _fleet(bench: Bench, count: int, *, places: int, naps_ms: Sequence[int] = ()) -> Iterator[Fleet]:
    """Nodes with a worker each, which knows its node alone. ``naps_ms``: of each; without, all take `NAP`."""
    with bench.server() as server, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dbx-fleet-")))
        served = [stack.enter_context(ours.serve(server)) for _ in range(count)]
        workers = []
        for node, nap_ms in zip(served, naps_ms or [NAP] * count, strict=True):
            environment = {
                **os.environ,
                tally.FOLDER: str(folder),
                "PYTHONPATH": str(ROOT),
                PLACES: str(places),
                NAP_MS: str(nap_ms),
            }
            command = python("delaybox", "worker", "benchmarks.ours.fleet_worker:worker", "--server", node.grpc)
            workers.append(stack.enter_context(Child(command, environment=environment)))
        ours.run(_until_workers(server, count))
        yield Fleet(server, folder, workers, tally.Counts(folder, count))


async def _until_workers(server: BenchServer, count: int, *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    async with ours.opened(server) as store:
        while sum(m.activity.worker_count for m in await nodes.live(store)) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the workers were not connected within {seconds:.0f} s")
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.5)  # all read the list again


def _scaling(bench: Bench, function: str, count: int, least: float) -> Row:
    """Tasks a second of all nodes from the instant at which everything is due, against those of one node: medians, by
    turns."""
    tasks = bench.size(20_000, 4_000)
    rates: dict[int, list[float]] = {1: [], count: []}
    for _ in range(bench.size(RATES, 1)):
        for n, found in rates.items():
            found.append(_rate(bench, n, function, tasks * (n if function == "nap" else 1)))
    one, many = median(rates[1]), median(rates[count])
    runs = ", ".join(f"{a:,.0f} and {b:,.0f} ({b / a:.2f} ×)" for a, b in zip(*rates.values(), strict=True))
    what = "sleep 50 ms in 200 places" if function == "nap" else "take 200 µs of CPU"
    return Row(
        what=f"tasks/s of functions that {what}, {count} nodes with a worker each against one",
        subject=OURS,
        value=many / one,
        unit="×",
        bounds=(at_least(least),),
        note=f"{one:,.0f}/s and {many:,.0f}/s, the medians of {runs}; {os.cpu_count()} cores for nodes, workers and "
        "server",
    )


def _rate(bench: Bench, count: int, function: str, tasks: int) -> float:
    with _fleet(bench, count, places=200) as fleet:
        due_ms = workload.now_ms() + 1_500 + tasks // 20
        ours.run(ours.schedule(fleet.server, tasks, lambda _: due_ms, payload=PAYLOAD, function=function))
        time.sleep(max(0.0, due_ms / 1000 - time.time()))
        fleet.wait(tasks, seconds=120)
        rate = tasks / (time.time() - due_ms / 1000)
    bench.show(f"{count} nodes, {function}: {rate:,.0f}/s")
    return rate


def _slow(bench: Bench) -> Row:
    """How late tasks of an even load begin in their functions, where all are equal and where one takes five times as
    long."""
    pairs: list[tuple[float, float]] = []
    # By turns, because the machine is not the same all the time.
    for turn in range(bench.size(PAIRS, 1)):
        even, slow = (_lateness(bench, [NAP, NAP, last], 100 * turn) for last in (NAP, SLOW * NAP))
        pairs.append((even, slow))
        bench.show(f"p99 {slow:.1f} ms with a slow node, {even:.1f} ms with three equal ones")
    even, slow = middle(pairs, lambda pair: pair[1] / pair[0])
    all_ = ", ".join(f"{b:.1f} and {a:.1f} ({b / a:.2f} ×)" for a, b in pairs)
    return Row(
        what=f"p99 lateness at {SLOW_RATE}/s of three nodes, the workers of one take {SLOW} times as long",
        subject=OURS,
        value=slow,
        unit="ms",
        bounds=(at_most(max(1.5 * even, even + 1.0)),),
        note=f"{slow:.1f} ms; where all are equal {even:.1f} ms; the middle one by ratio of: {all_}",
        extra={"even": even},
    )


def _lateness(bench: Bench, naps_ms: Sequence[int], offset: int) -> float:
    seconds = bench.size(12, 5)
    count = SLOW_RATE * seconds
    with _fleet(bench, len(naps_ms), places=SLOW_PLACES, naps_ms=naps_ms) as fleet:
        start_ms = workload.now_ms() + 2_500 + offset
        due = workload.every(SLOW_RATE, start_ms)
        # A bulk call goes to one partition: few tasks in each, so that every partition has some all the time.
        ours.run(ours.schedule(fleet.server, count, _mixed(due, count), payload=PAYLOAD, function="late_nap"))
        fleet.wait(count, seconds=seconds + 60)
        return spread(tally.marks(fleet.folder)).p99


def _mixed(due: Callable[[int], int], count: int) -> Callable[[int], int]:
    step = max(1, count // workload.CHUNK)
    return lambda i: due(min(count - 1, i % workload.CHUNK * step + i // workload.CHUNK))


@dataclass(frozen=True, slots=True)
class Peak:
    """One run. ``before``: members of each kind half a second before the peak."""

    before: Counter[str]
    quiet: Spread
    busy: Spread

    @property
    def ratio(self) -> float:
        return self.busy.p99 / self.quiet.p99


def _peak(bench: Bench) -> list[Row]:
    """Ten times as much as before within a moment, which the forecast shows: processes are added before it comes."""
    peaks: list[Peak] = []
    for _ in range(bench.size(PAIRS, 1)):
        peaks.append(_one_peak(bench))
        bench.show(f"a peak: p99 {peaks[-1].busy.p99:.2f} ms, before it {peaks[-1].quiet.p99:.2f} ms")
    fewest = min((one.before for one in peaks), key=lambda before: before["clock"])
    chosen = middle(peaks, lambda one: one.ratio)
    all_ = ", ".join(f"{one.busy.p99:.1f} and {one.quiet.p99:.1f} ({one.ratio:.2f} ×)" for one in peaks)
    return [
        Row(
            what=f"clock processes of --processes auto before a peak of {PEAK:,}/s, {BASE}/s before",
            subject=OURS,
            value=float(fewest["clock"]),
            unit="processes",
            bounds=(at_least(2),),
            note=f"half a second before it: {dict(fewest)}, the fewest of {len(peaks)} runs",
        ),
        Row(
            what="p99 lateness in the peak with --processes auto",
            subject=OURS,
            value=chosen.busy.p99,
            unit="ms",
            bounds=(at_most(max(2 * chosen.quiet.p99, chosen.quiet.p99 + 1.0)), at_most(0, part="early")),
            note=f"{chosen.busy.note()}; before it: {chosen.quiet.note()}; the middle one by ratio of: {all_}",
            extra={"early": float(sum(one.busy.early + one.quiet.early for one in peaks)), "calm": chosen.quiet.p99},
        ),
    ]


def _one_peak(bench: Bench) -> Peak:
    calm_s, peak_s, lead_s = 20, bench.size(15, 8), 12
    calm, peak = BASE * calm_s, PEAK * peak_s
    more = ("--processes", "auto", "--set", "processes.most=2", "--set", f"processes.lead={lead_s}s")
    with (
        bench.server() as server,
        ours.serve(server, *more),
        ours.subscriber(server, count=calm + peak, seconds=calm_s + peak_s + 90) as listener,
    ):
        listener.read()
        start_ms = workload.now_ms() + 4_000 + (calm + peak) // 20
        peak_ms = start_ms + 1_000 * calm_s
        for count, rate, from_ms in ((calm, BASE, start_ms), (peak, PEAK, peak_ms)):
            due = _mixed(workload.every(rate, from_ms), count)
            ours.run(ours.schedule(server, count, due, payload=b"x" * workload.PAYLOAD_BYTES))
        if workload.now_ms() >= start_ms:
            raise RuntimeError(f"scheduling {calm + peak} tasks took until after the first was due")
        time.sleep(peak_ms / 1000 - time.time() - 0.5)
        before = ours.run(_clocks(server))
        found = listener.read()
    if found["n"] != calm + peak:
        raise RuntimeError(f"{found['n']} of {calm + peak} arrived")
    # In the order in which they came: what is of the calm is early in it.
    late = found["lateness_ms"]
    return Peak(before, spread(late[:calm]), spread(late[calm:]))


async def _clocks(server: BenchServer) -> Counter[str]:
    """How many members of each kind there are."""
    async with ours.opened(server) as store:
        members: list[Member] = await nodes.live(store)
        return Counter(member.kind for member in members)
