"""Tables, histograms and tasks as text. Pure: width, time and zone are arguments. No control character gets through."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from delaybox.core import texts

_BLOCKS = " ▏▎▍▌▋▊▉█"
_RISING = "▁▂▃▄▅▆▇█"
_GAP = "  "
_LONGEST_PAYLOAD = 60


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    width: int = 0,
    drop: Sequence[str] = (),
    room: int = 0,
) -> str:
    """Aligned columns, those in ``right`` to the right. ``width``: of a terminal, for which rich lays them out (see
    `tables.drawn`); 0: there is none, and each row is one line.

    Where they are wider, the columns named in ``drop`` go first, in that order, until only the last column would be
    narrower, and no shorter than ``room``; 0: that one is no free text, and is not cut.
    """
    lines = [list(map(texts.line, row)) for row in (header, *rows)]
    sizes = [max(map(len, column)) for column in zip(*lines, strict=True)]
    kept = [at for at in range(len(sizes)) if any(line[at] for line in lines[1:]) or not drop]
    for name in drop:
        last = min(room, sizes[kept[-1]]) if room else sizes[kept[-1]]
        if not width or sum(sizes[at] + len(_GAP) for at in kept[:-1]) + last <= width:
            break
        kept = [at for at in kept if header[at] != name]
    lines = [[line[at] for at in kept] for line in lines]
    sizes = [sizes[at] for at in kept]
    right = [kept.index(at) for at in right if at in kept]
    if width:
        # Not for pipes: it takes a while to load.
        from delaybox.cli import tables

        return tables.drawn(lines, right=right, width=width, free=bool(room))
    out: list[str] = []
    for line in lines:
        cells = [
            cell.rjust(size) if at in right else cell.ljust(size)
            for at, (cell, size) in enumerate(zip(line, sizes, strict=True))
        ]
        out.append(_GAP.join(cells).rstrip())
    return "\n".join(out)


def cut(text: str, width: int) -> str:
    """At most ``width`` characters (0: all)."""
    return text if not width or len(text) <= width else text[: max(1, width) - 1] + "…"


def span(ms: int) -> str:
    """A length of time in its two largest units, rounded: of a task that was just scheduled for an hour from now it is
    an hour, though a part of a second has gone."""
    if ms < 1_000:
        return f"{ms} ms"
    if ms < 10_000:
        return f"{ms / 1000:.1f} s"
    s = (ms + 500) // 1_000
    for size, unit, small, small_unit in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if s >= size:
            whole, rest = divmod((s + small // 2) // small, size // small)
            return f"{whole} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{s} s"


def due_in(due_ms: int, now_ms: int) -> str:
    """How far off a moment is."""
    return f"in {span(due_ms - now_ms)}" if due_ms >= now_ms else f"{span(now_ms - due_ms)} ago"


def due(task: Mapping[str, Any], now_ms: int) -> str:
    """When a task is due, and how far off that is."""
    return f"{moment(task['due_ms'])}, {due_in(int(task['due_ms']), now_ms)}"


def moment(ms: int, zone: tzinfo | None = None) -> str:
    """A moment in the zone (None: this machine's), with milliseconds and offset."""
    try:
        at = datetime.fromtimestamp(ms // 1000, zone).astimezone(zone)
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
    return f"{at:%Y-%m-%d %H:%M:%S}.{ms % 1000:03d}{at:%z}"


def _there(zone: str, ms: int) -> str:
    """A zone's name, and what its clocks show at that moment where this machine knows the zone."""
    try:
        return f"{zone}, there {moment(ms, ZoneInfo(zone))}"
    except (OSError, ValueError, LookupError):
        return zone


# -- tasks ------------------------------------------------------------------------------------------------------


def payload(task: Mapping[str, Any], longest: int = 0) -> str:
    """A task's payload in one line: JSON text, or base64 with its name in front."""
    if encoded := task.get("payload_base64"):
        return cut(f"base64:{texts.line(str(encoded))}", longest)
    text = str(task.get("payload", ""))
    # A megabyte need not be quoted to show its first line.
    return cut(json.dumps(text[: longest * 2 or None], ensure_ascii=False), longest) if text else ""


_NEEDED = 24
"""Characters of the last column that are worth a column's place."""


def tasks(found: Sequence[dict[str, Any]], now_ms: int, *, width: int = 0, zone: tzinfo | None = None) -> str:
    """A list of tasks, one a line, the earliest first. What a narrow terminal has no room for is left out."""
    rows = [
        [
            str(task["id"]),
            moment(task["due_ms"], zone),
            due_in(task["due_ms"], now_ms),
            str(task.get("state") or "gone"),
            str(task["type"]),
            str(task.get("name") or ""),
            str(task["queue"]),
            str(task["priority"]),
            "; ".join(filter(None, (str(task.get("reason") or ""), payload(task, _LONGEST_PAYLOAD)))),
        ]
        for task in sorted(found, key=lambda task: int(task["due_ms"]))
    ]
    header = ["id", "due", "in", "state", "type", "function", "queue", "priority", "payload"]
    return table(header, rows, width=width, drop=["due", "priority", "queue", "type"], room=_NEEDED)


def dead(found: Sequence[dict[str, Any]], *, width: int = 0, zone: tzinfo | None = None) -> str:
    """A list of dead letters, one a line, in the order given."""
    rows = [
        [
            str(task["id"]),
            moment(task["due_ms"], zone),
            str(task["type"]),
            str(task.get("name") or ""),
            str(task["queue"]),
            str(task.get("attempt", 0)),
            str(task.get("reason", "")),
        ]
        for task in found
    ]
    header = ["id", "was due", "type", "function", "queue", "attempts", "reason"]
    return table(header, rows, right=[5], width=width, drop=["was due", "queue", "type", "attempts"], room=_NEEDED)


def ended(found: Sequence[dict[str, Any]], now_ms: int, *, width: int = 0, zone: tzinfo | None = None) -> str:
    """How tasks ended, one a line, in the order given."""
    rows = [
        [
            str(task["id"]),
            moment(task["ended_ms"], zone),
            due_in(task["ended_ms"], now_ms),
            str(task["state"]),
            str(task["type"]),
            str(task.get("name") or ""),
            str(task["queue"]),
            span(task["fired_ms"] - task["due_ms"]) if task.get("fired_ms", 0) >= task["due_ms"] else "",
            str(task.get("attempt", 0)),
            str(task.get("node") or ""),
            str(task.get("reason") or ""),
        ]
        for task in found
    ]
    header = ["id", "ended", "ago", "state", "type", "function", "queue", "late", "failures", "node", "reason"]
    drop = ["ended", "node", "failures", "late", "type", "queue"]
    return table(header, rows, right=[7, 8], width=width, drop=drop, room=_NEEDED)


def one(task: Mapping[str, Any], now_ms: int, *, zone: tzinfo | None = None) -> str:
    """A task, one line for each field that it has."""
    lines: list[tuple[str, str]] = [
        ("id", str(task["id"])),
        ("state", str(task.get("state") or "gone: it has ended and left no record")),
        ("due", f"{moment(task['due_ms'], zone)} ({due_in(task['due_ms'], now_ms)})"),
    ]
    if zone_name := task.get("zone"):
        lines.append(("zone", _there(str(zone_name), int(task["due_ms"]))))
    lines += [
        (name.replace("_", " "), str(task[name]))
        for name in ("type", "name", "queue", "priority", "group", "fairness_key", "delivery")
        if task.get(name)
    ]
    lines += [("cost", f"{task['cost']} places")] if int(task.get("cost") or 1) > 1 else []
    lines += [(name, ", ".join(task[name])) for name in ("requires", "prefers") if task.get(name)]
    if url := task.get("url"):
        lines.append(("url", f"{task.get('method', '')} {url}".strip()))
    lines += [("payload", payload(task))] if payload(task) else []
    for name in ("headers", "labels"):
        lines += [(name if at == 0 else "", f"{k}={v}") for at, (k, v) in enumerate((task.get(name) or {}).items())]
    lines += [
        (name.removesuffix("_ms").replace("_", " "), span(task[name]))
        for name in ("timeout_ms", "expire_after_ms", "max_snooze_ms")
        if task.get(name)
    ]
    lines += [(words, str(task[name])) for name, words in _COUNTED.items() if task.get(name)]
    lines += [(name, moment(task[f"{name}_ms"], zone)) for name in ("fired", "ended") if task.get(f"{name}_ms")]
    lines += [("node", str(task["node"]))] if task.get("node") else []
    if task.get("remembered"):
        lines.append(("", "(only its end is remembered: payload, headers and labels are not kept)"))
    if result := task.get("result"):
        lines += _result(result, zone)
    output = str((result or {}).get("output") or "")
    failures = list(task.get("failures") or ())
    for failure in failures:
        lines += _failure(failure, zone)
    last = str(task.get("traceback") or "")
    if last and last.strip() not in output and not (failures and failures[-1].get("traceback")):
        lines += [("traceback" if at == 0 else "", line) for at, line in enumerate(last.splitlines())]
    size = max(len(name) for name, _ in lines)
    return "\n".join(f"{name.ljust(size)}{_GAP}{texts.line(value)}" for name, value in lines)


_COUNTED = {
    "attempt": "failed attempts",
    "losses": "lost with a node or worker",
    "deliveries": "deliveries",
    "reason": "reason",
}


def _failure(failure: Mapping[str, Any], zone: tzinfo | None) -> list[tuple[str, str]]:
    node = f", by {failure['node']}" if failure.get("node") else ""
    lines = [(f"attempt {failure['attempt']}", f"failed {moment(int(failure['failed_ms']), zone)}{node}")]
    lines += [("", str(failure["reason"]))] if failure.get("reason") else []
    return lines + [("", f"  {line}") for line in str(failure.get("traceback") or "").splitlines()]


def _result(result: Mapping[str, Any], zone: tzinfo | None) -> list[tuple[str, str]]:
    word = "succeeded" if result.get("ok") else "failed"
    exit_code = result.get("exit_code")
    words = f"{word}, exit code {exit_code}" if exit_code is not None else word
    if status := result.get("status"):
        words = f"{word}, status {status}"
    took = span(int(result.get("duration_ms", 0)))
    lines = [("result", f"{words}, took {took}, ended {moment(int(result.get('finished_ms', 0)), zone)}")]
    if result.get("reason") and result["reason"] != f"exit code {exit_code}":
        lines.append(("", str(result["reason"])))
    lines += [("answer" if at == 0 else "", f"{k}: {v}") for at, (k, v) in enumerate(result.get("headers", {}).items())]
    output = str(result.get("output") or "")
    if result.get("output_base64"):
        output = f"base64:{result['output_base64']}"
    lines += [("output" if at == 0 else "", line) for at, line in enumerate(output.splitlines())]
    if result.get("truncated"):
        lines.append(("", "(the output was cut)"))
    return lines


# -- histograms -------------------------------------------------------------------------------------------------


def bar(share: float, width: int, *, blocks: bool = True) -> str:
    """A bar of ``share`` (0 to 1) of ``width``. What is not zero shows."""
    if share <= 0:
        return ""
    if not blocks:
        return "#" * max(1, round(share * width))
    eighths = max(1, round(min(share, 1.0) * width * 8))
    return "█" * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")


def sparkline(values: Sequence[float], *, blocks: bool = True) -> str:
    """One character for each value, the highest one full; "" for none, or where the terminal cannot draw."""
    most = max(values, default=0.0)
    if most <= 0 or not blocks:
        return ""
    return "".join(_RISING[min(7, int(8 * max(value, 0.0) / most))] for value in values)


def histogram(
    steps: Sequence[Mapping[str, Any]], step_ms: int, *, width: int, blocks: bool = True, zone: tzinfo | None = None
) -> str:
    """Tasks due per step: a line each, the fullest as wide as ``width`` allows. ``steps`` as REST has them."""
    names = _step_names([int(step["start_ms"]) for step in steps], step_ms, zone)
    counts = [int(step["count"]) for step in steps]
    most = max(counts, default=0)
    room = max(8, width - max(map(len, names), default=0) - len(f"{most:,}") - 2 * len(_GAP))
    size = max(map(len, names), default=0)
    lines: list[str] = []
    for name, count in zip(names, counts, strict=True):
        drawn = bar(count / most if most else 0.0, room, blocks=blocks)
        lines.append(f"{name.ljust(size)}{_GAP}{drawn}{' ' if drawn else ''}{count:,}")
    return "\n".join(lines)


def _step_names(starts: Sequence[int], step_ms: int, zone: tzinfo | None) -> list[str]:
    """Clock times; the date where the first step of a day is, or a step is a day or more."""
    names: list[str] = []
    day = ""
    for ms in starts:
        try:
            at = datetime.fromtimestamp(ms / 1000, zone).astimezone(zone)
        except (ValueError, OverflowError, OSError):
            names.append(f"{ms} ms")
            continue
        date, clock = f"{at:%Y-%m-%d}", f"{at:%H:%M}"
        whole_days = step_ms % 86_400_000 == 0
        names.append(f"{date} {clock}" if date != day or whole_days else f"{'':10} {clock}")
        day = date
    return names


STEPS_MS = tuple(
    minutes * 60_000 for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1_440, 10_080, 43_200, 525_600)
)


def step_for(range_ms: int, rows: int = 30) -> int:
    """The shortest usual step that cuts the range into at most so many rows."""
    return next((step for step in STEPS_MS if range_ms <= step * rows), -(-range_ms // (rows * 60_000)) * 60_000)
