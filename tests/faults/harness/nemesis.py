"""The nemesis: does seeded harm at seeded moments and writes down what it did, and when."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.faults.harness.oracle import Fault, Writer, now_us


class Nemesis:
    """``log`` is the oracle's file for faults; the same seed makes the same choices."""

    def __init__(self, seed: int, log: Writer) -> None:
        self.random = random.Random(seed)
        self._log = log
        self.faults: list[Fault] = []

    def note(self, kind: str, *, pid: int = 0, from_us: int | None = None, to_us: int | None = None) -> None:
        """Records a fault; without moments it is one instant, now."""
        begin = now_us() if from_us is None else from_us
        fault = Fault(kind, pid, begin, begin if to_us is None else to_us)
        self.faults.append(fault)
        self._log.write(fault)

    @contextlib.asynccontextmanager
    async def during(self, kind: str, *, pid: int = 0) -> AsyncIterator[None]:
        """Records what lasts as long as the block."""
        begin = now_us()
        try:
            yield
        finally:
            self.note(kind, pid=pid, from_us=begin, to_us=now_us())

    async def strike(self, harm: Callable[[], Awaitable[None]], *, times: int, within_s: tuple[float, float]) -> None:
        """Does ``harm`` ``times`` times, a random pause before each."""
        for _ in range(times):
            await asyncio.sleep(self.random.uniform(*within_s))
            await harm()
