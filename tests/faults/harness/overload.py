"""Callers of REST that do not wait for the node to catch up: each posts a task, gives up in time, and posts the next.

``python -m tests.faults.harness.overload <oracle> <port> <first part of their keys> <callers> <seconds>``
Prints one line of JSON: see `Seen`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.faults.harness.oracle import Writer
from tests.faults.harness.rest import Rest
from tests.faults.harness.rest_load import REFUSED, post

PATIENCE_S = 2.0
"""How long a caller waits before it gives the request up with its connection."""
DUE_IN_MS = 1_000
RETRY_S = 0.1
"""A refused caller's pause, which is shorter than what Retry-After asks for."""


class Seen(NamedTuple):
    """``stored``: tasks answered with 200; ``refused``: with 429 or 503; ``gave_up``: nobody answered in time.

    ``refused_p99_ms``: how long a refusal took. ``unasked``: refusals that did not say when to come again.
    """

    stored: int
    refused: int
    gave_up: int
    refused_p99_ms: float
    unasked: int
    seconds: float


class _Caller:
    def __init__(self, port: int, log: Writer, name: str) -> None:
        self._rest, self._log, self._name = Rest(port), log, name
        self.count: Counter[str] = Counter()
        self.refusals_ms: list[float] = []

    async def run(self, end: float) -> None:
        for turn in itertools.count():
            sent = time.monotonic()
            if sent >= end:
                break
            due_ms = time.time_ns() // 1_000_000 + DUE_IN_MS
            answer = await post(self._log, self._rest, f"{self._name}-{turn}", due_ms, timeout_s=PATIENCE_S)
            if answer is None:
                self.count["gave_up"] += 1
            elif answer.status in REFUSED:
                self.count["refused"] += 1
                self.count["unasked"] += "retry-after" not in answer.headers
                self.refusals_ms.append((time.monotonic() - sent) * 1000)
                await asyncio.sleep(RETRY_S)
            else:
                self.count["stored"] += 1
        await self._rest.close()


async def main(oracle: Path, port: int, name: str, count: int, seconds: float) -> None:
    log = Writer(oracle)
    callers = [_Caller(port, log, f"{name}-{n}") for n in range(count)]
    began = time.monotonic()
    await asyncio.gather(*(caller.run(began + seconds) for caller in callers))
    counts = sum((caller.count for caller in callers), Counter[str]())
    refusals = sorted(ms for caller in callers for ms in caller.refusals_ms)
    seen = Seen(
        stored=counts["stored"],
        refused=counts["refused"],
        gave_up=counts["gave_up"],
        refused_p99_ms=refusals[int(len(refusals) * 0.99)] if refusals else 0.0,
        unasked=counts["unasked"],
        seconds=time.monotonic() - began,
    )
    print(json.dumps(seen._asdict()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
