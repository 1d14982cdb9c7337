"""The oracle: what producers, handlers and the nemesis saw, in append-only files outside the system under test.

One line is ``crc32 SP json LF``, written by one ``write`` on an O_APPEND descriptor, so that lines of many processes
never mix and what was written before a SIGKILL stays. A line whose checksum is wrong is counted, never guessed at.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.waiting import until_async

OK, FAIL, UNKNOWN, SENT, STALE = "ok", "fail", "unknown", "sent", "stale"


def now_us() -> int:
    """This host's wall clock, which is also the clock of the Redis under test."""
    return time.time_ns() // 1000


class Call(NamedTuple):
    """A producer's call. ``key`` is the logical task's name, which its payload carries too.

    ``op``: schedule, cancel, reschedule, run_now, replay, discard. ``sent_us``/``answered_us`` bracket it.
    """

    op: str
    key: str
    task_id: str
    due_ms: int
    outcome: str
    sent_us: int
    answered_us: int


class Start(NamedTuple):
    """A handler began. ``token`` is the delivery counter; 0 where the target hands none over (PUBLISH)."""

    task_id: str
    key: str
    token: int
    attempt: int
    pid: int
    at_us: int


class End(NamedTuple):
    """A handler came to its end; ``ok`` False is a failure that it reports."""

    task_id: str
    token: int
    pid: int
    ok: bool
    at_us: int


class Ack(NamedTuple):
    """What became of a completion, failure or hand-back sent to the store.

    ``op``: ack, fail, release. ``outcome``: ok, stale (refused by the fence), unknown (no answer came), or sent:
    written before the call, so that a process killed inside it has left a trace.
    """

    op: str
    task_id: str
    token: int
    pid: int
    outcome: str
    sent_us: int
    answered_us: int


class Fault(NamedTuple):
    """What the nemesis did. ``kind``: kill, term, stop, server, net, rollback, oom, flush_scripts, lease …

    ``pid`` is the process hit (0: none). For ``rollback`` the window is what the server forgot.
    """

    kind: str
    pid: int
    from_us: int
    to_us: int


Event = Call | Start | End | Ack | Fault
_KINDS: dict[str, type[Any]] = {"C": Call, "S": Start, "E": End, "A": Ack, "F": Fault}
_LETTERS = {kind: letter for letter, kind in _KINDS.items()}


def encode(event: Event) -> bytes:
    """One line with its checksum."""
    body = json.dumps([_LETTERS[type(event)], *event], separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> Event | None:
    """The event, or None for a line that is not whole."""
    checksum, _, body = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(body):
            return None
        letter, *values = json.loads(body)
        return _KINDS[letter](*values)  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError):
        return None


class Writer:
    """Appends events to one file; any number of processes may share it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, *events: Event) -> None:
        """All of them in one write, which ends what somebody who was killed left unfinished."""
        data = b"\n" + b"".join(map(encode, events))
        if os.write(self._fd, data) != len(data):
            raise OSError("short write to the oracle file")

    def close(self) -> None:
        os.close(self._fd)


@dataclass(slots=True)
class History:
    """Everything the oracle files hold, by kind, in file order."""

    calls: list[Call] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    torn: int = 0

    def add(self, event: Event | None) -> None:
        match event:
            case Call():
                self.calls.append(event)
            case Start():
                self.starts.append(event)
            case End():
                self.ends.append(event)
            case Ack():
                self.acks.append(event)
            case Fault():
                self.faults.append(event)
            case None:
                self.torn += 1


class Reader:
    """Follows oracle files while they grow."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._offsets = dict.fromkeys(paths, 0)
        self._unfinished: set[Path] = set()
        self.history = History()

    def poll(self) -> int:
        """Reads what came since; how many events."""
        count = 0
        for path in self._paths:
            for line in self._lines(path):
                self.history.add(decode(line))
                count += 1
        return count

    def _lines(self, path: Path) -> Iterator[bytes]:
        self._unfinished.discard(path)
        try:
            with path.open("rb") as file:
                file.seek(self._offsets[path])
                for line in file:
                    # A last line without its end is still being written, or its writer died: look again next time. What
                    # may come behind it now is its other part.
                    if not line.endswith(b"\n"):
                        self._unfinished.add(path)
                        return
                    self._offsets[path] += len(line)
                    if line != b"\n":
                        yield line[:-1]
        except FileNotFoundError:
            return

    async def until(self, done: Callable[[History], bool], *, timeout_s: float, what: str) -> None:
        """Returns when ``done``; looks whenever a file may have grown. AssertionError: ``what`` did not come."""
        h = self.history

        def came() -> bool:
            self.poll()
            return done(h)

        await until_async(
            came,
            lambda: (
                f"{what}: not within {timeout_s} s; calls {len(h.calls)}, starts {len(h.starts)}, acks {len(h.acks)}"
            ),
            within_s=timeout_s,
        )

    def final(self) -> History:
        """All of it; a last line without its end counts as torn, once nobody writes any more."""
        while self.poll():
            pass
        self.history.torn += len(self._unfinished)
        return self.history
