from __future__ import annotations

import asyncio
import multiprocessing
from pathlib import Path

import pytest

from tests.faults.harness.oracle import Ack, Call, End, Event, Fault, Reader, Start, Writer, decode, encode

pytestmark = pytest.mark.faults

EVENTS: list[Event] = [
    Call("schedule", "k", "t", 1, "ok", 2, 3),
    Start("t", "k", 1, 0, 4, 5),
    End("t", 1, 4, True, 6),
    Ack("ack", "t", 1, 4, "ok", 7, 8),
    Fault("kill", 4, 9, 10),
]


@pytest.mark.parametrize("event", EVENTS)
def test_each_event_survives_its_line(event: Event) -> None:
    assert decode(encode(event).rstrip(b"\n")) == event


@pytest.mark.parametrize(
    "spoil", [lambda x: x[:-1], lambda x: x[:9] + b"X" + x[10:], lambda x: b"", lambda x: b"zz " + x]
)
def test_a_damaged_line_is_no_event(spoil) -> None:
    assert decode(spoil(encode(EVENTS[0]).rstrip(b"\n"))) is None


def _write(path: Path, count: int) -> None:
    writer = Writer(path)
    for n in range(count):
        writer.write(Start("t" * 40, f"k{n}", n, 0, 1, 2))


def test_lines_of_many_processes_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "log"
    processes = [multiprocessing.get_context("spawn").Process(target=_write, args=(path, 500)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    history = Reader(path).final()
    assert len(history.starts) == 1500
    assert history.torn == 0


def test_an_unfinished_line_waits_and_in_the_end_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = encode(EVENTS[0])
    path.write_bytes(whole + whole[:10])
    reader = Reader(path)
    assert reader.poll() == 1
    with path.open("ab") as file:
        file.write(whole[10:] + whole[:10])
    assert reader.poll() == 1
    assert reader.final().torn == 1
    assert len(reader.history.calls) == 2


async def test_a_reader_wakes_when_the_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "log"
    reader = Reader(path)
    waiting = asyncio.create_task(reader.until(lambda h: len(h.starts) == 1, timeout_s=10, what="one start"))
    await asyncio.sleep(0)
    Writer(path).write(EVENTS[1])
    await waiting
    with pytest.raises(AssertionError, match="two starts"):
        await reader.until(lambda h: len(h.starts) == 2, timeout_s=0, what="two starts")
