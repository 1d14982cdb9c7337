"""A node with two processes of each kind: they share ports, work and counters, and one that dies is not missed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from delaybox.store import keys
from tests.nodes import Node, node
from tests.proc import children_of, lives
from tests.servers import RealServer
from tests.waiting import PATIENCE_S

KINDS = ("rest", "grpc", "clock", "work")
TWO_OF_EACH = [part for kind in KINDS for part in ("--set", f"processes.{kind}=2")]


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    own = RealServer(["--appendonly", "yes", "--maxmemory-policy", "noeviction"])
    own.start()
    yield own
    own.close()


def children(pid: int) -> dict[int, str]:
    """Kind by process id. What is called as the node itself is from where the tests fork its children."""
    found = {}
    own = words_of(pid)
    for child in children_of(pid):
        words = words_of(child)
        if not words or words == own:
            continue
        found[child] = next((word.rpartition(".")[2] for word in words if word.startswith("delaybox.roles.")), "")
    return found


def words_of(pid: int) -> list[str]:
    """A process's command line; empty where it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def members(server: RealServer) -> dict[str, dict[str, Any]]:
    client: Any = Redis(unix_socket_path=server.unix_path)
    with client:
        return {name.decode(): json.loads(facts) for name, facts in client.hgetall(keys.nodes("delaybox")).items()}


def ask(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_two_of_each_kind_are_one_node(server: RealServer, tmp_path: Path) -> None:
    arguments = ("--redis", server.url, "--http-port", "0", "--enable-shell", "--set", "probe.port=0", *TWO_OF_EACH)
    with node(*arguments, folder=tmp_path) as running:
        mine = children(running.process.pid)
        assert Counter(mine.values()) == {**dict.fromkeys(KINDS, 2), "probe": 1}
        # Every process has a heartbeat of its own, and all of them are one node.
        running.until(lambda: len(members(server)) == 9)
        assert Counter(facts["kind"] for facts in members(server).values()) == {
            "rest": 2, "grpc": 2, "clock": 2, "work": 2, "probe": 1,
        }  # fmt: skip
        (one,) = running.call("GET", "/v1/nodes")[2]["nodes"]
        assert one["pid"] == running.process.pid and one["roles"] == ["api", "clock", "work"]
        probe = int(running.wait_for(r"probes and metrics on http://\S+?:(\d+)")[1])
        assert ask(probe, "/livez")[0] == ask(probe, "/readyz")[0] == 200
        assert ask(probe, "/v1/nodes")[0] == 404

        for kind, port in (("rest", running.port), ("grpc", running.grpc_port)):
            both = [pid for pid, name in mine.items() if name == kind]
            # Of connections that come within milliseconds, whichever process has a processor takes most.
            assert any(min(taken_of_40(running, both, port)) >= 4 for _ in range(10)), (
                f"one of two {kind} processes took nearly all connections each time"
            )

        commands = [run(running, n) for n in range(20)]
        # A process dies: its port stays open, connections go to the other one or wait.
        for kind in ("rest", "clock", "work"):
            os.kill(next(pid for pid, name in mine.items() if name == kind), signal.SIGKILL)
        commands += [run(running, n) for n in range(20)]
        for kind in ("API", "clock", "work"):
            running.wait_for(rf"the {kind} process \d was ended by SIGKILL after \d+ s; starting it again in")
        for command in commands:
            running.until(lambda: running.call("GET", f"/v1/tasks/{command}")[2].get("state") == "succeeded")  # noqa: B023
        running.until(lambda: Counter(children(running.process.pid).values()) == Counter(mine.values()))
        # What all of them counted, the dead ones too, is one sum, wherever it is asked for. What the work process
        # that was killed had under way fired once more.
        running.until(lambda: fired(probe) == fired(running.port) >= len(commands))
        assert running.stop() == 0


def fired(port: int) -> float:
    """How many shell commands the node counts as fired; 0 if none."""
    found = re.search(
        r'^delaybox_fired_tasks_total\{mode="leased",type="SHELL_CMD"\} (\S+)$', ask(port, "/metrics")[1], re.MULTILINE
    )
    return float(found[1]) if found else 0


def taken_of_40(running: Node, pids: list[int], port: int) -> list[int]:
    """How many of 40 new connections each process took."""

    def sockets() -> list[set[str]]:
        return [
            {one for one in map(_link, Path(f"/proc/{pid}/fd").iterdir()) if one.startswith("socket:")} for pid in pids
        ]

    def fresh() -> list[int]:
        # By name and not by number: connections of an earlier count may close only now.
        return [len(now - then) for now, then in zip(sockets(), before, strict=True)]

    before = sockets()
    with contextlib.ExitStack() as held:
        for _ in range(40):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        running.until(lambda: sum(fresh()) >= 40)
        return fresh()


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""  # closed meanwhile


def run(running: Node, number: int) -> str:
    task = {"type": "shell", "payload": f"echo {number}", "keep_result": "1h"}
    status, _, answer = running.call("POST", "/v1/tasks", task)
    assert status in (200, 201, 202), answer
    return str(answer["id"])


def test_a_clock_alone_has_probes_when_it_is_given_a_port_and_dies_whole(server: RealServer, tmp_path: Path) -> None:
    alone = Node("--redis", server.url, "--roles", "clock", "--set", "probe.port=0", folder=tmp_path)
    try:
        alone.wait_for("roles: clock")
        probe = int(alone.wait_for(r"probes and metrics on http://\S+?:(\d+)")[1])
        alone.until(lambda: ask(probe, "/readyz")[0] == 200)
        assert "delaybox_lateness_seconds_count" in ask(probe, "/metrics")[1]
        assert "listening on" not in alone.output()
        mine = children(alone.process.pid)
        assert sorted(mine.values()) == ["clock", "probe"]
        alone.process.kill()
        alone.until(lambda: not any(map(lives, mine)))
    finally:
        alone.stop()
