"""A whole node, as a user runs it, and a listener on what it publishes."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.harness.process import Child, python
from benchmarks.harness.server import BenchServer, free_port

CHANNEL = "TaskExecution"


@dataclass(frozen=True, slots=True)
class Node:
    """A running `delaybox serve`."""

    port: int
    path: str = "/task"
    grpc: str = ""
    pid: int = 0


@contextmanager
def serve(server: BenchServer, *arguments: str) -> Iterator[Node]:
    """A whole node on the bench server, from its command line; stopped by SIGTERM. ``arguments``: more of them."""
    port, grpc_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="dbx-node-") as folder:
        ports = ("--http-port", str(port), "--grpc-port", str(grpc_port))
        command = python("delaybox", "serve", "--redis", server.address, *ports, *arguments)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DELAYBOX_", "APP_"))}
        # Its own folder: no config.yaml of whoever runs the benchmark is picked up.
        with Child(command, environment=environment, folder=Path(folder)) as child:
            _wait_until_ready(child, port)
            yield Node(port, grpc=f"127.0.0.1:{grpc_port}", pid=child.pid)


@contextmanager
def work(node: Node) -> Iterator[None]:
    """A worker process on a node, with the functions of `benchmarks.ours.functions`."""
    with Child(python("delaybox.worker", "benchmarks.ours.functions:worker", "--server", node.grpc)):
        yield


def _wait_until_ready(child: Child, port: int, *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            if child.ended():
                break
        finally:
            connection.close()
        time.sleep(0.05)
    raise RuntimeError(f"delaybox serve was not ready: {child.words() or 'no word'}")


def members(server: BenchServer, name: str, **settings: int) -> Child:
    """Members of a fleet in one process (`benchmarks.ours.members`), which have begun."""
    options = {"socket": server.unix, "name": name, **settings}
    child = Child(python("benchmarks.ours.members", json.dumps(options)))
    try:
        child.read()
    except BaseException:
        child.stop()
        raise
    return child


def subscriber(server: BenchServer, *, count: int, seconds: float, each: bool = True, yielding: bool = False) -> Child:
    """A process on the execution channel; its first line says that it listens, its second what came.

    ``each``: with the lateness of every task, not only the first's and how many were early. ``yielding``: at a low
    priority, where the server's own time is what is measured.
    """
    options = {
        "socket": server.unix,
        "channel": CHANNEL,
        "count": count,
        "seconds": seconds,
        "each": each,
        "yielding": yielding,
    }
    return Child(python("benchmarks.harness.subscriber", json.dumps(options)))
