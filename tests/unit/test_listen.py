"""What `delaybox listen` makes of a message."""

from __future__ import annotations

import pytest

from delaybox.cli.listen import read, text_line
from delaybox.core import ids
from delaybox.wire.gen.task_pb2 import Task

STORED_MS = 1_790_000_000_000
ID = ids.render(STORED_MS.to_bytes(6, "big") + ids.tails(3, bytes(8))[0])


def message(payload: bytes = b"", **header: bytes) -> bytes:
    return Task(taskUuid=ID, header=header, payload=payload).SerializeToString()


@pytest.mark.parametrize(
    ("header", "late_ms"),
    [
        ({}, 2.5),
        ({"executionTimestamp": b"%d" % (STORED_MS + 2)}, 0.5),
        ({"executionTimestamp": b"1721672590913"}, 2.5),
        ({"executionTimestamp": b"nonsense"}, 2.5),
        ({"executionTimestamp": b"1e999"}, 2.5),
    ],
)
def test_lateness_is_against_the_later_of_asked_and_stored(header: dict[str, bytes], late_ms: float) -> None:
    assert read(message(**header), STORED_MS + 2.5).late_ms == late_ms


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"Test Jay\n", '"Test Jay\\n"'),
        ("grüß".encode(), '"grüß"'),
        (b"", '""'),
        (b"\xff\x00", "base64:/wA="),
        (b"\x1b[2J", "base64:G1sySg=="),
        ("ü".encode() * 400, " … (800 bytes)"),
    ],
)
def test_a_payload_is_text_or_base64_and_never_obeyed_by_a_terminal(payload: bytes, shown: str) -> None:
    line = text_line(read(message(payload), STORED_MS))
    assert line.endswith(shown)
    assert line.isprintable()
    assert ID in line


def test_a_task_that_was_moved_to_earlier_has_no_lateness_that_is_known() -> None:
    arrival = read(message(executionTimestamp=b"%d" % (STORED_MS + 3_600_000)), STORED_MS + 5.0)
    assert arrival.late_ms is None
    assert "  ?  " in text_line(arrival)


def test_what_is_no_task_is_shown_as_it_is() -> None:
    arrival = read(b"\xff\xffplain", STORED_MS)
    assert arrival.late_ms is None
    assert "base64:" in text_line(arrival)
