"""Shell tasks through whole nodes: what is refused, what is kept, and where they run."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nodes import Node, node
from tests.servers import RealServer
from tests.shared import a_prefix
from tests.shells import alive, mark
from tests.waiting import PATIENCE_S, until

COMMANDS = "workers.shell.commands=" + json.dumps({"upper": {"path": "/usr/bin/tr", "args": ["a-z", "A-Z"]}})
SECOND_CURL = b'{"parameter":{"executionTimestamp":"1720672590913","taskType":"SHELL_CMD"},"pyload":"ZGF0ZQ=="}'
ORIGINAL_AHEAD_MS = 3_000
CALLERS = 100


@pytest.fixture
def redis(server: RealServer, prefix: str) -> tuple[str, ...]:
    """Flags of nodes on one store."""
    return _flags(server, prefix)


def _flags(server: RealServer, prefix: str) -> tuple[str, ...]:
    settings = (f"storage.prefix={prefix}", "frequency=100", "grpcServer.enabled=false")
    return ("--redis", server.url, "--http-port", "0", *(word for one in settings for word in ("--set", one)))


@pytest.fixture(scope="module")
def on(server: RealServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that runs payloads and a command by its name, for tests that stop or kill none."""
    flags = (*_flags(server, a_prefix()), "--enable-shell", "--set", COMMANDS)
    with node(*flags, folder=tmp_path_factory.mktemp("on")) as started:
        yield started


def command(on: Node, text: str | bytes, **parameter: str) -> str:
    raw = text.encode() if isinstance(text, str) else text
    body = {"parameter": {"taskType": "SHELL_CMD", **parameter}, "pyload": base64.b64encode(raw).decode()}
    status, _, answer = on.call("POST", "/task", body)
    assert status == 200, answer
    return str(answer["taskUuid"])


def v1(on: Node, **task: Any) -> tuple[int, Any]:
    status, _, answer = on.call("POST", "/v1/tasks", {"type": "shell", **task})
    return status, answer


def finished(on: Node, task_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        status, _, task = on.call("GET", f"/v1/tasks/{task_id}")
        return task if status == 200 and task["state"] in ("succeeded", "failed") else None

    found: dict[str, Any] = until(look, about=lambda: f"{on.call('GET', f'/v1/tasks/{task_id}')}\n{on.output()}")
    return found


def test_it_is_off_by_default_and_says_how_to_enable_it(tmp_path: Path, redis: tuple[str, ...]):
    with node(*redis, folder=tmp_path) as plain:
        status, _, answer = plain.call("POST", "/task", SECOND_CURL)
        assert status == 403 and "--enable-shell" in answer["error"] and "workers.shell.enabled" in answer["error"]
        status, answer = v1(plain, payload="date")
        assert status == 403 and "--enable-shell" in answer["detail"] and answer["code"] == "type_disabled"
        status, answer = v1(plain, name="upper", payload="x")
        assert status == 403 and "workers.shell.commands" in answer["detail"]
        assert "shell commands" not in plain.output()


def test_what_the_system_would_refuse_is_refused_at_once(on: Node):
    for payload, words in ((b"echo a\0b", "NUL byte"), (b"#" * 131_073, "131073 bytes")):
        encoded = base64.b64encode(payload).decode()
        status, _, answer = on.call("POST", "/task", {"taskType": "SHELL_CMD", "pyload": encoded})
        assert status == 400 and words in answer["error"] and answer["error"].startswith("pyload ")
        status, answer = v1(on, payload_base64=encoded)
        assert status in (400, 422) and words in answer["detail"]
        status, answer = v1(on, name="upper", payload_base64=encoded, delay="1h")
        assert status == 201
        assert on.call("DELETE", f"/v1/tasks/{answer['id']}")[0] < 300
    status, answer = v1(on, name="lower", payload="x")
    assert status == 403 and "there are upper" in answer["detail"]


def test_results_are_kept_and_shown(on: Node):
    status, _, answer = on.call("POST", "/task", SECOND_CURL)
    assert status == 200
    task = finished(on, answer["taskUuid"])
    assert task["state"] == "succeeded" and task["result"]["exit_code"] == 0
    status, answer = v1(on, name="upper", payload="shout")
    task = finished(on, answer["id"])
    assert "SHOUT" in json.dumps(task["result"]), task
    assert task["result"]["duration_ms"] >= 0


def test_a_compatible_command_that_fails_is_not_run_again(on: Node, tmp_path: Path):
    ran = tmp_path / "ran"
    task = finished(on, command(on, f"echo $DELAYBOX_ATTEMPT >> {ran}; exit 7"))
    assert task["state"] == "failed" and task["result"]["exit_code"] == 7
    assert "exit code 7" in json.dumps(task)
    # Under /v1 it is, after a second of back-off at most, in which the first would have come again as well.
    _, answer = v1(on, payload=f"echo again >> {ran}; exit 8", retry={"max_attempts": 2})
    assert finished(on, answer["id"])["state"] == "failed"
    assert ran.read_text() == "1\nagain\nagain\n"


def test_a_node_killed_leaves_no_command_and_another_runs_it_again(tmp_path: Path, redis: tuple[str, ...]):
    ran, word = tmp_path / "ran", mark()
    script = f"export MARK={word}; echo $DELAYBOX_FENCING >> {ran}; [ $DELAYBOX_FENCING -gt 1 ] && exit; "
    script += "setsid sleep 99 & sleep 99"
    short = ("--set", "lease=1s", "--set", "heartbeat=300ms")
    with node(*redis, *short, "--enable-shell", folder=tmp_path) as first:
        task_id = command(first, script)
        until(lambda: len(alive(word)) >= 3)
        with node(*redis, *short, "--enable-shell", folder=tmp_path) as second:
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            assert finished(second, task_id)["state"] == "succeeded"
            # What the node ran is ended as soon as the node is seen to be gone, and not when its 99 s are over.
            until(lambda: not alive(word), about=lambda: str(alive(word)), within_s=30.0)
    assert ran.read_text().split() == ["1", "2"], "not retried when it fails, but run again when its node died"


def test_a_command_that_runs_is_stopped_for_whoever_cancels_it(on: Node, tmp_path: Path):
    ran, word = tmp_path / "ran", mark()
    script = f"export MARK={word}; echo begun; echo $DELAYBOX_FENCING >> {ran}; setsid sleep 99 & sleep 99"
    _, answer = v1(on, payload=script, retry={"max_attempts": 5}, keep_result="1m")
    until(lambda: len(alive(word)) >= 3)
    path = f"/v1/tasks/{answer['id']}"
    assert on.call("DELETE", path)[0] == 409
    assert on.call("DELETE", f"{path}?running=true")[0] == 202
    status, _, task = on.call("GET", f"{path}?wait=30s")
    assert (status, task["state"], task["result"]["output"]) == (200, "cancelled", "begun\n")
    assert alive(word) == [] and ran.read_text() == "1\n", "it is not tried again"


def test_a_node_that_stops_leaves_no_command(tmp_path: Path, redis: tuple[str, ...]):
    word = mark()
    with node(*redis, "--enable-shell", folder=tmp_path) as on:
        quick = command(on, f"export MARK={word}; sleep 1; exit 0")
        until(lambda: alive(word))
        on.process.send_signal(signal.SIGTERM)
        assert on.process.wait(PATIENCE_S) == 0
        assert alive(word) == []
    with node(*redis, "--enable-shell", folder=tmp_path) as again:
        assert finished(again, quick)["state"] == "succeeded", "what ran had its grace"


def test_tasks_go_only_where_they_can_run(tmp_path: Path, redis: tuple[str, ...]):
    """A front that takes both forms and runs none, a node for payloads, a node for one name, a node without any."""
    folders = [tmp_path / name for name in ("front", "payloads", "names", "none")]
    for folder in folders:
        folder.mkdir()
    names = json.dumps({"upper": {"path": "/usr/bin/tr", "args": ["a-z", "A-Z"]}})
    front_flags = ("--enable-shell", "--set", f"workers.shell.commands={names}", "--set", "workerEnable=false")
    with (
        node(*redis, *front_flags, folder=folders[0]) as front,
        node(*redis, folder=folders[3]),
    ):
        payloads = [command(front, "pwd; tr '\\0' '\\n' < /proc/$PPID/cmdline") for _ in range(10)]
        named = [v1(front, name="upper", payload="x")[1]["id"] for _ in range(10)]
        time.sleep(1.0)
        for task_id in (*payloads, *named):
            _, _, task = front.call("GET", f"/v1/tasks/{task_id}")
            assert task["state"] == "ready", "nobody here may run it"
        with node(*redis, "--set", f"workers.shell.commands={names}", folder=folders[2]) as only_names:
            for task_id in named:
                assert finished(front, task_id)["state"] == "succeeded"
            for task_id in payloads:
                assert front.call("GET", f"/v1/tasks/{task_id}")[2]["state"] == "ready"
            assert "only those named upper" in only_names.output()
            assert "handing tasks back" not in only_names.output(), "it never claims what it cannot run"
            with node(*redis, "--enable-shell", folder=folders[1]):
                for task_id in payloads:
                    task = finished(front, task_id)
                    assert task["state"] == "succeeded", task


def test_a_command_that_is_not_there_ends_the_node_with_words(tmp_path: Path, redis: tuple[str, ...]):
    gone = json.dumps({"gone": {"path": "/nowhere/at/all"}})
    started = Node(*redis, "--set", f"workers.shell.commands={gone}", folder=tmp_path)
    assert started.process.wait(PATIENCE_S) == 2
    assert "workers.shell.commands: gone is /nowhere/at/all, which this user cannot run" in started.output()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the original's flow is made of curls")
def test_the_originals_parallel_curls(on: Node, tmp_path: Path):
    """Its load: commands at one instant ahead, from parallel curls; each runs once, none early."""
    ran = tmp_path / "ran"
    due_ms = int(time.time() * 1000) + ORIGINAL_AHEAD_MS
    body = json.dumps(
        {
            "taskType": "SHELL_CMD",
            "parameter": {"executionTimestamp": str(due_ms)},
            "pyload": base64.b64encode(f"date +%s%3N >> {ran}".encode()).decode(),
        }
    )
    (tmp_path / "body").write_text(body)
    subprocess.run(
        f"seq {CALLERS} | xargs -P 20 -I% curl -sf -o /dev/null -H 'Content-Type: application/json' "
        f"-d @body http://localhost:{on.port}/task",
        shell=True,
        check=True,
        cwd=tmp_path,
    )
    assert not ran.exists() or time.time() * 1000 >= due_ms
    until(lambda: ran.exists() and len(ran.read_text().split()) >= CALLERS, on.output)
    # Nothing is left that could run once more.
    until(lambda: on.call("GET", "/task")[2] == [])
    times = [int(line) for line in ran.read_text().split()]
    assert len(times) == CALLERS and min(times) >= due_ms
