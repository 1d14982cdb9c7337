"""RQ's side: `rq worker --worker-class rq.worker.SimpleWorker`; runs in the peers' environment."""

from __future__ import annotations

import os
import sys

from redis import Redis
from rq import Queue

from benchmarks.harness import tally

tick = tally.ticker()


def noop(text: str) -> None:
    """Counts, and nothing else."""
    tick()


def fill(count: int) -> None:
    """So many tasks for now."""
    text = "x" * 108
    queue = Queue(connection=Redis(unix_socket_path=os.environ["DELAYBOX_BENCH_SOCKET"]))
    for at in range(0, count, 500):
        jobs = [
            Queue.prepare_data("benchmarks.peers.python.rq_app.noop", (text,), result_ttl=0)
            for _ in range(min(500, count - at))
        ]
        queue.enqueue_many(jobs)


if __name__ == "__main__":
    fill(int(sys.argv[1]))
