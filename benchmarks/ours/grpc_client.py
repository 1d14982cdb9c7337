"""A process that schedules over gRPC; its argument is the options as JSON, its one line how long it took."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from benchmarks import workload
from benchmarks.harness.process import die_with_parent
from benchmarks.ours.storing import run
from delaybox.wire.gen import scheduler_pb2 as pb

VARIETY = 50
"""Different batches, sent in turn."""
_METHODS = "/delaybox.v1.Scheduler/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``how``: batch, stream or unary. ``under_way``: calls at once; a stream has as many batches as it likes."""

    address: str
    how: str
    n: int
    seed: int
    under_way: int = workload.UNDER_WAY


def batches(seed: int, size: int) -> list[pb.ScheduleBatchRequest]:
    """Messages, serialized anew each time they are sent, as a caller's would be."""
    rng = random.Random(seed)
    due = workload.spread_over(rng, workload.DAY_MS)
    body = workload.payload(rng)
    return [
        pb.ScheduleBatchRequest(tasks=[pb.NewTask(payload=body, due_ms=due(i)) for i in range(size)])
        for _ in range(VARIETY)
    ]


async def _calls(channel: Any, options: Options) -> float:
    size = workload.CHUNK if options.how == "batch" else 1
    method = "ScheduleBatch" if options.how == "batch" else "Schedule"
    answer: Any = pb.ScheduleBatchResponse if options.how == "batch" else pb.ScheduleResponse
    call = channel.unary_unary(_METHODS + method, lambda message: message.SerializeToString(), answer.FromString)
    made: list[Any] = list(batches(options.seed, size))
    if options.how == "unary":
        made = [pb.ScheduleRequest(task=batch.tasks[0]) for batch in made]
    left = options.n // size

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            found = await call(made[left % VARIETY])
            if options.how == "batch" and not all(result.created for result in found.results):
                raise RuntimeError("a task was refused")

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(options.under_way)))
    return time.perf_counter() - started


async def _stream(channel: Any, options: Options) -> float:
    made = batches(options.seed, workload.CHUNK)

    async def requests() -> AsyncIterator[pb.ScheduleBatchRequest]:
        for at in range(options.n // workload.CHUNK):
            yield made[at % VARIETY]

    call = channel.stream_stream(
        _METHODS + "ScheduleStream", lambda message: message.SerializeToString(), pb.ScheduleBatchResponse.FromString
    )
    started = time.perf_counter()
    stored = 0
    async for found in call(requests()):
        stored += sum(result.created for result in found.results)
    if stored < options.n:
        raise RuntimeError(f"{stored} of {options.n} stored")
    return time.perf_counter() - started


async def main(options: Options) -> dict[str, float]:
    async with grpc.aio.insecure_channel(options.address) as channel:
        await channel.channel_ready()
        seconds = await (_stream if options.how == "stream" else _calls)(channel, options)
    return {"seconds": seconds}


if __name__ == "__main__":
    die_with_parent()
    print(json.dumps(run(main(Options(**json.loads(sys.argv[1]))))), flush=True)
