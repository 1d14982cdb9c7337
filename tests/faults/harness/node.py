"""What node_proc.py runs: the product's store and engine, with a target that writes to the oracle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from delaybox.core.delivery import DONE, Delivery, Failed, Report
from delaybox.core.lane import lane_of
from delaybox.core.membership import Activity, ConnectedWorker
from delaybox.core.task import DEFAULT_QUEUE, TaskType
from delaybox.engine.engine import Engine
from delaybox.engine.options import EngineOptions
from delaybox.store.address import ServerSettings
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.faults.harness.look import instructions
from tests.faults.harness.oracle import End, Start, Writer, now_us
from tests.faults.harness.spy import Spy, mutate

GRACE_S = 5.0
LANE = lane_of(TaskType.WORKER, DEFAULT_QUEUE)
"""Of the tasks that the harness schedules for workers."""


class Recorder:
    """A target that logs when each task's handler begins and ends, and does what its payload says."""

    def __init__(self, log: Writer, *, twice: bool = False, leak_kb: int = 0) -> None:
        self._log = log
        self._twice = twice
        self._leak_kb = leak_kb
        self._leaked: list[tuple[int, bytes]] = []

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        orders = [instructions(d.body) for d in batch]
        now, pid = now_us(), os.getpid()
        starts = [
            Start(d.id, str(o.get("k", "")), d.token, d.attempt, pid, now) for d, o in zip(batch, orders, strict=True)
        ]
        self._log.write(*starts)
        self._leaked += [(os.dup(1), os.urandom(self._leak_kb * 1024)) for _ in starts if self._leak_kb]
        if self._twice:
            self._log.write(*starts)
        plain = [d for d, o in zip(batch, orders, strict=True) if not o.get("w") and not o.get("f")]
        if plain:
            self._end(plain, True)
            report(plain, DONE)
        slow = [(d, o) for d, o in zip(batch, orders, strict=True) if o.get("w") or o.get("f")]
        if slow:
            async with asyncio.TaskGroup() as group:
                for d, o in slow:
                    group.create_task(self._work(d, o, report))

    async def _work(self, delivery: Delivery, order: dict[str, Any], report: Report) -> None:
        await asyncio.sleep(order.get("w", 0) / 1000)
        ok = delivery.attempt >= order.get("f", 0)
        self._end([delivery], ok)
        report([delivery], DONE if ok else Failed("told to fail"))

    def _end(self, deliveries: Sequence[Delivery], ok: bool) -> None:
        now = now_us()
        self._log.write(*(End(d.id, d.token, os.getpid(), ok, now) for d in deliveries))


async def _run(settings: dict[str, Any]) -> None:
    log = Writer(Path(settings["oracle"]))
    mutate(settings.get("mutate", {}))
    servers = Servers.connect(ServerSettings.from_url(settings["url"]), timeout_s=settings.get("timeout_s", 5.0))
    store = await Store.open(servers, prefix=settings["prefix"])
    spy = Spy.on(store, log)
    lease_ms = settings["lease_ms"]
    options = EngineOptions(
        node_id=f"test-{os.getpid()}",
        channel=settings.get("channel", ""),
        stream=settings.get("stream", 0),
        concurrency=settings.get("concurrency", 2_000),
        lease_ms=lease_ms,
        heartbeat_ms=max(50, lease_ms // 3),
        poll_ms=settings.get("poll_ms", 200),
        reap_ms=100,
        # Killed fifty times a task may be lost more often than a real one ever is; the cap has its own tests.
        losses_cap=settings.get("losses_cap", 100),
    )
    target = Recorder(log, twice=settings.get("twice", False), leak_kb=settings.get("leak_kb", 0))
    if settings.get("fleet"):
        engines = await _sharing(store, options, target)
    else:
        engines = [Engine(store, {TaskType.WORKER: target}, options)]
        await engines[0].start()
    stop_asked = asyncio.Event()

    def on_signal() -> None:
        if stop_asked.is_set():
            os._exit(1)
        stop_asked.set()
        print("stopping", flush=True)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    print("ready", flush=True)
    await stop_asked.wait()
    await asyncio.gather(*(engine.stop(settings.get("grace_s", GRACE_S)) for engine in engines))
    await store.close()
    Path(settings["oracle"]).with_name(f"batches-{os.getpid()}.json").write_text(json.dumps(spy.batch_max))


async def _sharing(store: Store, options: EngineOptions, target: Recorder) -> list[Engine]:
    """Two members, as the processes of a node are: one that keeps time, and one that workers are connected to."""
    node = options.node_id
    clock = replace(options, node=node, node_id=f"{node}.clock0", kind="clock", roles=("clock",))
    gateway = replace(
        options, node=node, node_id=f"{node}.grpc0", kind="grpc", roles=("api", "work"), clock=False, channel=""
    )
    connected = (ConnectedWorker(concurrency=options.concurrency),)
    serving = Activity(types="w", lanes=(LANE,), lane_count=1, workers=connected, worker_count=1)
    engines = [Engine(store, {}, clock), Engine(store, {}, gateway, hosts=True, facts=lambda: serving)]
    room = options.concurrency
    for engine in engines:
        await engine.start()
    engines[1].admit(lanes=[LANE], target=target, room=lambda: max(0, room - engines[1].in_flight))
    return engines


def main(settings: dict[str, Any]) -> int:
    """Runs until SIGTERM; the exit code."""
    asyncio.run(_run(settings))
    return 0
