"""What it costs to remember ends and to index labels, and how fast a label is looked up."""

from __future__ import annotations

from statistics import median

from benchmarks import ours, workload
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.figures import reset_costs, server_microseconds
from benchmarks.harness.report import OURS, Row, at_least, at_most
from delaybox.core.history import KEEP_MS, NO_HISTORY, HistoryRules

DRAIN = "drain rate with history, against without"
LOOK_UP = "look-up of 10 tasks by a label"
COST = "server cost of a label"
BYTES = "memory of a label"
EACH = 10
"""Tasks of one customer."""
ROUNDS = 11
"""Rounds of one kind drained 93,000 to 139,000 tasks a second within minutes."""
LOOKS = 3
"""How often the entry of a task is looked at until it is dropped, about: as it is new, and twice in a list that is
looked through when it has grown to twice its length (`engine/relister.py`)."""
TARGETS = {DRAIN: (at_least(0.95),), LOOK_UP: (at_most(20.0),), COST: (at_most(1.0),), BYTES: (at_most(60.0),)}


def run(bench: Bench) -> None:
    bench.attempt(DRAIN, OURS, "×", lambda: _drain(bench), bounds=TARGETS[DRAIN])
    bench.attempt(LOOK_UP, OURS, "ms", lambda: _labels(bench), bounds=TARGETS[LOOK_UP])


def _drain(bench: Bench) -> Row:
    count = bench.size(100_000, 20_000)
    rates: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(ROUNDS):
        for on in (False, True) if turn % 2 else (True, False):
            with bench.server() as server:
                rules = HistoryRules(keep_ms=KEEP_MS) if on else NO_HISTORY
                drained = ours.run(ours.drain_herd(server, count, history=rules))
            rates[on].append(count / drained.seconds)
            bench.show(f"history {'on' if on else 'off'}: {rates[on][-1]:,.0f} tasks/s")
    off, on_ = median(rates[False]), median(rates[True])
    note = f"{on_:,.0f} against {off:,.0f} tasks/s, leased to a target that does nothing, medians of {ROUNDS}"
    return Row(what=DRAIN, subject=OURS, value=on_ / off, unit="×", note=note, bounds=TARGETS[DRAIN])


def _labels(bench: Bench) -> list[Row]:
    count = bench.size(1_000_000, 100_000)
    probe = bench.size(60_000, 12_000)
    rng = bench.random()
    body = workload.payload(rng)
    due = workload.spread_over(rng, workload.DAY_MS)
    bytes_: dict[bool, float] = {}
    costs: dict[bool, float] = {}
    rows: list[Row] = []
    for on in (False, True):
        with bench.server() as server:
            if on:
                ours.run(ours.index_labels(server, "customer"))

            def labels(i: int) -> dict[str, str]:
                return {"customer": f"c-{i // EACH}"}

            ours.run(ours.schedule(server, 1, due, payload=body, labels=lambda _: {"customer": "nobody"}))
            before = server.used_memory()
            ours.run(ours.schedule(server, count, due, payload=body, labels=labels))
            bytes_[on] = (server.used_memory() - before) / count
            found: list[float] = []
            for _ in range(6):
                reset_costs(server)
                ours.run(
                    ours.schedule(
                        server, probe // 6, due, payload=body, labels=lambda i: {"customer": f"p-{i // EACH}"}
                    )
                )
                found.append(server_microseconds(server) / (probe // 6))
            costs[on] = min(found)
            bench.show(f"index {'on' if on else 'off'}: {bytes_[on]:.1f} bytes and {costs[on]:.2f} µs a task")
            if on:
                reset_costs(server)
                # The first one looks at each entry twice, as at a new one.
                for _ in range(LOOKS - 1):
                    ours.run(ours.look_through(server))
                look = server_microseconds(server) / (count + probe)
                bench.show(f"{LOOKS} looks at an entry in a list: {look:.2f} µs")
                costs[on] += look
                took, matched = ours.run(ours.look_up(server, "customer", "c-77", 20))
                if matched != EACH:
                    raise RuntimeError(f"{matched} tasks found, not {EACH}")
                note = f"of {count:,} pending, median of 20, slowest {max(took):.1f} ms"
                rows.append(
                    Row(what=LOOK_UP, subject=OURS, value=median(took), unit="ms", note=note, bounds=TARGETS[LOOK_UP])
                )
    note = f"{count:,} tasks, {EACH} of each value; with the index less without"
    whole = f"{note}; storing, and {LOOKS} looks at the entry while the task waits or has ended"
    return [
        *rows,
        Row(
            what=BYTES, subject=OURS, value=bytes_[True] - bytes_[False], unit="bytes", note=note, bounds=TARGETS[BYTES]
        ),
        Row(what=COST, subject=OURS, value=costs[True] - costs[False], unit="µs", note=whole, bounds=TARGETS[COST]),
    ]


def _less(what: str, found: dict[bool, float], unit: str, note: str) -> Row:
    return Row(what=what, subject=OURS, value=found[True] - found[False], unit=unit, note=note, bounds=TARGETS[what])


SCENARIO = Scenario("history", "what history and the index of labels cost, and a look-up by label", run)
