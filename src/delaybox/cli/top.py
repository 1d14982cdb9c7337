"""`delaybox top`: the numbers as they change, on a whole terminal or a line each time."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from delaybox.cli import colour, messages, render, scrape
from delaybox.cli.client import NodeRefused, NodeUnreachable, RestClient
from delaybox.cli.exits import Exit
from delaybox.cli.watch import BUCKET_MS, late_ms, node_table, queue_table, read_metrics, shown_ms
from delaybox.core.errors import DelayBoxError

_COMING = 10
_BESIDE = 120
"""Columns from which on two blocks stand beside each other."""
_BETWEEN = 4
"""Columns between the two."""
_KEPT = 300
"""Looks whose lateness is drawn."""
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _TO_LINE_END, _TO_END = "\x1b[H", "\x1b[K", "\x1b[J"


@dataclass(frozen=True, slots=True)
class Look:
    """The numbers of one moment."""

    at_s: float
    numbers: scrape.Numbers
    lanes: list[dict[str, Any]]
    nodes: list[dict[str, Any]]
    coming: list[dict[str, Any]]


def look(client: RestClient, *, whole: bool) -> Look:
    """Asks the node; ``whole``: also for what only the terminal shows. Unreachable, Refused."""
    numbers = read_metrics(client)
    now_ms = time.time_ns() // 1_000_000
    if not whole:
        return Look(time.monotonic(), numbers, [], [], [])
    ahead = {"from": now_ms, "to": now_ms + _COMING * BUCKET_MS, "step": BUCKET_MS}
    return Look(
        time.monotonic(),
        numbers,
        client.get("/v1/queues")["queues"],
        client.get("/v1/nodes")["nodes"],
        client.get("/v1/forecast", ahead)["steps"][:_COMING],
    )


def rates(now: Look, before: Look | None) -> dict[str, float]:
    """Tasks a second since the last look."""
    if before is None or now.at_s <= before.at_s:
        return {"scheduled": 0.0, "fired": 0.0}
    took = now.at_s - before.at_s
    return {
        name: max(0.0, (now.numbers.get(metric) - before.numbers.get(metric)) / took)
        for name, metric in (("scheduled", "scheduled_tasks_total"), ("fired", "fired_tasks_total"))
    }


def facts(now: Look, before: Look | None) -> dict[str, Any]:
    """One moment for programs."""
    speed = rates(now, before)
    return {
        "at_ms": time.time_ns() // 1_000_000,
        **{name: now.numbers.get(f"{name}_tasks") for name in ("pending", "ready", "in_flight", "dead")},
        "scheduled_per_s": round(speed["scheduled"], 1),
        "fired_per_s": round(speed["fired"], 1),
        "late_p99_ms": late_ms(now.numbers, 0.99, before.numbers if before else None),
    }


def line(now: Look, before: Look | None) -> str:
    """One moment in one line."""
    values = facts(now, before)
    return (
        f"{time.strftime('%H:%M:%S')}  pending {values['pending']:,}  ready {values['ready']:,}  "
        f"in flight {values['in_flight']:,}  dead {values['dead']:,}  scheduled {values['scheduled_per_s']:,.1f}/s  "
        f"fired {values['fired_per_s']:,.1f}/s  late p99 {shown_ms(values['late_p99_ms'])}"
    )


def screen(
    now: Look, before: Look | None, url: str, *, width: int, height: int, late: Sequence[float | None] = ()
) -> list[str]:
    """One moment as a terminal's lines. ``late``: the p99 of the looks so far, in ms.

    Where the terminal is wide enough, what is coming and the nodes stand beside each other.
    """
    speed = rates(now, before)
    since = before.numbers if before else None
    lates = ", ".join(f"p{s * 100:g} {shown_ms(late_ms(now.numbers, s, since))}" for s in (0.5, 0.99))
    counted = [
        f"{name.replace('_', ' ')} {now.numbers.get(f'{name}_tasks'):,}"
        for name in ("pending", "ready", "in_flight", "dead", "quarantined")
    ]
    drawn = render.sparkline([ms for ms in late if ms is not None][-max(8, width - 24) :], blocks=messages.blocks())
    lines = [
        f"DelayBox {url}  {time.strftime('%H:%M:%S')}  (Ctrl-C ends)",
        "",
        "tasks     " + "   ".join(counted),
        f"now       {speed['scheduled']:,.1f} scheduled/s   {speed['fired']:,.1f} fired/s   late {lates}",
        *([f"late p99  {drawn}  up to {shown_ms(max(ms for ms in late if ms is not None))}"] if drawn else []),
        *([] if now.numbers.get("store_up") else ["          THE STORE DOES NOT ANSWER THE NODE"]),
        "",
    ]
    room = width if width < _BESIDE else width // 2 - 2
    coming = render.histogram(now.coming, BUCKET_MS, width=room, blocks=messages.blocks()).splitlines()
    beside = width >= _BESIDE
    nodes = node_table(now.nodes, width - room - _BETWEEN if beside else width, members=beside).splitlines()
    lines += _beside(coming, nodes, room) if beside else [*coming, "", *nodes]
    lines += ["", *queue_table(now.lanes, width).splitlines()]
    if len(lines) > height:
        lines = [*lines[: height - 1], f"… {len(lines) - height + 1} more lines"]
    return [render.cut(text, width) for text in lines]


def _beside(left: list[str], right: list[str], room: int) -> list[str]:
    """Two blocks of lines, the left one as wide as ``room``."""
    return [
        f"{render.cut(one, room).ljust(room)}{' ' * _BETWEEN}{two}".rstrip()
        for one, two in zip_longest(left, right, fillvalue="")
    ]


def watch(client: RestClient, *, every: float, count: int, as_json: bool) -> int:
    """Shows it until Ctrl-C or ``count`` looks. A node that goes away is waited for, once it was seen."""
    live = sys.stdout.isatty() and not as_json
    before: Look | None = None
    seen = 0
    late: deque[float | None] = deque(maxlen=_KEPT)
    with _terminal(live), contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                now = look(client, whole=live)
            except (NodeUnreachable, NodeRefused) as error:
                if before is None or error.exit is not Exit.NO_SERVER:
                    raise
                _away(error, live)
            else:
                if live:
                    size = shutil.get_terminal_size()
                    late.append(late_ms(now.numbers, 0.99, before.numbers if before else None))
                    room = {"width": size.columns, "height": size.lines - 1}
                    _draw(screen(now, before, client.url, **room, late=tuple(late)))
                elif as_json:
                    messages.out_json(facts(now, before))
                else:
                    messages.out(line(now, before))
                before = now
            seen += 1
            if seen == count:
                break
            time.sleep(every)
    return Exit.DONE


def _away(error: DelayBoxError, live: bool) -> None:
    if live:
        _draw([str(error), "", "trying again"])
    else:
        messages.warning(str(error))


def _draw(lines: list[str]) -> None:
    if colour.wanted():
        lines = [colour.painted(text) for text in lines]
    sys.stdout.write(_HOME + "".join(f"{text}{_TO_LINE_END}\n" for text in lines) + _TO_END)
    sys.stdout.flush()


@contextlib.contextmanager
def _terminal(live: bool) -> Iterator[None]:
    """The terminal's other screen, given back whatever happens."""
    if not live:
        yield
        return
    sys.stdout.write(_ENTER)
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
