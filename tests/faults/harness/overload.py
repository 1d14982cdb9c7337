"""Callers of REST that do not wait for the node to catch up: each posts a task, gives up in time, and posts the next.

``python -m tests.faults.harness.overload <oracle> <port> <first part of their keys> <callers> <seconds>``
Prints one line of JSON: see `Seen`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from base64 import b64encode
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.faults.harness.look import payload
from tests.faults.harness.oracle import FAIL, OK, UNKNOWN, Call, Writer, now_us

PATIENCE_S = 2.0
"""How long a caller waits before it gives the request up with its connection."""
DUE_IN_MS = 1_000
RETRY_S = 0.1
"""A refused caller's pause, which is shorter than what Retry-After asks for."""
REFUSED = (429, 503)


class Seen(NamedTuple):
    """``stored``: tasks answered with 200; ``refused``: with 429 or 503; ``gave_up``: nobody answered in time.

    ``refused_p99_ms``: how long a refusal took. ``unasked``: refusals that did not say when to come again.
    """

    stored: int
    refused: int
    gave_up: int
    refused_p99_ms: float
    unasked: int
    seconds: float


class _Caller:
    def __init__(self, port: int, log: Writer, name: str) -> None:
        self._port, self._log, self._name = port, log, name
        self.count: Counter[str] = Counter()
        self.refusals_ms: list[float] = []

    async def run(self, end: float) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        turn = 0
        while time.monotonic() < end:
            key = f"{self._name}-{turn}"
            turn += 1
            due_ms, sent_us = time.time_ns() // 1_000_000 + DUE_IN_MS, now_us()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    if reader is None or writer is None:
                        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    writer.write(_request(key, due_ms))
                    status, retry_after, keeps, body = await _answer(reader)
            except (OSError, EOFError, TimeoutError):
                self._log.write(Call("schedule", key, "", due_ms, UNKNOWN, sent_us, now_us()))
                self.count["gave_up"] += 1
                keeps = False
            else:
                self._note(key, due_ms, sent_us, status, retry_after, body)
                if status in REFUSED:
                    await asyncio.sleep(RETRY_S)
            if not keeps and writer is not None:
                writer.close()
                reader = writer = None
        if writer is not None:
            writer.close()

    def _note(self, key: str, due_ms: int, sent_us: int, status: int, retry_after: bool, body: bytes) -> None:
        if status == 200:
            task_id = json.loads(body)["taskUuid"]
            self.count["stored"] += 1
            # A past due time counts from the moment of scheduling, which the id carries.
            due_ms = max(due_ms, int(task_id.replace("-", "")[:12], 16))
            self._log.write(Call("schedule", key, task_id, due_ms, OK, sent_us, now_us()))
            return
        assert status in REFUSED, (status, body)
        self.count["refused"] += 1
        self.count["unasked"] += not retry_after
        self.refusals_ms.append((now_us() - sent_us) / 1000)
        # 503 may come after the task was sent to the store.
        outcome = FAIL if status == 429 else UNKNOWN
        self._log.write(Call("schedule", key, "", due_ms, outcome, sent_us, now_us()))


def _request(key: str, due_ms: int) -> bytes:
    task = {
        "parameter": {"executionTimestamp": due_ms, "idempotencyKey": key},
        "pyload": b64encode(payload(key)).decode(),
    }
    body = json.dumps(task).encode()
    head = "POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool, bool, bytes]:
    """Status, whether it says when to come again, whether the connection is kept, body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    body = await reader.readexactly(length)
    return int(head.split(maxsplit=2)[1]), b"\r\nretry-after: " in head, b"\r\nconnection: close" not in head, body


async def main(oracle: Path, port: int, name: str, count: int, seconds: float) -> None:
    log = Writer(oracle)
    callers = [_Caller(port, log, f"{name}-{n}") for n in range(count)]
    began = time.monotonic()
    await asyncio.gather(*(caller.run(began + seconds) for caller in callers))
    counts = sum((caller.count for caller in callers), Counter[str]())
    refusals = sorted(ms for caller in callers for ms in caller.refusals_ms)
    seen = Seen(
        stored=counts["stored"],
        refused=counts["refused"],
        gave_up=counts["gave_up"],
        refused_p99_ms=refusals[int(len(refusals) * 0.99)] if refusals else 0.0,
        unasked=counts["unasked"],
        seconds=time.monotonic() - began,
    )
    print(json.dumps(seen._asdict()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
