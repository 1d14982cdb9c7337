"""A worker that speaks the stream by hand and runs nothing: the ceiling of what any SDK can take from a node.

``python -m benchmarks.ours.bare_worker '<json options>'``
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import grpc
import uvloop

from benchmarks.harness import tally
from delaybox.wire.gen import worker_pb2 as wk
from delaybox.wire.gen.worker_pb2_grpc import WorkerStub


async def main(options: dict[str, Any]) -> None:
    """Says done to whatever comes, until it is killed."""
    tick, mark = tally.ticker(), tally.marker() if options["each"] else None
    async with grpc.aio.insecure_channel(options["address"]) as channel:
        stub: Any = WorkerStub  # generated without types
        call = stub(channel).Work()
        hello = wk.Hello(functions=[wk.Function(name=name) for name in options["functions"]], identity="bare")
        await call.write(wk.FromWorker(hello=hello))
        await call.read()
        number = 1
        await call.write(wk.FromWorker(number=number, credit=options["credit"]))
        print(json.dumps({"ready": True}), flush=True)
        while (message := await call.read()) is not grpc.aio.EOF:
            now_ms = time.time_ns() / 1e6
            if not message.tasks:
                continue
            if mark is not None:
                for t in message.tasks:
                    mark(now_ms - t.due_ms)
            done = [t.sequence for t in message.tasks]
            for _ in done:
                tick()
            number += 1
            await call.write(wk.FromWorker(number=number, done=done, credit=len(done), seen=message.number))


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
