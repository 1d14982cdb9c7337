"""Celery's side: `celery --app benchmarks.peers.python.celery_app worker`; runs in the peers' environment."""

from __future__ import annotations

import json
import os
import sys
import time

from celery import Celery

from benchmarks.harness import tally

SOCKET = f"redis+socket://{os.environ['DELAYBOX_BENCH_SOCKET']}"
app = Celery("bench", broker=SOCKET, backend=SOCKET if tally.results() else None)
app.conf.update(
    accept_content=["msgpack"],
    task_serializer="msgpack",
    result_serializer="msgpack",
    task_ignore_result=not tally.results(),
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=1_000,
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)
tick = tally.ticker()


@app.task(name="noop")
def noop(text: str) -> None:
    """Counts, and nothing else."""
    tick()


@app.task(name="answer")
def answer(n: int) -> int:
    """Its argument."""
    return n


def call(count: int) -> list[float]:
    """How long each call took until its result was here, in ms, one by one."""
    found = []
    for n in range(count):
        began = time.perf_counter()
        assert answer.delay(n).get(timeout=30) == n
        found.append((time.perf_counter() - began) * 1000)
    return found


def fill(count: int) -> None:
    """So many tasks for now."""
    text = "x" * 108
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(count):
            noop.apply_async((text,), producer=producer)


if __name__ == "__main__":
    if sys.argv[1] == "call":
        print(json.dumps({"ms": call(int(sys.argv[2]))}))
    else:
        fill(int(sys.argv[1]))
