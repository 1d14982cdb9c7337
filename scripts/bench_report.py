"""Draws what `make bench` has kept: `make bench-report` fills the pictures of docs/benchmarks.md.

Of each row the newest kept result counts. The pictures are SVG without a date, so they change only when figures do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.hashsalt": "delaybox",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }
)
import matplotlib.pyplot as plt  # noqa: E402 - the way to draw is chosen first

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs/images"
OURS, PEER = "#2b50c8", "#9aa3b5"
RATES = {
    ("bulk", "schedule in bulk"): "schedule in bulk",
    ("herd", "herd, handler with claim and ack, 100,000"): "100,000 due at one instant, handled",
    ("workers", "no-op tasks to workers"): "no-op tasks to workers over gRPC",
    ("post", "POST one by one, 64 connections"): "POST one by one, stored",
}
PEERS = {"delaybox": "DelayBox", "bullmq": "BullMQ", "dramatiq": "Dramatiq", "taskiq": "taskiq", "celery": "Celery"}

Row = dict[str, Any]


def rows() -> dict[tuple[str, str, str], Row]:
    """(scenario, what, subject) → the newest kept row."""
    found: dict[tuple[str, str, str], Row] = {}
    for file in sorted((ROOT / "benchmarks/results").glob("*.json"), key=lambda path: path.name[:10]):
        for row in json.loads(file.read_text())["rows"]:
            if row["value"] is not None:
                found[row["scenario"], row["what"], row["subject"]] = row
    return found


def save(name: str) -> None:
    plt.tight_layout()
    plt.savefig(PICTURES / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    plt.close()
    print(f"  docs/images/{name}.svg")


def rates(kept: dict[tuple[str, str, str], Row]) -> None:
    """Tasks a second, ours beside each peer of the same run."""
    figure, all_axes = plt.subplots(len(RATES), 1, figsize=(8, 7.2), gridspec_kw={"height_ratios": [2, 2, 5, 2]})
    for axes, ((scenario, what), title) in zip(all_axes, RATES.items(), strict=True):
        shown = [
            (subject, kept[scenario, what, subject]["value"]) for subject in PEERS if (scenario, what, subject) in kept
        ]
        names, values = [PEERS[subject] for subject, _ in shown][::-1], [value for _, value in shown][::-1]
        bars = axes.barh(names, values, color=[OURS if name == "DelayBox" else PEER for name in names], height=0.65)
        axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=4, fontsize=9)
        axes.set_title(f"{title}, a second", loc="left", fontsize=10, fontweight="bold")
        axes.set_xlim(0, max(values) * 1.15)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(left=False)
    del figure
    save("bench-rates")


def lateness(kept: dict[tuple[str, str, str], Row]) -> None:
    """p50, p99 and max against the rate, with nothing and with a million pending, beside a peer."""
    cases = [
        ("BullMQ, 400/s", kept["lateness", "p99 lateness at 400/s, 0 pending", "bullmq"]),
        *(
            (
                f"{rate}/s, {pending} pending",
                kept["lateness", f"p99 lateness at {rate}/s, {pending} pending", "delaybox"],
            )
            for rate in ("400", "1,000", "10,000")
            for pending in ("0", "1 M")
        ),
    ]
    _, axes = plt.subplots(figsize=(8, 3.6))
    for y, (name, row) in enumerate(reversed(cases)):
        extra, color = row["extra"], PEER if name.startswith("BullMQ") else OURS
        axes.plot([extra["p50"], extra["max"]], [y, y], color=color, linewidth=1.5)
        for part, mark, size in (("p50", "o", 6), ("p99", "D", 6), ("max", "|", 11)):
            axes.plot(extra[part], y, mark, color=color, markersize=size)
        axes.annotate(
            f"{extra['p99']:.1f} ms",
            (extra["p99"], y),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(cases)), [name for name, _ in reversed(cases)])
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50, 100], ["0.5", "1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.grid(axis="x", color="#e3e6ec")
    axes.set_xlabel("ms late: ● p50   ◆ p99 (labelled)   | the latest of all.   Never early.")
    save("bench-lateness")


def cost(kept: dict[tuple[str, str, str], Row]) -> None:
    """Server time to schedule one task against what is pending, and memory of a pending task."""
    _, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
    for subject, color, name in (("delaybox", OURS, "DelayBox"), ("single ZSET", PEER, "one sorted set")):
        values = [kept["cost", f"scheduling cost at {n} M pending", subject]["value"] for n in (0, 1, 10)]
        left.plot([0, 1, 2], values, "o-", color=color, label=name)
        left.annotate(
            f"{values[-1]:.1f}", (2, values[-1]), xytext=(6, -3), textcoords="offset points", fontsize=9, color=color
        )
    left.set_xticks([0, 1, 2], ["0", "1 M", "10 M"])
    left.set_ylim(0)
    left.set_xlabel("pending tasks")
    left.set_title("µs of the server to schedule one", loc="left", fontsize=10, fontweight="bold")
    left.legend(frameon=False)
    left.grid(axis="y", color="#e3e6ec")
    what = "overhead a pending task, 1,000,000 over 24 h, valkey"
    names = {"bullmq": "BullMQ", "single ZSET": "one sorted set", "delaybox": "DelayBox"}
    values = [kept["memory", what, subject]["value"] for subject in names]
    bars = right.barh(list(names.values()), values, color=[PEER, PEER, OURS], height=0.6)
    right.bar_label(bars, [f"{value:.0f}" for value in values], padding=4)
    right.set_xlim(0, max(values) * 1.15)
    right.xaxis.set_visible(False)
    right.spines["bottom"].set_visible(False)
    right.set_title("bytes beside the payload", loc="left", fontsize=10, fontweight="bold")
    save("bench-cost")


def main() -> int:
    """Draws all; the exit code."""
    PICTURES.mkdir(exist_ok=True)
    kept = rows()
    rates(kept)
    lateness(kept)
    cost(kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
