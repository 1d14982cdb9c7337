"""What a scenario is given, and what a scenario is."""

from __future__ import annotations

import random
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.harness.report import Bound, Row
from benchmarks.harness.server import BenchServer, Binary, running
from benchmarks.peers.bullmq import BullMQ
from benchmarks.peers.missing import PeerMissingError

_PATH = re.compile(r"(?:/[\w.@+-]+)+/([\w.@+-]+)")
"""Results are published: an error keeps the name of a file, not where this machine has it."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One run: its size, its seed, the server all subjects share, and the peer."""

    quick: bool
    seed: int
    binary: Binary
    bullmq: BullMQ
    rows: list[Row] = field(default_factory=list)

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def size_list(self, *, full: tuple[int, ...], quick: tuple[int, ...]) -> tuple[int, ...]:
        return quick if self.quick else full

    def random(self) -> random.Random:
        """A fresh generator: each scenario draws the same numbers whichever others ran before it."""
        return random.Random(self.seed)

    @contextmanager
    def server(
        self, binary: Binary | None = None, *, persistent: bool = False, by_tcp: bool = False
    ) -> Iterator[BenchServer]:
        with running(binary or self.binary, persistent=persistent, by_tcp=by_tcp) as server:
            yield server

    def show(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    def add(self, row: Row) -> Row:
        """Keep a row; it is kept even when a later step of the scenario fails."""
        self.rows.append(row)
        value = "not measured" if row.value is None else f"{row.value:,.2f} {row.unit}"
        self.show(f"{row.what} · {row.subject}: {value}{' · ' + row.note if row.note else ''}")
        return row

    def attempt(
        self,
        what: str,
        subject: str,
        unit: str,
        measure: Callable[[], Row | Sequence[Row]],
        *,
        bounds: tuple[Bound, ...] = (),
    ) -> None:
        """Run one measurement; when it cannot be taken, say so in the table (``bounds``: as not met) and go on."""
        started = time.monotonic()
        try:
            found = measure()
        except PeerMissingError as error:
            self.add(Row(what=what, subject=subject, value=None, unit=unit, note=str(error), bounds=bounds))
            return
        except Exception as error:
            text = _PATH.sub(r"\1", " ".join(f"{type(error).__name__}: {error}".split()))[:300]
            traceback.print_exc(file=sys.stderr)
            self.add(Row(what=what, subject=subject, value=None, unit=unit, note=text, bounds=bounds))
            return
        for row in [found] if isinstance(found, Row) else found:
            self.add(row)
        self.show(f"({time.monotonic() - started:.1f} s)")


@dataclass(frozen=True, slots=True)
class Scenario:
    """``run`` adds its rows to the bench it is given."""

    name: str
    about: str
    run: Callable[[Bench], None]
