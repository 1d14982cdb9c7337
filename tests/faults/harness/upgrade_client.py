"""A client that every version can run: schedules `step` until its input ends, and writes each answer to the oracle.

``python upgrade_client.py <oracle> <first part of its keys> <tasks a second> <node> [<node> …]``
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from delaybox import Client
from delaybox.core.errors import DelayBoxError
from tests.faults.harness.oracle import OK, UNKNOWN, Call, Writer, now_us

NAP_S = 0.1


def main(oracle: Path, name: str, per_s: float, nodes: list[str]) -> None:
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    log = Writer(oracle)
    print("ready", flush=True)
    at, n = time.monotonic(), 0
    with Client(nodes, timeout=10) as client:
        while not over.is_set():
            key = f"{name}{n}"
            n += 1
            due_ms = time.time_ns() // 1_000_000 + (n % 20) * 50
            while not _scheduled(client, log, key, due_ms):
                time.sleep(0.05)
            at += 1 / per_s
            over.wait(max(0.0, at - time.monotonic()))


def _scheduled(client: Client, log: Writer, key: str, due_ms: int) -> bool:
    """Whether it is stored, as far as the client knows: else it sends it again, with the same key."""
    sent_us = now_us()
    try:
        made = client.schedule("step", [key, NAP_S], at_ms=due_ms, key=key)
    except DelayBoxError:
        log.write(Call("schedule", key, "", due_ms, UNKNOWN, sent_us, now_us()))
        return False
    log.write(Call("schedule", key, made.id, made.due_ms, OK, sent_us, now_us()))
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4:])
