"""What the command line draws."""

from __future__ import annotations

from collections import Counter
from datetime import UTC
from typing import Any

import pytest
from rich.cells import cell_len

from delaybox.cli import render, tables

NOW = 1_900_000_000_000
TASK: dict[str, Any] = {
    "id": "01a2b3c4-d5e6-8001-9f00-112233445566",
    "type": "pub_sub",
    "state": "scheduled",
    "due_ms": NOW + 61_000,
    "queue": "mail",
    "priority": "high",
    "payload": "hello",
}


def test_columns_are_aligned() -> None:
    rows = [["a", "1"], ["long name", "12,345"]]
    aligned = "what            n\na               1\nlong name  12,345"
    assert render.table(["what", "n"], rows, right=[1]) == aligned
    assert render.table(["what", "n"], rows, right=[1], width=17) == aligned, "as on a terminal that has room"


@pytest.mark.parametrize("width", [200, 80, 60, 40, 20])
def test_on_a_narrow_terminal_no_name_is_cut(width: int) -> None:
    """What has no room goes on below; only free text, which comes last, ends with a mark of it."""
    rows = [["host-1", "[red]x[/]", "1,234", "名前" * 9], ["host-2", ":smile:", "5", ""]]
    lines = render.table(["node", "worker", "runs", "labels"], rows, right=[2], width=width).splitlines()
    assert max(map(cell_len, lines)) <= width
    shown = "".join("".join(lines).split())
    assert Counter(shown) == Counter("".join(("node", "worker", "runs", "labels", *map("".join, rows))))
    assert len(lines) == 3 or width <= 60
    tasks = render.tasks([{**TASK, "payload": "x" * 50}], NOW, width=width).splitlines()
    assert max(map(cell_len, tasks)) <= width
    assert any(TASK["id"] in line for line in tasks) or width < 60
    assert TASK["id"] in "".join(line.split("  ")[0] for line in tasks)


def test_a_long_table_needs_rich_only_where_something_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a thousandth of a second for each row, and a list may have ten thousand."""
    many = [{**TASK, "payload": "x" * 50}] * 10_000

    def slow(*_: object, **__: object) -> None:
        pytest.fail("a row that has room is laid out by rich")

    monkeypatch.setattr(tables, "Table", slow)
    lines = render.tasks(many, NOW, width=100).splitlines()
    assert len(lines) == 10_001 and all(line.endswith("…") and cell_len(line) <= 100 for line in lines[1:])


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\r", "\x07", "\x9b1m", "a\nb", "\u202e"])
def test_nothing_that_a_terminal_obeys_gets_through(hostile: str) -> None:
    task = {**TASK, "payload": hostile, "queue": hostile, "headers": {hostile: hostile}, "reason": hostile}
    drawn = render.tasks([task], NOW, width=120)
    for text in (render.one(task, NOW), render.tasks([task], NOW), render.dead([task]), drawn):
        assert hostile not in text
        assert all(line.isprintable() for line in text.splitlines())


def test_output_of_a_command_keeps_its_lines() -> None:
    result = {"ok": False, "exit_code": 3, "duration_ms": 1500, "finished_ms": NOW, "output": "one\n\x1b[1mtwo\n"}
    text = render.one({**TASK, "state": "failed", "result": result}, NOW, zone=UTC)
    assert "result    failed, exit code 3, took 1.5 s, ended 2030-03-17 17:46:40.000+0000" in text
    assert text.splitlines()[-2:] == ["output    one", "          \\x1b[1mtwo"]


def test_a_task_says_what_it_has_and_nothing_else() -> None:
    assert render.one({**TASK, "labels": {"a": "1", "b": "2"}, "attempt": 2}, NOW, zone=UTC).splitlines() == [
        "id               01a2b3c4-d5e6-8001-9f00-112233445566",
        "state            scheduled",
        "due              2030-03-17 17:47:41.000+0000 (in 1 m 1 s)",
        "type             pub_sub",
        "queue            mail",
        "priority         high",
        'payload          "hello"',
        "labels           a=1",
        "                 b=2",
        "failed attempts  2",
    ]


def test_a_task_that_left_no_record_is_shown() -> None:
    text = render.one({**TASK, "state": None, "payload_base64": "/w==", "payload": ""}, NOW)
    assert "gone: it has ended" in text
    assert "base64:/w==" in text
    assert "gone" in render.tasks([{**TASK, "state": None}], NOW)


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_500, "1.5 s"),
        (59_999, "1 m"),
        (59_400, "59 s"),
        (599_700, "10 m"),
        (7_199_000, "2 h"),
        (7_180_000, "2 h"),
        (7_160_000, "1 h 59 m"),
        (86_399_000, "24 h"),
        (60_000, "1 m"),
        (3_661_000, "1 h 1 m"),
        (90_000_000, "1 d 1 h"),
        (86_400_000 * 400, "400 d"),
    ],
)
def test_spans(ms: int, words: str) -> None:
    assert render.span(ms) == words
    assert render.due_in(NOW + ms, NOW) == f"in {words}"
    assert render.due_in(NOW - ms, NOW) == (f"{words} ago" if ms else "in 0 ms")


def test_a_moment_far_off_is_still_said() -> None:
    assert render.moment(NOW + 7, UTC) == "2030-03-17 17:46:40.007+0000"
    assert render.moment(10**18, UTC) == "1000000000000000000 ms"


LATE_EVENING = 1_899_935_400_000 // 86_400_000 * 86_400_000 - 1_200_000
"""20 minutes to midnight, UTC."""


def steps(*counts: int, step_ms: int = 600_000) -> list[dict[str, int]]:
    return [{"start_ms": LATE_EVENING + n * step_ms, "count": count} for n, count in enumerate(counts)]


def test_the_fullest_step_is_as_wide_as_the_line() -> None:
    lines = render.histogram(steps(0, 1, 500, 1000), 600_000, width=60, zone=UTC).splitlines()
    assert [len(line) for line in lines][3] <= 60
    assert lines[0].endswith("  0")
    assert "▏ 1" in lines[1]
    assert lines[3].count("█") == pytest.approx(2 * lines[2].count("█"), abs=1)
    plain = render.histogram(steps(0, 1, 1000), 600_000, width=60, blocks=False, zone=UTC)
    assert plain.isascii()
    assert "# 1\n" in plain


def test_dates_stand_where_a_day_begins() -> None:
    lines = render.histogram(steps(1, 1, 1, 1), 600_000, width=60, zone=UTC).splitlines()
    assert [line[:16].strip() for line in lines] == ["2030-03-15 23:40", "23:50", "2030-03-16 00:00", "00:10"]
    days = render.histogram(steps(1, 1, step_ms=86_400_000), 86_400_000, width=60, zone=UTC).splitlines()
    assert [line[:10] for line in days] == ["2030-03-15", "2030-03-16"]


def test_nothing_to_draw() -> None:
    assert render.histogram([], 60_000, width=80) == ""
    assert render.histogram(steps(0, 0), 600_000, width=10, zone=UTC).splitlines()[1].endswith("0")


@pytest.mark.parametrize("hours", [0.01, 1, 5, 24, 24 * 7, 24 * 365, 24 * 365 * 100])
def test_a_range_is_cut_into_some_thirty_rows(hours: float) -> None:
    range_ms = round(hours * 3_600_000)
    step = render.step_for(range_ms)
    assert step % 60_000 == 0
    assert range_ms / step <= 30


def test_a_narrow_terminal_still_shows_functions_and_reasons() -> None:
    worker = {**TASK, "type": "worker", "name": "remind", "attempt": 3, "reason": "ValueError: no such customer"}
    later = {**worker, "due_ms": NOW + 90_000, "id": "later"}
    listed = render.tasks([later, worker], NOW, width=80).splitlines()
    assert [line.split()[0] for line in listed] == ["id", TASK["id"], "later"]
    assert "remind" in listed[1] and "scheduled" in listed[1]
    died = render.dead([worker], width=80).splitlines()
    assert "remind" in died[1] and "no such customer" in died[1]
    assert all(len(line) <= 80 for line in (*listed, *died))
    whole = render.tasks([worker], NOW, zone=UTC)
    assert "2030-03-17 17:47:41.000+0000" in whole and "mail" in whole and "high" in whole
