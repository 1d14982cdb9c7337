"""Nodes and their processes as `delaybox nodes` prints them."""

from __future__ import annotations

from delaybox.cli.watch import node_table, ranges

CLOCK = {
    "id": "n.clock0",
    "kind": "clock",
    "pid": 8,
    "types": ["pub_sub"],
    "in_flight": 2,
    "partitions": [0, 1, 2, 9],
    "partition_count": 4,
    "fired_per_s": 12.5,
    "lag_ms": 1.2,
    "clock_offset_ms": -300_000,
}
FORMER = {"id": "n.rest0", "kind": "rest", "pid": 9, "types": [], "in_flight": 0}
NODE = {"id": "n", "pid": 7, "version": "1", "roles": ["clock"], "types": ["pub_sub"], "in_flight": 2}


def test_ranges() -> None:
    assert [ranges(numbers) for numbers in ([], [3], [0, 1, 2], [0, 2, 3, 9])] == ["", "3", "0-2", "0,2-3,9"]


def test_each_process_has_a_line_with_what_it_keeps() -> None:
    header, node, clock, former = node_table([{**NODE, "members": [CLOCK, FORMER]}], members=True).splitlines()
    assert header.split()[-4:] == ["fired/s", "lag", "clock", "keeps"]
    assert node.split() == ["n", "7", "1", "clock", "pub_sub", "2"]
    assert clock.split() == ["clock", "8", "pub_sub", "2", "12.5", "1", "ms", "-300,000", "ms", "4:", "0-2,9"]
    assert former.split() == ["rest", "9", "0"], "of a node of the previous version these are not known"


def test_a_node_of_one_process_has_one_line() -> None:
    _, node = node_table([{**NODE, "members": [{**CLOCK, "partition_count": 300}]}], members=True).splitlines()
    assert node.endswith("300: 0-2,9 …")
    assert len(node_table([{**NODE, "members": [CLOCK]}]).splitlines()[1].split()) == 6


def test_who_has_not_beaten_for_a_while_is_silent() -> None:
    """A node that was killed is on the list for 10 s, with all that it kept."""
    beats = {"alive": "2026-11-29T10:00:08.400Z", "late": "2026-11-29T10:00:07.200Z", "killed": "2026-11-29T10:00:04Z"}
    inside = [{**CLOCK, "seen": beats["alive"]}, {**FORMER, "seen": beats["killed"]}]
    rows = node_table(
        [
            {**NODE, "id": "a", "seen": beats["alive"], "members": inside},
            {**NODE, "id": "b", "seen": beats["late"], "members": []},
            {**NODE, "id": "c", "seen": beats["killed"], "members": []},
        ],
        members=True,
    ).splitlines()
    begins = ["a  ", "  clock  ", "  rest (silent for 4.4 s)  ", "b  ", "c (silent for 4.4 s)  "]
    assert [row[: len(begin)] for row, begin in zip(rows[1:], begins, strict=True)] == begins
