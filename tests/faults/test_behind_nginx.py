"""Nodes with tokens behind nginx with TLS, as deploy/ and docs/production.md set them up: restarted in turn under load,
no request fails and no task is lost.
"""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

import pytest

from delaybox import Client, NewTask
from tests.faults.harness.scale import scaled
from tests.nodes import Node
from tests.ports import free_port
from tests.proxy_nginx import needs_nginx, nginx
from tests.servers import RealServer
from tests.tls import Certificates

pytestmark = [pytest.mark.faults, needs_nginx, pytest.mark.timeout(scaled(300, 1_800))]

COUNT = scaled(4_000, 60_000)


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    own = RealServer(["--appendonly", "yes", "--maxmemory-policy", "noeviction"])
    own.start()
    yield own
    own.close()


class Load:
    """POSTs of tasks that are due in an hour, at a steady rate over kept connections."""

    def __init__(self, port: int, *, token: str, ca: str, per_s: float, callers: int) -> None:
        self._head = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        self._context = ssl.create_default_context(cafile=ca)
        self._port, self._each_s = port, callers / per_s
        self.made: list[str] = []
        self.answers: Counter[str] = Counter()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        connection = HTTPSConnection("localhost", self._port, timeout=30, context=self._context)
        body = json.dumps({"delay": "1h", "payload": "x"})
        at = time.monotonic()
        while not self._over.is_set():
            try:
                connection.request("POST", "/v1/tasks", body, self._head)
                answer = connection.getresponse()
                text = answer.read()
                self.answers[str(answer.status)] += 1
                if answer.status == 201:
                    self.made.append(json.loads(text)["id"])
            except (OSError, HTTPException) as error:
                self.answers[repr(error)] += 1
                connection.close()
            at += self._each_s
            self._over.wait(max(0.0, at - time.monotonic()))
        connection.close()


def new_token(*scopes: str) -> tuple[str, str]:
    """A token, and the configuration of nodes that accept it: what `delaybox token` prints."""
    command = [sys.executable, "-m", "delaybox", "token", "--name", "shop"]
    for scope in scopes:
        command += ["--scope", scope]
    written = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.search(r"^    (dbx_\S+)$.*?^(auth:.*)", written, re.MULTILINE | re.DOTALL)
    assert found is not None, written
    return found[1], found[2]


def started(server: RealServer, folder: Path, auth: str, rest: int = 0, grpc: int = 0) -> Node:
    folder.mkdir(exist_ok=True)
    settings = folder / "delaybox.yaml"
    settings.write_text(auth)
    return Node(
        *("--config", str(settings), "--redis", server.url, "--set", "processes.rest=2"),
        *("--http-port", str(rest or free_port()), "--grpc-port", str(grpc or free_port())),
        folder=folder,
    )


def is_used(node: Node) -> bool:
    """Whether tasks were posted to it since its start."""
    return bool(
        re.search(rb'^delaybox_http_requests_total\{[^}]*/v1/tasks"', node.call("GET", "/metrics")[2], re.MULTILINE)
    )


def test_no_request_fails_while_nodes_are_restarted_in_turn(server: RealServer, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    token, auth = new_token("read", "schedule", "cancel")
    nodes = [started(server, tmp_path / str(n), auth) for n in range(scaled(2, 3))]
    try:
        for node in nodes:
            node.ready()
        rest, grpc = [node.port for node in nodes], [node.grpc_port for node in nodes]
        with nginx(tmp_path / "nginx", rest, grpc, certificate=certificates.server) as (port, grpc_port):
            load = Load(port, token=token, ca=certificates.ca, per_s=scaled(100, 500), callers=8)
            try:
                for _ in range(scaled(1, 5)):
                    for n, node in enumerate(nodes):
                        assert node.stop() == 0, node.output()
                        nodes[n] = started(server, tmp_path / str(n), auth, rest[n], grpc[n]).ready()
                        # nginx leaves a node that refused alone for a while (fail_timeout), so the next one waits.
                        nodes[n].until(partial(is_used, nodes[n]))
            finally:
                load.stop()
            assert set(load.answers) == {"201"}, load.answers
            assert len(set(load.made)) == load.answers["201"]
            with Client(f"localhost:{grpc_port}", token=token, tls=True, ca_file=certificates.ca) as client:
                assert client.cancel_many(queue="default").matched == len(load.made)
                # With nginx's own limits a stream of 30,000 tasks broke after 22,000.
                many = client.schedule_many(NewTask.publish("x" * 100, delay="1h") for _ in range(COUNT))
                assert many.created == COUNT
    finally:
        for node in nodes:
            node.stop()
