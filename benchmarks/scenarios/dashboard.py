"""The dashboard's page Now in many browsers: one frame a second for each, with all that moves in the page, and what
that costs the process that serves them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from http.client import HTTPConnection
from pathlib import Path

from benchmarks import ours
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.report import OURS, Row, at_most

UNIT = "% of a core"
TARGET = (at_most(15),)
_ASK = b"GET /dashboard/live?span=3h HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"


def run(bench: Bench) -> None:
    readers, seconds = bench.size(1_000, 200), float(bench.size(15, 5))
    what = f"{readers} browsers on the page Now, a frame a second each"

    def delaybox() -> Row:
        with bench.server() as server, ours.serve(server) as node:
            frames, cpu_s, lasted = asyncio.run(_read(node.port, readers, seconds, rest_process(node.port)))
        share = 100 * cpu_s / lasted
        note = f"{frames / readers / lasted:.2f} frames a second and reader, CPU of the REST process alone"
        return Row(what=what, subject=OURS, value=share, unit=UNIT, note=note, bounds=TARGET)

    bench.attempt(what, OURS, UNIT, delaybox, bounds=TARGET)


def rest_process(port: int) -> int:
    """The REST process's id."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        connection.request("GET", "/v1/nodes")
        for node in json.loads(connection.getresponse().read())["nodes"]:
            for member in node["members"]:
                if member["kind"] == "rest":
                    return int(member["pid"])
        time.sleep(0.2)
    raise RuntimeError("the node does not name its REST process")


async def _read(port: int, readers: int, seconds: float, pid: int) -> tuple[int, float, float]:
    """(frames that came, CPU seconds of the process, seconds), from when all readers are there."""
    count = 0

    async def one() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_ASK)
        try:
            while line := await reader.readline():
                count += line.startswith(b"event: now")
        finally:
            writer.close()

    tasks = [asyncio.create_task(one()) for _ in range(readers)]
    while count < readers:
        await asyncio.sleep(0.1)
    frames, cpu, began = count, _cpu_s(pid), time.monotonic()
    await asyncio.sleep(seconds)
    found = (count - frames, _cpu_s(pid) - cpu, time.monotonic() - began)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


SCENARIO = Scenario("dashboard", "The dashboard in many browsers", run)
