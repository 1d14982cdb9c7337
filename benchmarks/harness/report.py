"""Rows, what they are held to, and how they are shown: a table, JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

OURS = "delaybox"
COUNTED = "early"
"""A part that is a number of tasks, whatever the row's unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One thing a row is held to: its own value, or (with ``of``) its value divided by that other subject's."""

    limit: float
    at_least: bool
    of: str = ""
    part: str = ""
    """Held against ``extra[part]`` instead of the row's value."""

    def text(self, unit: str) -> str:
        sign = "≥" if self.at_least else "≤"
        if self.of:
            return f"{sign} {number(self.limit)} × {self.of}"
        return f"{self.part} {sign} {number(self.limit)} {'' if self.part == COUNTED else unit}".strip()


def at_least(limit: float, *, of: str = "") -> Bound:
    return Bound(limit=limit, at_least=True, of=of)


def at_most(limit: float, *, part: str = "") -> Bound:
    return Bound(limit=limit, at_least=False, part=part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of one subject. ``what`` is the same for subjects that are compared; ``value`` None = not measured."""

    what: str
    subject: str
    value: float | None
    unit: str
    scenario: str = ""
    bounds: tuple[Bound, ...] = ()
    note: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    verdicts: tuple[bool | None, ...] = ()


def number(value: float) -> str:
    """Short and readable: 88,412 · 14.8 · 0.37."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == int(value):
        return str(int(value))
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def judge(rows: Sequence[Row], scenario: str) -> list[Row]:
    """Fill in ratios (ours against each other subject of the same figure, the others against ours, and each against
    what it is held to) and verdicts.

    Rows of one figure come together, ours first.
    """
    judged: list[Row] = []
    for row in rows:
        ratios: dict[str, float] = {}
        shown = {OURS, *(bound.of for bound in row.bounds)}
        for other in rows:
            comparable = other is not row and other.what == row.what and other.unit == row.unit
            if comparable and (row.subject == OURS or other.subject in shown) and row.value is not None and other.value:
                ratios[other.subject] = row.value / other.value
        verdicts = tuple(_verdict(row, bound, ratios) for bound in row.bounds)
        judged.append(replace(row, scenario=scenario, ratios=ratios, verdicts=verdicts))
    order = {what: at for at, what in reversed(list(enumerate(row.what for row in judged)))}
    return sorted(judged, key=lambda row: (order[row.what], row.subject != OURS))


def _verdict(row: Row, bound: Bound, ratios: Mapping[str, float]) -> bool | None:
    value = ratios.get(bound.of) if bound.of else row.extra.get(bound.part) if bound.part else row.value
    if value is None:
        return None
    return value >= bound.limit if bound.at_least else value <= bound.limit


COLUMNS = ("scenario", "what", "subject", "value", "target", "ratio", "verdict", "note")


def cells(row: Row) -> tuple[str, ...]:
    """One row as texts, in the order of COLUMNS."""
    value = "not measured" if row.value is None else f"{number(row.value)} {row.unit}"
    target = "; ".join(bound.text(row.unit) for bound in row.bounds) or "—"
    ratio = ", ".join(f"{number(share)} × {name}" for name, share in row.ratios.items()) or "—"
    return (row.scenario, row.what, row.subject, value, target, ratio, verdict_text(row), row.note)


def verdict_text(row: Row) -> str:
    if not row.bounds:
        return "—"
    if row.value is None:
        return "not measured"
    missed = [b.text(row.unit) for b, ok in zip(row.bounds, row.verdicts, strict=True) if ok is False]
    unknown = [b.text(row.unit) for b, ok in zip(row.bounds, row.verdicts, strict=True) if ok is None]
    if missed:
        return "MISSED " + ", ".join(missed)
    return "met" if not unknown else "met, unknown: " + ", ".join(unknown)


def markdown(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """The published form of a run."""
    lines = [f"# Benchmark of {about['date']}, commit {about['commit']}", ""]
    lines += [f"- {name}: {_flat(value)}" for name, value in about.items()]
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _flat(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def write(rows: Sequence[Row], about: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Keep the run as ``<date>-<commit>.json`` and ``.md``; a further run of that commit gets a number."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{str(about['date'])[:10]}-{about['commit']}{'-quick' if about['quick'] else ''}"
    name, again = stem, 1
    while (folder / f"{name}.json").exists():
        again += 1
        name = f"{stem}-{again}"
    stem = name
    records = [
        {**asdict(row), "target": [b.text(row.unit) for b in row.bounds], "verdict": verdict_text(row)} for row in rows
    ]
    as_json = folder / f"{stem}.json"
    as_json.write_text(json.dumps({"about": dict(about), "rows": records}, indent=2, ensure_ascii=False) + "\n")
    as_markdown = folder / f"{stem}.md"
    as_markdown.write_text(markdown(rows, about))
    return as_json, as_markdown
