"""The index of labels: built, and looked up."""

from __future__ import annotations

import time

from benchmarks.harness.server import BenchServer
from benchmarks.ours.storing import opened
from delaybox.core.query import TaskQuery
from delaybox.engine.labeller import Labeller
from delaybox.engine.ownership import Ownership
from delaybox.service import Service
from delaybox.store import label_index, label_lists


async def index_labels(server: BenchServer, *names: str) -> None:
    """Indexes these labels from now on, as the nodes of a store do that has been told so."""
    async with opened(server) as store:
        await label_index.declare(store, names)
        labeller = Labeller(store, Ownership(store.partitions))
        while await label_index.complete(store, [0]) != [frozenset(names)]:
            time.sleep(await labeller.step())


async def look_through(server: BenchServer) -> None:
    """What owners of partitions do now and then: drops the entries of ended tasks."""
    async with opened(server) as store:
        for p in range(store.partitions):
            async for _ in label_lists.look_through(store, p):
                pass


async def look_up(server: BenchServer, name: str, value: str, rounds: int) -> tuple[list[float], int]:
    """Milliseconds of each look-up of all tasks with a label, and how many were found."""
    took: list[float] = []
    async with opened(server) as store:
        service = Service(store)
        wanted = TaskQuery(labels={name: value})
        await service.list_tasks(TaskQuery(), limit=1)
        for _ in range(rounds):
            began = time.perf_counter()
            page = await service.list_tasks(wanted, limit=1_000)
            took.append((time.perf_counter() - began) * 1_000)
            if page.scanned or page.cursor:
                raise RuntimeError("the look-up was not answered by the index alone")
    return took, len(page.items)
