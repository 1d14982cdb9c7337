"""S8: a secret in every place that takes one, and then every place where it must not turn up."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.nodes import JSON, Node
from tests.ports import free_port
from tests.servers import RealServer

pytestmark = pytest.mark.fresh

PLACES = ("token", "bad-token", "password", "env", "payload", "header", "label", "command", "output", "query", "broken")
CANARY = {place: f"canary-{place}-Zq7xW2vKp9".replace("-", "_") for place in PLACES}
HIDDEN = {
    form: place
    for place, secret in CANARY.items()
    for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("="), secret.encode().hex())
}


class Watched:
    """A node full of secrets, and all that it said on the way."""

    def __init__(self, folder: Path, port: int) -> None:
        self.environ = {
            "DELAYBOX_REDIS": f"redis://:{CANARY['password']}@127.0.0.1:{port}",
            "DELAYBOX_AUTH_TOKENS": f"[{{token: {CANARY['token']}, scopes: [read, schedule, cancel, admin, shell]}}]",
            "SOMEBODYS_SECRET": CANARY["env"],
        }
        self.folder = folder
        self.node = Node("--enable-shell", "--http-port", "0", "--set", "lease=1s", "--set", "heartbeat=200ms",
                         folder=folder, environ=self.environ)  # fmt: skip
        self.errors: list[str] = []
        self.auth = JSON | {"Authorization": f"Bearer {CANARY['token']}"}

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        status, found, answer = self.node.call(method, path, body, self.auth | headers)
        if status >= 400:
            self.errors.append(f"{status} {found} {answer!r}")
        return answer

    def until(self, task_id: str, *states: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            task: dict[str, Any] = self.call("GET", f"/v1/tasks/{task_id}")
            return task if task.get("state") in states else None

        return dict(self.node.until(look))

    def run(self, *arguments: str) -> str:
        """A command's output, with the node's own configuration around it."""
        done = subprocess.run(
            [sys.executable, "-m", "delaybox", *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**os.environ, **self.environ, "DELAYBOX_TOKEN": CANARY["token"]},
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def watched(make_server: Callable[..., RealServer], tmp_path: Path) -> Iterator[tuple[Watched, RealServer]]:
    port = free_port()
    server = make_server("--port", str(port), "--requirepass", CANARY["password"], "--appendonly", "yes")
    watched = Watched(tmp_path, port)
    try:
        watched.node.ready()
        yield watched, server
    finally:
        watched.node.stop()


def hits(places: dict[str, str]) -> list[str]:
    return [f"{HIDDEN[form]} in {place}" for place, text in places.items() for form in HIDDEN if form in text]


def test_secrets_turn_up_nowhere_but_where_they_belong(watched: tuple[Watched, RealServer]):
    w, server = watched
    base = {"payload": CANARY["payload"], "headers": {"x": CANARY["header"]}, "labels": {"who": CANARY["label"]}}
    url = f"redis://:{CANARY['password']}@{server.settings.host}"

    # What works.
    w.call("POST", "/v1/tasks", base)
    w.call("POST", "/task", {"parameter": {"x": CANARY["header"]}, "pyload": base64.b64encode(b"a").decode()})
    kept = w.call("POST", "/v1/tasks", base | {"delay": "1h", "idempotency_key": "k"})["id"]
    assert w.call("GET", f"/v1/tasks/{kept}")["payload"] == CANARY["payload"]
    printing = f"echo {CANARY['output']}; echo {CANARY['output']} >&2; : {CANARY['command']}"
    shell = {"type": "shell", "keep_result": "1h", "labels": base["labels"]}
    done = w.call("POST", "/v1/tasks", shell | {"payload": printing})["id"]
    assert CANARY["output"] in json.dumps(w.until(done, "succeeded"))
    leaked = w.call("POST", "/v1/tasks", shell | {"payload": "env"})["id"]
    environment = json.dumps(w.until(leaked, "succeeded")["result"])
    assert "PATH=" in environment

    # What fails.
    once = shell | {"retry": {"max_attempts": 1}}
    for payload in (f"{printing}; exit 3", f"{CANARY['command']} --no-such", f"kill -9 $$ {CANARY['command']}", "'"):
        w.until(w.call("POST", "/v1/tasks", once | {"payload": payload})["id"], "failed")
    late = once | {"payload": f"sleep 30; {printing}", "timeout": "200ms"}
    w.until(w.call("POST", "/v1/tasks", late)["id"], "failed")
    dead = [item["id"] for item in w.call("GET", "/v1/dead")["tasks"]]
    assert len(dead) >= 4

    # What is refused.
    broken = CANARY["broken"]
    for path in ("/task", "/v1/tasks", "/v1/tasks/batch"):
        for body in (
            b'{"pyload": "%b' % broken.encode(),
            b"{%b}" % broken.encode(),
            b'"%b"' % broken.encode(),
            {"pyload": f"*{broken}"},
            {"payload_base64": f"*{broken}"},
            {"payload": [broken]},
            {"payload": {"secret": broken}},
            {"payload": broken, "payload_base64": "YQ=="},
            {"pyload": "YQ==", "payload": base64.b64encode(broken.encode()).decode()},
            {"parameter": {"x": [broken]}},
            {"headers": {"x": [broken]}},
            {"labels": {"x": {"y": broken}}},
            {"type": "shell", "payload": f"{broken}\0"},
            {"type": "shell", "payload": broken * 20_000},
            {"taskType": "SHELL_CMD", "pyload": base64.b64encode(f"{broken}\0".encode()).decode()},
            {"tasks": [{"payload": [broken]}, {"payload_base64": f"*{broken}"}]},
            {"payload": broken, "idempotency_key": "k", "delay": "1h"},
        ):
            w.call("POST", path, body)
        w.call("POST", path, {"payload": broken * 100_000})
    w.call("PATCH", f"/v1/tasks/{kept}", {"payload": [broken]})
    for path in (f"/v1/tasks?token={CANARY['query']}", f"/task?password={CANARY['query']}"):
        w.call("GET", path)
    for scheme in ("Bearer", "Basic"):
        w.call("GET", "/task", Authorization=f"{scheme} {CANARY['bad-token']}")

    # What breaks: a record that nobody can read, and a server that is gone and comes back.
    direct = redis.Redis(unix_socket_path=server.unix_path, password=CANARY["password"])
    bucket = next(key for key in direct.scan_iter("{delaybox:*}:b:*"))
    task_id = next(iter(direct.hkeys(bucket)))
    direct.hset(bucket, task_id, f"\x01{CANARY['payload']}".encode())
    fsck = w.run("fsck") + w.run("fsck", "--json") + w.run("fsck", "--repair")
    server.kill()
    w.call("POST", "/v1/tasks", base)
    w.call("GET", "/v1/tasks")
    w.node.wait_for("does not answer|Connection|connection|away")
    server.start()
    w.node.until(lambda: w.node.call("GET", "/readyz")[0] == 200)

    address = f"http://127.0.0.1:{w.node.port}"
    places = {
        "metrics": w.node.call("GET", "/metrics")[2].decode(),
        "error answers": "\n".join(w.errors),
        "a command's environment": environment,
        "fsck": fsck,
        "doctor": w.run("doctor", "--server", address) + w.run("doctor", "--server", address, "--json"),
        "stats": w.run("stats", "--server", address) + w.run("queues", "--server", address),
        "config check": w.run("config", "check"),
        "a wrong server": w.run("fsck", "--redis", url.replace("redis://", "radis://")),
        "a server's wrong port": w.run("fsck", "--redis", f"{url}:x"),
        "a server that is not there": w.run("fsck", "--redis", f"{url}:1"),
        "command lines": "\n".join(command_lines()),
    }
    assert w.node.stop() == 0
    places["log"] = w.node.output()
    assert len(w.errors) > 40
    counted = f"secrets={len(CANARY)} forms={len(HIDDEN)} places={len(places)} errors={len(w.errors)}"
    print(f"S8 {counted} hits={hits(places)}")
    assert hits(places) == []
    assert "Traceback" not in places["log"]


def command_lines() -> Iterator[str]:
    """Of every process that is the node's or ours (Linux)."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


def test_the_search_finds_what_is_there():
    secret = CANARY["payload"]
    for text in (secret, base64.b64encode(secret.encode()).decode(), secret.encode().hex()):
        assert hits({"a log": f"x {text} y"}) == ["payload in a log"]
