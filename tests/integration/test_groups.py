"""Many tasks at once on a running node, by filter and by group: REST, gRPC through Python, and the command line alike.
Also: waiting for a task's end, and stopping one that runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from delaybox import Client, Worker
from delaybox.client import InvalidTask, TaskState
from tests.command import Command
from tests.nodes import Node, node
from tests.waiting import PATIENCE_S, until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("groups")
    with node("--http-port", "0", "--data-dir", str(folder / "data"), folder=folder) as started:
        yield started


@pytest.fixture
def client(served: Node) -> Iterator[Client]:
    with Client(f"127.0.0.1:{served.grpc_port}") as made:
        yield made


@pytest.fixture
def cli(served: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("DELAYBOX_SERVER", f"http://127.0.0.1:{served.port}")
    return Command(monkeypatch, capsys)


def post(served: Node, path: str, body: Any, status: int = 200) -> Any:
    got, _, answer = served.call("POST", path, body)
    assert got == status, answer
    return answer


def test_a_group_is_found_moved_released_and_cancelled_in_each_way(served: Node, client: Client, cli: Command) -> None:
    held = {"group": "order-17", "delay": "1h", "queue": "held"}
    rest = post(served, "/v1/tasks", {**held, "payload": "a"}, 201)
    assert rest["group"] == "order-17"
    python = client.publish("b", group="order-17", delay="1h", queue="held")
    assert client.get(python.id).group == "order-17"
    assert cli("schedule", "c", "--group", "order-17", "--delay", "1h", "--queue", "held").code == 0
    other = client.publish("d", delay="1h", queue="held")

    status, _, page = served.call("GET", "/v1/tasks?group=order-17&limit=2")
    assert (status, len(page["tasks"])) == (200, 2)
    status, _, rest_of_it = served.call("GET", f"/v1/tasks?group=order-17&cursor={page['cursor']}")
    assert (len(rest_of_it["tasks"]), rest_of_it["cursor"]) == (1, None)
    assert {t.id for t in client.list(group="order-17")} == {t["id"] for t in page["tasks"] + rest_of_it["tasks"]}
    assert python.id in cli("list", "--group", "order-17").out

    looked = cli("run-now", "--group", "order-17", "--dry-run")
    assert (looked.code, looked.out.splitlines()[0]) == (0, "3 match; nothing was changed")
    assert post(served, "/v1/tasks/reschedule", {"group": "order-17", "delay": "2h"})["changed"] == 3
    done = client.cancel_many(group="order-17", labels={"no": "such"})
    assert (done.matched, done.changed) == (0, 0)
    assert cli("reschedule", "--group", "order-17", "--delay", "3h").out == "3 moved\n"
    assert client.run_now_many(group="order-17").changed == 3
    until(lambda: not list(client.list(group="order-17")))
    assert client.get(other.id).state is TaskState.SCHEDULED
    assert post(served, "/v1/tasks/cancel", {"queue": "held", "dry_run": True})["sample_ids"] == [other.id]
    assert cli("cancel", "--queue", "held").out == "1 cancelled\n"


def test_a_function_is_a_filter_in_each_way(served: Node, client: Client, cli: Command) -> None:
    mine = {client.schedule("bill", n, delay="1h").id for n in range(2)}
    client.schedule("post", 1, delay="1h")
    for path in ("/v1/tasks?function=bill", "/v1/tasks?function=bill&state=scheduled"):
        status, _, page = served.call("GET", path)
        assert (status, {task["id"] for task in page["tasks"]}) == (200, mine)
    assert {task.id for task in client.list(function="bill")} == mine
    assert all(task_id in cli("list", "--function", "bill").out for task_id in mine)
    assert post(served, "/v1/tasks/cancel", {"function": "bill", "dry_run": True})["scanned"]
    assert client.run_now_many(function="nobody").matched == 0
    assert cli("cancel", "--function", "bill").out == "2 cancelled\n"
    assert client.cancel_many(function="post").changed == 1
    status, _, page = served.call("GET", "/v1/dead?function=bill")
    assert (status, page["tasks"]) == (200, [])
    assert cli("dead", "list", "--function", "bill").out == "no dead letters\n"
    assert post(served, "/v1/dead/replay", {"function": "bill"})["replayed"] == 0


def test_dead_letters_are_brought_back_and_deleted_by_filter_in_each_way(
    served: Node, client: Client, cli: Command
) -> None:
    worker = Worker("breaks", servers=f"127.0.0.1:{served.grpc_port}")

    @worker.task(name="broken", queue="broken")
    async def broken(n: int) -> None:
        raise ValueError(str(n))

    def ids() -> set[str]:
        return {task.id for task in client.dead(queue="broken")}

    async def until_dead(count: int) -> None:
        async with worker.running():
            assert await asyncio.to_thread(until, lambda: len(ids()) == count)

    made = [
        client.schedule("broken", n, queue="broken", retry=0, labels={"n": str(n % 2)}, group=f"g{n % 3}").id
        for n in range(12)
    ]
    asyncio.run(until_dead(12))
    # Each way counts first, and changes nothing.
    counted = {"queue": "broken", "labels": {"n": "1"}, "dry_run": True}
    for what, changed in (("replay", "replayed"), ("discard", "changed")):
        answer = post(served, f"/v1/dead/{what}", counted)
        assert (answer["matched"], answer.get(changed, 0), set(answer["sample_ids"])) == (6, 0, set(made[1::2]))
        looked = cli("dead", what, "--queue", "broken", "--label", "n=1", "--dry-run")
        assert looked.out.splitlines()[0] == "6 match; nothing was changed" and made[1] in looked.out
    for call in (client.replay_dead_many, client.discard_dead_many):
        done = call(queue="broken", labels={"n": "1"}, dry_run=True)
        assert (done.matched, done.changed) == (6, 0)
        with pytest.raises(InvalidTask, match="everything=True for every one"):
            call()
    assert len(ids()) == 12

    gone = cli("dead", "discard", "--queue", "broken", "--group", "g0", "--limit", "3")
    assert gone.out == "3 discarded\n" and "there may be more than 3" in gone.err
    assert cli("dead", "discard", "--all", "--queue", "broken", "--group", "g0", "--json").json()["changed"] == 1
    assert made[1] in cli("dead", "list", "--group", "g1").out and cli("dead", "list", "--group", "g0").code == 0
    assert ids() == set(made) - set(made[0::3])
    assert client.discard_dead_many(queue="broken", group="g1", labels={"n": "1"}).changed == 2
    assert post(served, "/v1/dead/discard", {"function": "broken", "group": "g1"})["changed"] == 2
    assert ids() == set(made[2::3])
    assert post(served, "/v1/dead/replay", {"queue": "broken", "group": "g2", "labels": {"n": "0"}}) == {"replayed": 2}
    assert cli("dead", "replay", "--queue", "broken", "--group", "g2").out == "2 brought back\n"
    asyncio.run(until_dead(4))
    assert client.replay_dead_many(queue="broken", limit=3).changed == 3
    assert cli("dead", "discard", "--queue", "no-such").out == "0 discarded\n"
    assert post(served, "/v1/dead/discard", {}, 400)["field"] == "body"
    assert post(served, "/v1/dead/discard", {"queue": "broken", "limit": 0}, 400)["field"] == "limit"
    assert post(served, "/v1/dead/discard", {"queue": "broken", "all": True}, 400)["field"] == "all"
    assert post(served, "/v1/dead/discard", {"all": True})["changed"] == 1
    client.cancel_many(queue="broken")


def test_wrong_selections(served: Node, client: Client, cli: Command) -> None:
    for path, body, field in (
        ("cancel", {}, "body"),
        ("cancel", {"all": True, "queue": "mail"}, "all"),
        ("run", {"group": "a b"}, "group"),
        ("run", {"function": "a b"}, "function"),
        ("run", {"state": "running"}, "state"),
        ("run", {"queue": "mail", "limit": 0}, "limit"),
        ("run", {"queue": "mail", "free_keys": True}, "free_keys"),
        ("reschedule", {"queue": "mail"}, "at"),
    ):
        answer = post(served, f"/v1/tasks/{path}", body, 400)
        assert answer["field"] == field, answer
    assert post(served, "/v1/tasks", {"group": "x" * 129}, 400)["field"] == "group"
    with pytest.raises(InvalidTask, match="group"):
        client.publish("x", group="a b")


def test_waiting_for_the_end_and_stopping_what_runs(served: Node, client: Client, cli: Command) -> None:
    stop, over, started = threading.Event(), threading.Event(), threading.Event()
    worker = Worker("stopped", servers=f"127.0.0.1:{served.grpc_port}", grace="1s")

    @worker.task(name="wait-long")
    async def wait_long() -> None:
        started.set()
        await asyncio.sleep(60)

    @worker.task(name="quick")
    async def quick() -> int:
        return 7

    async def work() -> None:
        async with worker.running():
            await asyncio.to_thread(stop.wait)
        over.set()

    thread = threading.Thread(target=asyncio.run, args=(work(),), daemon=True)
    thread.start()
    try:
        task = client.schedule("quick", keep_result="1m", delay="300ms")
        status, _, shown = served.call("GET", f"/v1/tasks/{task.id}?wait=30s")
        assert (status, shown["state"], shown["result"]["output"]) == (200, "succeeded", "7")
        assert "succeeded" in cli("wait", task.id).out
        long = client.schedule("wait-long", keep_result="1m")
        assert started.wait(PATIENCE_S)
        status, _, shown = served.call("GET", f"/v1/tasks/{long.id}?wait=10ms")
        assert (status, shown["state"]) == (200, "running")
        assert cli("wait", long.id, "--timeout", "50ms").code == 1
        assert served.call("DELETE", f"/v1/tasks/{long.id}")[0] == 409
        assert served.call("DELETE", f"/v1/tasks/{long.id}?running=true")[0] == 202
        status, _, shown = served.call("GET", f"/v1/tasks/{long.id}?wait=30s")
        assert (status, shown["state"]) == (200, "cancelled")
        assert served.call("GET", f"/v1/tasks/{long.id}?wait=61s")[0] == 400
        assert served.call("GET", f"/v1/tasks/{long.id[:-4]}0000?wait=30s")[0] in (404, 410)
        message = client.publish("x", delay="1h")
        client.cancel(message.id)
        assert cli("wait", message.id).code == 1
        assert cli("wait", f"{message.id[:-4]}0000").code == 5
    finally:
        stop.set()
        thread.join(PATIENCE_S)
