"""Dramatiq's side: `dramatiq benchmarks.peers.python.dramatiq_app`; runs in the peers' environment."""

from __future__ import annotations

import json
import os
import sys
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.harness import tally

# Of its usual middleware only what DelayBox does as well: each of the others costs time at every message.
SOCKET = f"unix://{os.environ['DELAYBOX_BENCH_SOCKET']}"
results = [Results(backend=RedisBackend(url=SOCKET), store_results=True)] if tally.results() else []
broker = RedisBroker(url=SOCKET, middleware=[Retries(), *results])
dramatiq.set_broker(broker)
tick = tally.ticker(per_thread=True)


@dramatiq.actor
def noop(text: str) -> None:
    """Counts, and nothing else. Plain: its async actors hop to another thread and back."""
    tick()


@dramatiq.actor
def answer(n: int) -> int:
    """Its argument."""
    return n


def call(count: int) -> list[float]:
    """How long each call took until its result was here, in ms, one by one."""
    found = []
    for n in range(count):
        began = time.perf_counter()
        assert answer.send(n).get_result(block=True, timeout=30_000) == n
        found.append((time.perf_counter() - began) * 1000)
    return found


def fill(count: int) -> None:
    """So many tasks for now."""
    text = "x" * 108
    for _ in range(count):
        noop.send(text)


if __name__ == "__main__":
    if sys.argv[1] == "call":
        print(json.dumps({"ms": call(int(sys.argv[2]))}))
    else:
        fill(int(sys.argv[1]))
