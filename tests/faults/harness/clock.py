"""A clock of the server's own that steps, by a small library that is preloaded into the server alone."""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from pathlib import Path

from tests.faults.harness.oracle import History, now_us
from tests.faults.harness.preload import built


class Clock:
    """``environ`` is the server's; ``off_ms``: the server's clock minus this machine's."""

    def __init__(self, folder: Path) -> None:
        library = built("clock", folder)
        file = folder / "off"
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._mapped = mmap.mmap(opened.fileno(), 8)
        self._steps: list[tuple[int, int]] = [(0, 0)]
        self.environ = {"LD_PRELOAD": str(library), "CLOCK": str(file)}

    @property
    def off_ms(self) -> int:
        return self._steps[-1][1]

    def set(self, off_ms: int) -> None:
        """The clock steps."""
        self._mapped[:8] = struct.pack("q", off_ms)
        self._steps.append((now_us(), off_ms))

    def shown(self, at_us: int) -> int:
        """What the server's clock showed at a moment of this machine's."""
        at = bisect_right([moment for moment, _ in self._steps], at_us) - 1
        return at_us + self._steps[at][1] * 1000

    def translate(self, history: History) -> None:
        """Puts the moments of a history, which are this machine's, into the server's time."""
        history.calls[:] = [
            c._replace(sent_us=self.shown(c.sent_us), answered_us=self.shown(c.answered_us)) for c in history.calls
        ]
        history.acks[:] = [
            a._replace(sent_us=self.shown(a.sent_us), answered_us=self.shown(a.answered_us)) for a in history.acks
        ]
        history.starts[:] = [s._replace(at_us=self.shown(s.at_us)) for s in history.starts]
        history.ends[:] = [e._replace(at_us=self.shown(e.at_us)) for e in history.ends]
