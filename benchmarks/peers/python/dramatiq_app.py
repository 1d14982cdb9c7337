"""Dramatiq's side: `dramatiq benchmarks.peers.python.dramatiq_app`; runs in the peers' environment."""

from __future__ import annotations

import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries

from benchmarks.harness import tally

# Of its usual middleware only what DelayBox does as well: each of the others costs time at every message.
broker = RedisBroker(url=f"unix://{os.environ['DELAYBOX_BENCH_SOCKET']}", middleware=[Retries()])
dramatiq.set_broker(broker)
tick = tally.ticker(per_thread=True)


@dramatiq.actor
def noop(text: str) -> None:
    """Counts, and nothing else. Plain: its async actors hop to another thread and back."""
    tick()


def fill(count: int) -> None:
    """So many tasks for now."""
    text = "x" * 108
    for _ in range(count):
        noop.send(text)


if __name__ == "__main__":
    fill(int(sys.argv[1]))
