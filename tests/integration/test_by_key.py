"""Tasks named by their idempotency key: everything that can be done by id, at every door."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from delaybox import Client
from delaybox.client import NotFinished, TaskFailed, TaskNotFound
from delaybox.core.errors import InvalidTask
from tests.command import Command
from tests.nodes import Node, node


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("by_key")
    with node("--http-port", "0", "--data-dir", str(folder / "data"), "--enable-shell", folder=folder) as started:
        yield started


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def test_by_idempotency_key_over_rest_grpc_python_and_the_command_line(served: Node, command: Command) -> None:
    at = ("--server", f"http://127.0.0.1:{served.port}")
    path = "/v1/tasks/by-key?key=order%2F17%20%26%20more"
    with Client(f"127.0.0.1:{served.grpc_port}") as api:
        key = "order/17 & more"
        made = api.publish("x", delay="1h", key=key)
        assert api.get(key=key).id == made.id == served.call("GET", path)[2]["id"]
        assert made.id in command("get", "--key", key, *at).out
        moved = api.reschedule(key=key, delay="2h").due
        assert served.call("PATCH", path, {"delay": "3h"})[2]["due_ms"] > moved.timestamp() * 1000
        assert command("reschedule", "--key", key, "--delay", "4h", *at).code == 0
        assert api.cancel(key=key)
        assert api.get(key=key).state == "cancelled"
        assert served.call("DELETE", f"{path}&free_key=true")[0] == 204
        assert served.call("GET", path)[0] == 404
        again = api.publish("x", delay="1h", key=key)
        assert again.id != made.id
        assert command("cancel", "--key", key, "--free-key", *at).code == 0
        assert command("cancel", *at).code == 2 and command("get", "id", "--key", key, *at).code == 2
        with pytest.raises(TaskNotFound, match="no task has the idempotency key"):
            api.get(key=key)
        with pytest.raises(InvalidTask, match="one of them"):
            api.get()
        assert served.call("GET", "/v1/tasks/by-key")[0] == 400


def test_what_is_run_and_waited_for_by_its_key_over_rest_python_and_the_command_line(
    served: Node, command: Command
) -> None:
    at = ("--server", f"http://127.0.0.1:{served.port}")
    with Client(f"127.0.0.1:{served.grpc_port}") as api:
        for key in ("rest", "python", "command"):
            api.shell("/bin/echo done", delay="1h", key=key, keep_result="1h")
        assert served.call("GET", "/v1/tasks/by-key?key=rest&wait=10ms")[2]["state"] == "scheduled"
        assert served.call("POST", "/v1/tasks/by-key/run?key=rest")[0] == 200
        assert served.call("GET", "/v1/tasks/by-key?key=rest&wait=60s")[2]["state"] == "succeeded"
        with pytest.raises(NotFinished):
            api.result(timeout=0, key="python")
        api.run_now(key="python")
        assert api.result(key="python") == b"done\n"
        assert command("wait", "--key", "command", "--timeout", "10ms", *at).code == 1
        assert command("run-now", "--key", "command", *at).out == "command  due now\n"
        assert command("wait", "--key", "command", *at).code == 0
        assert served.call("POST", "/v1/tasks/by-key/run?key=nobody")[0] == 404
        assert command("wait", "--key", "nobody", *at).code == 5
        with pytest.raises(TaskNotFound, match="no task has the idempotency key"):
            api.result(key="nobody")
        for wrong in (("wait",), ("wait", "id", "--key", "rest"), ("run-now", "id", "--key", "rest")):
            assert "one of them" in command(*wrong, *at).err, wrong
        with pytest.raises(InvalidTask, match="one of them"):
            api.result("id", key="rest")


def test_dead_letters_by_their_key_over_rest_python_and_the_command_line(served: Node, command: Command) -> None:
    at = ("--server", f"http://127.0.0.1:{served.port}")
    with Client(f"127.0.0.1:{served.grpc_port}") as api:

        def failed(key: str) -> None:
            with pytest.raises(TaskFailed):
                api.result(key=key)

        for key in ("dead-rest", "dead-python", "dead-command"):
            api.shell("exit 3", key=key, retry=0)
            failed(key)
        assert served.call("POST", "/v1/dead/by-key/replay?key=dead-rest")[0] == 200
        api.replay_dead(key="dead-python")
        assert command("dead", "replay", "--key", "dead-command", *at).out == "dead-command  brought back\n"
        for key in ("dead-rest", "dead-python", "dead-command"):
            failed(key)
        assert served.call("DELETE", "/v1/dead/by-key?key=dead-rest")[0] == 204
        api.discard_dead(key="dead-python")
        assert command("dead", "discard", "--key", "dead-command", *at).code == 0
        assert list(api.dead()) == []
        assert "one of them" in command("dead", "replay", "id", "--key", "dead-rest", *at).err


def test_what_runs_is_stopped_by_its_key(served: Node, command: Command) -> None:
    def rest(key: str) -> None:
        assert served.call("DELETE", f"/v1/tasks/by-key?key={key}&running=true")[0] == 202

    def shell(key: str) -> None:
        at = ("--server", f"http://127.0.0.1:{served.port}")
        assert command("cancel", "--key", key, "--running", *at).code == 0

    with Client(f"127.0.0.1:{served.grpc_port}") as api:
        for key, stop in (("stop-rest", rest), ("stop-command", shell)):
            api.shell("sleep 600", key=key)
            for event in api.watch(key=key):
                if event.state == "running":
                    stop(key)
            assert api.get(key=key).state == "cancelled"
            assert [event.state for event in api.watch(key=key, timeout=0)] == ["cancelled"]
        with pytest.raises(InvalidTask, match="one of them"):
            api.watch(["an id"], key="stop-rest")
