"""Counts events in sliding windows, and closes each window on time, whether events still come or not.

    python3 sliding_window.py worker
    python3 sliding_window.py send --events 200 --over 4

Windows are 2 s long and begin every second, so each event counts in two of them. The first event of a window schedules
the window's end, under a key made of its start: whoever else asks for it gets the same task. At the end the count is
printed, with how late that was.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sqlite3
import time
from typing import Any

from delaybox import AsyncClient, Worker

SERVERS = os.environ.get("DELAYBOX_GRPC_SERVERS", "localhost:9088")
FILE = os.environ.get("WINDOWS_DB", "windows.db")
LENGTH_MS, SLIDE_MS, GRACE_MS = 2_000, 1_000, 200
"""An event is counted when it arrives up to GRACE_MS after its window's end."""

worker = Worker("windows", servers=SERVERS)


def opened() -> sqlite3.Connection:
    connection = sqlite3.connect(FILE, timeout=10, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, at_ms INTEGER)")
    return connection


def windows_of(at_ms: int) -> list[int]:
    """Starts of the windows that a moment lies in."""
    last = at_ms // SLIDE_MS * SLIDE_MS
    return [start for start in range(last - LENGTH_MS + SLIDE_MS, last + 1, SLIDE_MS) if start <= at_ms]


@worker.task(queue="windows")
def close(start_ms: int) -> None:
    """The window's end: what it holds now is the count. Said again after a crash, it says the same."""
    end_ms = start_ms + LENGTH_MS
    rows = opened()
    try:
        (count,) = rows.execute(
            "SELECT count(*) FROM events WHERE at_ms >= ? AND at_ms < ?", (start_ms, end_ms)
        ).fetchone()
    finally:
        rows.close()
    late_ms = time.time() * 1000 - end_ms - GRACE_MS
    print(f"window {start_ms}: {count} events, closed {late_ms:.0f} ms late", flush=True)


async def send(events: int, over_s: float) -> None:
    """Events as they would come from elsewhere, each noted once and told to its windows."""
    rows = opened()
    known: set[int] = set()
    async with AsyncClient(SERVERS) as client:
        for n in range(events):
            at_ms = time.time_ns() // 1_000_000
            rows.execute("INSERT INTO events VALUES (?, ?)", (f"{os.getpid()}-{n}", at_ms))
            for start in windows_of(at_ms):
                if start not in known:
                    known.add(start)
                    await client.schedule(close, [start], at_ms=start + LENGTH_MS + GRACE_MS, key=f"window-{start}")
            await asyncio.sleep(random.random() * 2 * over_s / events)
    rows.close()
    print(f"{events} events sent, in {len(known)} windows")


def main(arguments: Any) -> int:
    if arguments.what == "worker":
        return worker.run()
    asyncio.run(send(arguments.events, arguments.over))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("worker", "send"))
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--over", type=float, default=4.0, help="seconds")
    raise SystemExit(main(parser.parse_args()))
