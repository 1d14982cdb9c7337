"""An engine in the test's own process, on a store of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from delaybox.core.delivery import DONE, Delivery, Report, Target
from delaybox.core.task import TaskType
from delaybox.engine.engine import Engine
from delaybox.engine.options import EngineOptions
from delaybox.store.store import Store
from tests.waiting import PATIENCE_S, until_async


class Recorder:
    """A target that remembers every delivery, in order, with the moment (Unix ms)."""

    def __init__(self) -> None:
        self.got: list[tuple[float, Delivery]] = []

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        now = time.time() * 1000
        self.got += [(now, d) for d in batch]
        report(batch, DONE)


@contextlib.asynccontextmanager
async def running(
    store: Store, targets: Mapping[TaskType, Target], *, node_id: str = "test", **options: Any
) -> AsyncIterator[Engine]:
    """A started engine, stopped at the end."""
    engine = Engine(store, targets, EngineOptions(node_id=node_id, **options))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop(1.0)


async def until(holds: Callable[[], Awaitable[bool] | bool], *, timeout_s: float = PATIENCE_S) -> None:
    """Returns when it holds; AssertionError when it never does."""
    await until_async(holds, within_s=timeout_s)
