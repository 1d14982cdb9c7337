"""`delaybox top`: the numbers as they change, on a whole terminal or a line each time."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from delaybox.cli import messages, render, scrape
from delaybox.cli.client import NodeRefused, NodeUnreachable, RestClient
from delaybox.cli.exits import Exit
from delaybox.cli.watch import BUCKET_MS, late_ms, node_table, queue_table, read_metrics, shown_ms
from delaybox.core.errors import DelayBoxError

_COMING = 10
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


def screen(now: Look, before: Look | None, url: str, *, width: int, height: int) -> list[str]:
    """One moment as a terminal's lines."""
    speed = rates(now, before)
    since = before.numbers if before else None
    late = ", ".join(f"p{s * 100:g} {shown_ms(late_ms(now.numbers, s, since))}" for s in (0.5, 0.99))
    counted = [
        f"{name.replace('_', ' ')} {now.numbers.get(f'{name}_tasks'):,}"
        for name in ("pending", "ready", "in_flight", "dead", "quarantined")
    ]
    lines = [
        f"DelayBox {url}  {time.strftime('%H:%M:%S')}  (Ctrl-C ends)",
        "",
        "tasks     " + "   ".join(counted),
        f"now       {speed['scheduled']:,.1f} scheduled/s   {speed['fired']:,.1f} fired/s   late {late}",
        *([] if now.numbers.get("store_up") else ["          THE STORE DOES NOT ANSWER THE NODE"]),
        "",
        *render.histogram(now.coming, BUCKET_MS, width=width, blocks=messages.blocks()).splitlines(),
        "",
        *node_table(now.nodes).splitlines(),
        "",
        *queue_table(now.lanes).splitlines(),
    ]
    if len(lines) > height:
        lines = [*lines[: height - 1], f"… {len(lines) - height + 1} more lines"]
    return [render.cut(text, width) for text in lines]


def watch(client: RestClient, *, every: float, count: int, as_json: bool) -> int:
    """Shows it until Ctrl-C or ``count`` looks. A node that goes away is waited for, once it was seen."""
    live = sys.stdout.isatty() and not as_json
    before: Look | None = None
    seen = 0
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
                    _draw(screen(now, before, client.url, width=size.columns, height=size.lines - 1))
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
