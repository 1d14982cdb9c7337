from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

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


class _Growing:
    """A file to which a writer adds the rest of a line while that line is read."""

    def __init__(self, file: BinaryIO, rest: Callable[[], object]) -> None:
        self._file, self._rest = file, rest

    def __enter__(self) -> _Growing:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def __iter__(self) -> Iterator[bytes]:
        for line in self._file:
            self._rest()
            yield line


def _looked_at_while(path: Path, write: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A reader that has looked once, while ``write`` added to the file behind each line that was read."""
    reader = Reader(path)
    with monkeypatch.context() as patched:
        opened = Path.open
        patched.setattr(Path, "open", lambda self, mode: _Growing(opened(self, "rb"), write))
        reader.poll()
    return reader


def test_the_other_part_of_a_line_that_comes_meanwhile_is_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    whole = encode(EVENTS[0])
    path.write_bytes(whole[:10])
    rest = [whole[10:]]

    def write() -> None:
        while rest:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
                file.write(rest.pop())

    history = _looked_at_while(path, write, monkeypatch).final()
    assert (len(history.calls), history.torn) == (1, 0)


def test_a_line_that_comes_behind_the_last_look_is_not_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    writer = Writer(path)
    writer.write(EVENTS[0])
    reader = Reader(path)
    poll, late = reader.poll, [EVENTS[1]]

    def and_then() -> int:
        count = poll()
        while late:
            writer.write(late.pop())
        return count

    monkeypatch.setattr(reader, "poll", and_then)
    history = reader.final()
    assert (len(history.calls), len(history.starts), history.torn) == (1, 1, 0)


async def test_a_reader_wakes_when_the_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "log"
    reader = Reader(path)
    waiting = asyncio.create_task(reader.until(lambda h: len(h.starts) == 1, timeout_s=10, what="one start"))
    await asyncio.sleep(0)
    Writer(path).write(EVENTS[1])
    await waiting
    with pytest.raises(AssertionError, match="two starts"):
        await reader.until(lambda h: len(h.starts) == 2, timeout_s=0, what="two starts")
