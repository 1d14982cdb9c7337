"""What a node shows to those who run it: its own use of the machine, and to systemd that it works and ends."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from delaybox import __version__
from tests.nodes import Node


def figures(node: Node) -> dict[str, float]:
    text = node.call("GET", "/metrics")[2].decode()
    return {name: float(value) for name, value in re.findall(r"^([a-z_]+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE)}


@pytest.mark.fresh  # It looks at what a start costs.
def test_a_node_tells_systemd_and_shows_what_it_uses(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(60)
        node = Node("--http-port", "0", "--data-dir", "data", folder=tmp_path, environ={"NOTIFY_SOCKET": str(address)})
        try:
            assert manager.recv(1_000).startswith(b"READY=1")
            node.ready()
            shown = figures(node)
            text = node.call("GET", "/metrics")[2].decode()
            assert re.search(
                rf'^delaybox_build_info{{python="3[0-9.]+",version="{re.escape(__version__)}"}} 1.0$',
                text,
                re.MULTILINE,
            )
            # The parent, clock, rest, grpc and the server.
            assert shown["delaybox_processes"] >= 5
            assert shown["process_resident_memory_bytes"] > 100 * 2**20
            assert shown["process_cpu_seconds_total"] > 0.5
            assert shown["process_open_fds"] > 50
            assert shown["delaybox_running_members"] >= 1
            node.call("PUT", "/v1/queues/reports", {"paused": True})
            for _ in range(3):
                assert node.call("POST", "/v1/tasks", {"payload": "x", "queue": "reports"})[0] == 201
            waiting = b'delaybox_queue_ready_tasks{queue="reports"} 3.0'
            node.until(lambda: waiting in node.call("GET", "/metrics")[2])
            oldest = re.compile(rb'^delaybox_queue_oldest_wait_seconds{queue="reports"} (\S+)$', re.MULTILINE)
            waited: list[float] = []

            def waits() -> bool:
                found = oldest.search(node.call("GET", "/metrics")[2])
                waited[:] = [] if found is None else [float(found[1])]
                return any(waited)

            node.until(waits)
            assert '\ndelaybox_queue_paused{queue="reports"} 1.0\n' in node.call("GET", "/metrics")[2].decode()
            shown = node.call("GET", "/v1/queues/reports")[2]
            assert shown["oldest_wait_ms"] == shown["types"][0]["oldest_wait_ms"] >= waited[0] * 1_000
            node.process.terminate()
            assert manager.recv(1_000).startswith(b"STOPPING=1")
            assert node.process.wait(60) == 0, node.output()
        finally:
            node.stop()
