"""Many clients in one process, straight on the server: each schedules a task a turn, and a turn is a line of its input.

``python -m tests.faults.harness.storm_clients <oracle> <server's URL> <first part of their keys> <clients>``
Prints ``<turn> stored`` when each client's task of that turn is stored.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from delaybox import AsyncClient
from delaybox.core.errors import DelayBoxError
from tests.faults.harness.oracle import OK, UNKNOWN, Call, Writer, now_us

AGAIN_S = 0.05
"""What a program waits that sends again by itself what its client gave up."""
DUE_IN_MS = 500


async def main(oracle: Path, url: str, name: str, count: int) -> None:
    log = Writer(oracle)
    clients = [AsyncClient(url, timeout=5) for _ in range(count)]
    print("ready", flush=True)
    turn = 0
    while await asyncio.to_thread(sys.stdin.readline):
        await asyncio.gather(*(_stored(client, log, f"{name}{n}-{turn}") for n, client in enumerate(clients)))
        print(f"{turn} stored", flush=True)
        turn += 1
    for client in clients:
        await client.close()


async def _stored(client: AsyncClient, log: Writer, key: str) -> None:
    due_ms = time.time_ns() // 1_000_000 + DUE_IN_MS
    while True:
        sent_us = now_us()
        try:
            made = await client.schedule("step", [{"k": key}], at_ms=due_ms, key=key)
        except DelayBoxError:
            log.write(Call("schedule", key, "", due_ms, UNKNOWN, sent_us, now_us()))
            await asyncio.sleep(AGAIN_S)
        else:
            log.write(Call("schedule", key, made.id, made.due_ms, OK, sent_us, now_us()))
            return


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
