"""What one door refuses all refuse: REST, gRPC, the command line, and Python over gRPC and straight on Redis."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from delaybox import Client
from delaybox.core.errors import InvalidTask
from delaybox.core.limits import DEFAULT_REPLAY
from delaybox.core.task import NewTask, TaskType
from delaybox.store import rules
from delaybox.store.connect import make_client
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, ClaimLimits, Store, Verdict
from delaybox.wire.gen import scheduler_pb2 as pb
from tests.command import Command, Done
from tests.nodes import Node, node
from tests.rpc import Rpc, refused
from tests.servers import RealServer
from tests.shared import a_prefix

COMMANDS = 'workers.shell.commands={"list": {"path": "/bin/ls"}}'


@pytest.fixture(scope="module")
def prefix() -> str:
    """One for the module's tests, which share a node."""
    return a_prefix()


@pytest.fixture(scope="module")
def on(server: RealServer, prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    flags = ("--redis", server.url, "--set", f"storage.prefix={prefix}", "--http-port", "0", "--enable-shell")
    with node(*flags, "--set", COMMANDS, folder=tmp_path_factory.mktemp("refusals")) as started:
        yield started


@pytest.fixture(params=["grpc", "redis"])
def client(request: pytest.FixtureRequest, on: Node, server: RealServer, prefix: str) -> Iterator[Client]:
    with Client(f"127.0.0.1:{on.grpc_port}" if request.param == "grpc" else f"{server.url}?prefix={prefix}") as found:
        yield found


@pytest.fixture
def cli(on: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    command = Command(monkeypatch, capsys)
    return lambda *words: command(*words, "--server", f"http://127.0.0.1:{on.port}")


@pytest.fixture
async def redis(server: RealServer) -> AsyncIterator[Redis]:
    found = make_client(server.settings)
    yield found
    await found.aclose()


async def over_grpc(on: Node, method: str, request: Any) -> tuple[str, str]:
    """The field and the text with which a call is refused."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{on.grpc_port}") as channel:
        found = await refused(getattr(Rpc(None, channel).scheduler, method)(request))  # type: ignore[arg-type]
        assert found.status is grpc.StatusCode.INVALID_ARGUMENT
        return found.field, found.text


async def test_a_shell_task_without_a_command(on: Node, client: Client, cli: Callable[..., Done]) -> None:
    words = "is empty, so there is no command to run"
    for body in ({}, {"payload": ""}, {"payload": " \n"}, {"payload_base64": ""}):
        status, _, answer = on.call("POST", "/v1/tasks", {"type": "shell", **body})
        assert (status, answer["field"]) == (400, "payload") and words in answer["detail"], answer
    status, _, answer = on.call("POST", "/v1/tasks/batch", {"tasks": [{"type": "shell"}, {"payload": "x"}]})
    assert [item["status"] for item in answer["items"]] == [400, 201]
    new = pb.NewTask(type=pb.TASK_TYPE_SHELL_CMD, delay_ms=60_000)
    field, text = await over_grpc(on, "Schedule", pb.ScheduleRequest(task=new))
    assert field == "task.payload" and words in text
    for arguments in ((), ("",), ("--delay", "1h")):
        done = cli("schedule", "--type", "shell", *arguments)
        assert done.code == 2 and words in done.err
    for command in ("", b"", " \n"):
        with pytest.raises(InvalidTask, match="command is empty; give one for sh, or with name=") as caught:
            client.shell(command)
        assert caught.value.field == "command"
    # A command that is known by its name needs no payload.
    assert client.shell(name="list", delay="1h").cancel()
    assert cli("schedule", "--type", "shell", "--name", "list", "--delay", "1h").code == 0
    kept = on.call("POST", "/v1/tasks", {"type": "shell", "payload": "true", "delay": "1h"})[2]["id"]
    status, _, answer = on.call("PATCH", f"/v1/tasks/{kept}", {"payload": ""})
    assert (status, answer["field"]) == (400, "payload") and words in answer["detail"]


async def test_a_burst_without_a_rate(
    on: Node, client: Client, cli: Callable[..., Done], redis: Redis, prefix: str
) -> None:
    words = "burst 5 has no rate; give a rate with it, such as '100/s'"
    status, _, answer = on.call("PATCH", "/v1/queues/b", {"burst": 5})
    assert (status, answer["field"], answer["detail"]) == (400, "burst", words)
    status, _, answer = on.call("PUT", "/v1/queues/b", {"burst": 5, "concurrency": 2})
    assert (status, answer["field"]) == (400, "burst")
    status, _, answer = on.call("PATCH", "/v1/queues/*", {"burst": 5})
    assert (status, answer["field"]) == (400, "burst")
    asked = pb.SetQueueRequest(queue="b", rules=pb.Rules(burst=5))
    assert await over_grpc(on, "SetQueue", asked) == ("rules.burst", words)
    done = cli("queues", "set", "b", "--burst", "5")
    assert done.code == 2 and done.err == f"error: --{words}\n"
    with pytest.raises(InvalidTask, match="burst 5 has no rate"):
        client.set_queue("b", burst=5)
    assert not on.call("GET", "/v1/queues/b")[2]["rules"]
    # Whichever rate holds for the queue: its own, that of all others, or the one behind a pause.
    assert client.set_queue("b", rate="9/s", burst=5).burst == 5
    assert client.set_queue("b", resume_rate="9/s", burst=5, replace=True).burst == 5
    assert client.set_queue("*", burst=5).burst == 5, "for a queue that has a rate"
    client.unset_queue("b")
    client.unset_queue("*")
    client.set_queue("*", rate="9/s")
    assert client.set_queue("b", burst=5).burst == 5
    # What is stored so stays as it is, and can be read, changed and cleared.
    client.unset_queue("*")
    (stored,) = client.queue_rules("b")
    assert stored.burst == 5 and stored.rate is None
    assert client.set_queue("b", weight=2).burst == 5
    store = await Store.open(Servers(redis), prefix=prefix)
    before = await rules.one(store, "b")
    word, _ = await rules.change(store, [("b", before.raw, b'{"burst":7,"of_a_newer_version":1}')])
    assert word == "stored"
    shown = on.call("GET", "/v1/queues/b")[2]
    assert shown["rules"] == {"burst": 7}
    assert on.call("PATCH", "/v1/queues/b", {"paused": True})[2]["rules"] == {"burst": 7, "paused": True}
    client.unset_queue("b")


async def dead_letters(redis: Redis, prefix: str, count: int) -> None:
    store = await Store.open(Servers(redis), prefix=prefix)
    for _ in range(0, count, 400):
        drafts = [draft(NewTask(type=TaskType.WORKER, queue="dead", name="f")) for _ in range(400)]
        assert not isinstance((await store.schedule([Batch(0, drafts)]))[0], BaseException)
    left = count
    while left:
        lease = os.urandom(20)
        found = (await store.claim(0, lease, ClaimLimits(slots=500, types="w"))).leased[::2]
        await store.fail(0, lease, [Verdict(task_id, None, "broke") for task_id in found])
        left -= len(found)


async def test_the_limit_of_a_change_of_many_dead_letters(
    on: Node, client: Client, cli: Callable[..., Done], redis: Redis, prefix: str
) -> None:
    """Over REST and on the command line 1,000 unless asked otherwise, 10,000 at most. Over gRPC and in Python 0 is no
    limit, as in all calls on many, and as it says."""
    count = DEFAULT_REPLAY + 200
    await dead_letters(redis, prefix, count)
    for what in ("replay", "discard"):
        for wrong in (0, -1, 10_001):
            status, _, answer = on.call("POST", f"/v1/dead/{what}", {"queue": "dead", "limit": wrong})
            assert (status, answer["field"]) == (400, "limit") and "from 1 to 10000" in answer["detail"]
        done = cli("dead", what, "--queue", "dead", "--limit", "0")
        assert done.code == 2 and "--limit" in done.err
        matched = on.call("POST", f"/v1/dead/{what}", {"queue": "dead", "dry_run": True})[2]["matched"]
        assert matched == DEFAULT_REPLAY
    for call in (client.replay_dead_many, client.discard_dead_many):
        assert call(queue="dead", dry_run=True).matched == call(queue="dead", dry_run=True, limit=0).matched == count
        assert call(queue="dead", dry_run=True, limit=7).matched == 7
        with pytest.raises(InvalidTask, match="limit -1 is out of range; give a number from 1 on, or 0 for no limit"):
            call(queue="dead", limit=-1)
    assert (client.discard_dead_many(queue="dead", limit=0)).changed == count
    assert client.discard_dead_many(queue="dead").changed == 0
