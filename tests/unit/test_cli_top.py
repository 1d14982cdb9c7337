"""The terminal view and its colours: what stands beside what, and that no character is lost."""

from __future__ import annotations

import re
from typing import Any

from delaybox.cli import colour, render, scrape, top

LANE = {"queue": "mail", "type": "worker", "pending": 3, "ready": 2, "in_flight": 1, "pending_complete": True}
NODE = {
    "id": "host-1",
    "pid": 7,
    "version": "1",
    "roles": ["clock"],
    "types": ["worker"],
    "in_flight": 1,
    "members": [],
}
NUMBERS = scrape.Numbers({"delaybox_store_up": 1.0, "delaybox_pending_tasks": 5.0})
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def look(**lane: Any) -> top.Look:
    steps = [{"start_ms": 1_800_000_000_000 + at * 60_000, "count": at * 100} for at in range(10)]
    return top.Look(1.0, NUMBERS, [LANE | lane], [NODE], steps)


def test_a_wide_terminal_shows_two_blocks_beside_each_other() -> None:
    narrow = top.screen(look(), None, "http://x", width=80, height=60)
    wide = top.screen(look(), None, "http://x", width=150, height=60)
    assert len(wide) < len(narrow)
    assert max(map(len, narrow)) <= 80 and max(map(len, wide)) <= 150
    (beside,) = [line for line in wide if "host-1" in line]
    assert "█" in beside or "100" in beside


def test_queues_are_shown_with_why_they_wait() -> None:
    paused = top.screen(look(waits="waits: queue 'mail' is paused"), None, "x", width=150, height=60)
    assert any("mail" in line and "is paused" in line for line in paused)
    unserved = top.screen(look(unserved=["send"]), None, "x", width=150, height=60)
    assert any("nobody serves send" in line for line in unserved)


def test_the_wait_of_the_oldest_is_a_column_where_one_waits() -> None:
    (waits,) = [
        one for one in top.screen(look(oldest_wait_ms=61_000), None, "x", width=150, height=60) if "mail" in one
    ]
    assert re.search(r"\b1 m 1 s\b", waits)
    assert not any("oldest waits" in one for one in top.screen(look(), None, "x", width=150, height=60))


def test_lateness_is_a_sparkline() -> None:
    shown = top.screen(look(), None, "x", width=150, height=60, late=(1.0, None, 4.0, 8.0))
    assert any(line.startswith("late p99  ▂▅█  up to 8.0 ms") for line in shown)
    assert render.sparkline([]) == render.sparkline([0.0]) == render.sparkline([1.0], blocks=False) == ""


def test_colours_change_no_character() -> None:
    text = "id  state\n[red]x[/]  failed\n:smile:  ready ███▌ 12"
    painted = colour.painted(text, header=True)
    assert painted != text and _ESCAPE.sub("", painted) == text


def test_a_header_is_dim_whatever_its_words_are() -> None:
    painted = colour.painted("queue  ready  oldest waits\nmail   1      ready", header=True)
    assert painted == "\x1b[2mqueue  ready  oldest waits\x1b[0m\nmail   1      \x1b[33mready\x1b[0m"
