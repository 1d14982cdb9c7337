"""Reads a Kafka topic with a stock consumer and notes how late each task arrives.

A process of its own: its clock stands beside the socket. Prints ``{"ready": true}`` once it has its partitions, then
one line with what came: the lateness of every task in ms, or without ``each`` only how many and how long it took.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition


def due_of_key(key: bytes) -> int:
    """The due time in a task's id."""
    return int(key[:8] + key[9:13], 16)


def read(options: dict[str, Any]) -> dict[str, Any]:
    """Until ``count`` messages came, or ``seconds`` went by."""
    consumer = Consumer(
        {
            "bootstrap.servers": options["bootstrap"],
            "group.id": "bench",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 5,
        }
    )
    topic = options["topic"]
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(int(options["partitions"]))])
    late: list[float] = []
    n, each, count = 0, bool(options["each"]), int(options["count"])
    # Connects; where messages wait already, the first comes along.
    messages = [consumer.poll(1.0)]
    print(json.dumps({"ready": True}), flush=True)
    deadline = time.monotonic() + float(options["seconds"])
    started = 0.0
    while n < count and time.monotonic() < deadline:
        now_ms = time.time_ns() / 1e6
        for message in messages:
            if message is None or message.error() is not None:
                continue
            if each and not message.key():
                continue  # was there before (harness.kafka.used_topic)
            started = started or time.monotonic()
            n += 1
            if each:
                late.append(now_ms - due_of_key(message.key() or b""))
        # One at a time where time counts: `consume` waits until it has as many as were asked for.
        messages = [consumer.poll(0.1)] if each else consumer.consume(1_000, 0.1)
    seconds = time.monotonic() - started
    consumer.close()
    return {"n": n, "seconds": seconds, "lateness_ms": late}


if __name__ == "__main__":
    print(json.dumps(read(json.loads(sys.argv[1]))), flush=True)
