"""T26 with a whole fleet: nodes restarted in turn, with default graces, while workers run tasks that outlast these."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from delaybox import Client
from tests.faults.harness.scale import FULL
from tests.nodes import Node, node
from tests.ports import free_ports
from tests.servers import RealServer
from tests.waiting import PATIENCE_S, until
from tests.worker_app import Oracle

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not FULL, reason="starting whole nodes takes longer than a short run may"),
]

NODES = 3
KILLED_AFTER_S = 10.0
"""What orchestrators give a node to end by itself."""
LONG_S = 12.0


@contextlib.contextmanager
def worker(servers: list[str], oracle: Path, folder: Path) -> Iterator[None]:
    """A process with the functions of tests.worker_app, connected to all of these."""
    named = [part for server in servers for part in ("--server", server)]
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "delaybox.worker", "tests.worker_app", *named, "--concurrency", "50"],
            stderr=log,
            stdout=log,
            env={**os.environ, "ORACLE": str(oracle)},
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_a_rolling_restart_of_all_nodes_hands_nothing_out_twice(
    tmp_path: Path, make_server: Callable[..., RealServer]
) -> None:
    store, oracle = make_server(), Oracle(tmp_path / "oracle")
    stops_s: list[float] = []
    with contextlib.ExitStack() as stack:

        def start(port: int) -> Node:
            arguments = ("--http-port", "0", "--grpc-port", str(port), "--redis", store.url)
            return stack.enter_context(node(*arguments, folder=tmp_path))

        ports = free_ports(NODES)
        nodes = [start(port) for port in ports]
        addresses = [f"127.0.0.1:{port}" for port in ports]
        stack.enter_context(worker(addresses, oracle.file, tmp_path))
        client = stack.enter_context(Client(addresses, safe=True))
        made: list[str] = []

        def load(seconds: float) -> None:
            """Tasks that are shorter than the graces, and some that are longer."""
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                made.extend(client.schedule("naps", 0.2).id for _ in range(5))
                made.append(client.schedule("naps", LONG_S).id)
                time.sleep(0.3)

        load(2.0)
        until(lambda: len(oracle.begun()) >= 10)
        for n, port in enumerate(ports):
            began = time.monotonic()
            nodes[n].process.send_signal(signal.SIGTERM)
            load(1.0)
            assert nodes[n].process.wait(KILLED_AFTER_S + 20) == 0, nodes[n].output()
            stops_s.append(time.monotonic() - began)
            nodes[n] = start(port)
            load(1.0)
        until(lambda: set(made) <= set(oracle.ended()), within_s=120)
        dead = list(client.dead())
    assert {task: len(tokens) for task, tokens in oracle.begun().items()} == dict.fromkeys(made, 1)
    assert not dead
    assert max(stops_s) < KILLED_AFTER_S, stops_s
