"""A data pipeline in three stages: fetch, clean, store. Each stage is a task and schedules the next one.

    python3 data_pipeline.py worker
    python3 data_pipeline.py start 2026-11-01 2026-11-02 2026-11-03
    python3 data_pipeline.py report

The source fails now and then: a fetch is tried again, and waits as long as the source asks for. A day whose data cannot
be cleaned is rejected: no retry would mend it, and it stands among the dead letters with the reason. Every stage can
run twice and leave one row: the next stage has a key made of the day, and rows are replaced, never added.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

from delaybox import AsyncClient, Client, Worker
from delaybox.worker import Reject, Retry, RetryLater, current

SERVERS = os.environ.get("DELAYBOX_GRPC_SERVERS", "localhost:9088")
FILE = os.environ.get("PIPELINE_DB", "pipeline.db")
QUEUE = "pipeline"

worker = Worker("pipeline", servers=SERVERS)


class SourceBusy(Exception):
    """What the source's own client would raise."""


def read_source(day: str, call: int) -> list[str]:
    """Stands in for somebody's API: busy at the first call, broken at the second, fine at the third."""
    if call == 1:
        raise SourceBusy
    if call == 2:
        raise ConnectionError("the source closed the connection")
    return ["12.5", "7.5", "oops"] if day.endswith("-13") else ["12.5", "7.5", day[-2:]]


@worker.task(queue=QUEUE, retries=Retry(6, initial="100ms", maximum="10s"), timeout="30s")
def fetch(day: str) -> None:
    """A plain function: it runs in a thread, so it may wait on the network."""
    try:
        # Putting a task off charges no attempt, so the token counts how often it was handed out.
        lines = read_source(day, current().token)
    except SourceBusy:
        raise RetryLater("the source is busy", after=0.2) from None
    with Client(SERVERS) as client:
        client.schedule(clean, {"day": day, "lines": lines}, key=f"clean-{day}")


@worker.task(queue=QUEUE, retries=2)
async def clean(day: str, lines: list[str]) -> None:
    """Async: many at once in one process."""
    try:
        values = [float(line) for line in lines]
    except ValueError as error:
        raise Reject(f"{day} cannot be cleaned: {error}") from error
    async with AsyncClient(SERVERS) as client:
        await client.schedule(store, {"day": day, "total": sum(values)}, key=f"store-{day}")


@worker.task(queue=QUEUE)
def store(day: str, total: float) -> None:
    """Replaces the day's row: running twice leaves one."""
    with database() as rows:
        rows.execute("INSERT OR REPLACE INTO days VALUES (?, ?)", (day, total))


@contextlib.contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """What is done in it is committed at the end."""
    connection = sqlite3.connect(FILE, timeout=10)
    try:
        with connection:
            connection.execute("CREATE TABLE IF NOT EXISTS days (day TEXT PRIMARY KEY, total REAL)")
            yield connection
    finally:
        connection.close()


def main(arguments: Any) -> int:
    if arguments.what == "worker":
        return worker.run()
    if arguments.what == "start":
        with Client(SERVERS) as client:
            for day in arguments.days:
                task = client.schedule(fetch, [day], key=f"fetch-{day}")
                print(day, "started" if task.created else "was started before")
    else:
        with database() as rows:
            for day, total in rows.execute("SELECT day, total FROM days ORDER BY day"):
                print(day, total)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("worker", "start", "report"))
    parser.add_argument("days", nargs="*")
    raise SystemExit(main(parser.parse_args()))
