"""Members of a fleet in this process: some that keep time, and gateways that worker pools are connected to.

``python -m benchmarks.ours.members '<json>'`` prints ``{"ready": true}`` when all have begun, and ends on SIGTERM as a
node does. ``socket``: of the server. ``name``: ids begin with it. ``clocks``: how many keep time. ``gateways``,
``pools``: how many of these, and pools on each. ``waits``: 1 = it is ready when its program is loaded, and begins with
SIGUSR1: a member on a machine of its own takes no CPU from the others while it starts.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from typing import Any

import uvloop

from benchmarks.ours.node import CHANNEL
from delaybox.core.delivery import DONE, Delivery, Report
from delaybox.core.lane import lane_of
from delaybox.core.membership import Activity, ConnectedWorker
from delaybox.core.task import TaskType
from delaybox.engine.engine import Engine
from delaybox.engine.options import EngineOptions
from delaybox.store.address import ServerSettings
from delaybox.store.servers import Servers
from delaybox.store.store import Store

_PLACES = 100


class _Pool:
    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        report(batch, DONE)


async def serve(settings: dict[str, Any]) -> None:
    """Until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    if settings.get("waits"):
        begun = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, begun.set)
        print(json.dumps({"ready": True}), flush=True)
        await begun.wait()
    name = settings["name"]
    engines: list[Engine] = []
    stores: list[Store] = []

    async def opened() -> Store:
        # A connection each, as processes have.
        stores.append(await Store.open(Servers.connect(ServerSettings(unix_path=settings["socket"]), timeout_s=5.0)))
        return stores[-1]

    for n in range(settings.get("clocks", 0)):
        node = f"{name}-{n}"
        options = EngineOptions(node_id=f"{node}.clock0", node=node, kind="clock", roles=("clock",), channel=CHANNEL)
        engines.append(Engine(await opened(), {}, options))
    for n in range(settings.get("gateways", 0)):
        node = f"{name}-g{n}"
        options = EngineOptions(
            node_id=f"{node}.grpc0", node=node, kind="grpc", roles=("api", "work"), clock=False, channel=""
        )
        lanes = [lane_of(TaskType.WORKER, "bench", f"f{p}") for p in range(settings["pools"])]
        workers = tuple(ConnectedWorker(concurrency=_PLACES) for _ in lanes)
        serving = Activity(
            types="w", lanes=tuple(lanes), lane_count=len(lanes), workers=workers, worker_count=len(workers)
        )
        gateway = Engine(await opened(), {}, options, hosts=True, facts=lambda serving=serving: serving)
        engines.append(gateway)
    for engine in engines:
        await engine.start()
    for n in range(settings.get("gateways", 0)):
        for p in range(settings["pools"]):
            lane = lane_of(TaskType.WORKER, "bench", f"f{p}")
            engines[settings.get("clocks", 0) + n].admit(lanes=[lane], target=_Pool(), room=lambda: _PLACES)
    print(json.dumps({"ready": True}), flush=True)
    await ended.wait()
    await asyncio.gather(*(engine.stop(2.0) for engine in engines))
    for store in stores:
        await store.close()


if __name__ == "__main__":
    uvloop.run(serve(json.loads(sys.argv[1])))
