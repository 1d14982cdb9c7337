"""Readiness, `store_up` and the doctor name the cause: what the server refuses, and what nobody can carry out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from delaybox.core import ids
from delaybox.core.needs import WorkerNeeds
from delaybox.core.task import NewTask, TaskType
from delaybox.core.webhook import Webhook
from delaybox.store.connect import make_client
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.nodes import Node, node
from tests.servers import RealServer
from tests.waiting import until


class Bench:
    """A node on a server of its own. ``redis`` says things to the server."""

    def __init__(self, own: Node, server: RealServer) -> None:
        self.node = own
        self.server = server
        self.redis: Any = Redis(unix_socket_path=server.unix_path)

    def ready(self) -> tuple[int, str]:
        status, _, words = self.node.call("GET", "/readyz")
        return status, words.decode()

    def until(self, words: str) -> None:
        until(lambda: words in self.ready()[1], lambda: self.ready()[1])

    def store_up(self) -> bool:
        return "delaybox_store_up 1.0" in self.node.call("GET", "/metrics")[2].decode()

    def doctor(self) -> dict[str, dict[str, str]]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "delaybox", "doctor", "--json", "--redis", self.server.url),
                *("--server", f"http://127.0.0.1:{self.node.port}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        return {found["name"]: found for found in json.loads(done.stdout)["findings"]}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    server = RealServer(["--appendonly", "yes", "--maxmemory-policy", "noeviction"])
    server.start()
    with node("--redis", server.url, "--http-port", "0", folder=tmp_path_factory.mktemp("node")) as own:
        made = Bench(own, server)
        yield made
        made.redis.close()
    server.close()


def _full_disk(b: Bench) -> None:
    # A snapshot that cannot be written stops writes just as an append-only file on a full disk does.
    (b.server.folder / "dump.rdb").mkdir()
    b.redis.config_set("save", "3600 1000000")
    b.redis.execute_command("BGSAVE")
    until(lambda: b.redis.info("persistence")["rdb_last_bgsave_status"] != "ok")


def _space_again(b: Bench) -> None:
    b.redis.config_set("save", "")


def _replica(b: Bench) -> None:
    b.redis.execute_command("REPLICAOF", "127.0.0.1", "1")


def _primary(b: Bench) -> None:
    b.redis.execute_command("REPLICAOF", "NO", "ONE")


def _full(b: Bench) -> None:
    b.redis.config_set("maxmemory", "1mb")


def _room(b: Bench) -> None:
    b.redis.config_set("maxmemory", "0")


@pytest.mark.parametrize(
    ("begin", "end", "reason", "name", "do"),
    [
        (_full_disk, _space_again, "cannot write to its disk", "server", "free space on its disk"),
        (_replica, _primary, "read-only replica", "server", "primary"),
        (_full, _room, "maxmemory", "memory", "raise maxmemory"),
    ],
    ids=["disk", "read-only", "memory"],
)
def test_the_cause_is_told_at_once(
    bench: Bench, begin: Callable[[Bench], None], end: Callable[[Bench], None], reason: str, name: str, do: str
) -> None:
    begin(bench)
    try:
        # An answer is used again for 0.2 s.
        until(lambda: bench.ready()[0] == 503, bench.ready)
        assert reason in bench.ready()[1], bench.ready()
        until(lambda: not bench.store_up())
        found = bench.doctor()
        assert reason in found["readiness"]["says"]
        assert do in found[name]["do"]
        assert found[name]["word"] == "problem"
    finally:
        end(bench)
    until(lambda: bench.ready()[0] == 200, bench.ready)
    until(bench.store_up)


async def test_what_nobody_can_carry_out_is_named(bench: Bench) -> None:
    client = make_client(bench.server.settings)
    store = await Store.open(Servers(client))
    drafts = [
        draft(NewTask(type=TaskType.WORKER, name="resize", queue="images")),
        draft(NewTask(type=TaskType.WORKER, name="resize", queue="images")),
        draft(NewTask(type=TaskType.SHELL_CMD, name="backup")),
        draft(NewTask(type=TaskType.HTTP, webhook=Webhook("https://example.com/"))),
    ]
    (stored,) = await store.schedule([Batch(0, drafts)])
    assert not isinstance(stored, BaseException), stored
    _, _, command, hook = stored
    await client.aclose()
    bench.until("2 WORKER tasks of function 'resize' in queue 'images' wait: no connected worker serves it")
    bench.until("1 SHELL_CMD task of command 'backup' in queue 'default' wait: no living node runs it")
    assert bench.ready()[0] == 200, "tasks of other kinds are taken and fired"
    for task, reason in (
        (command, "waits: no living node runs command 'backup'"),
        (hook, "waits: no living node carries out http tasks; start one with webhooks.enabled: true"),
    ):
        assert bench.node.call("GET", f"/v1/tasks/{ids.render(task.task_id)}")[2]["reason"] == reason
    unserved = {lane["type"]: lane["unserved"] for lane in bench.node.call("GET", "/v1/queues")[2]["queues"]}
    assert unserved == {"worker": ["resize"], "shell": ["backup"], "http": ["http"]}
    found = bench.doctor()["readiness"]
    assert found["word"] == "warning"
    assert "resize" in found["says"]
    assert "start a worker with these functions" in found["do"]


async def test_what_no_worker_has_the_labels_or_places_for_is_named(bench: Bench) -> None:
    client = make_client(bench.server.settings)
    store = await Store.open(Servers(client))
    needs = [WorkerNeeds(requires=("gpu", "zone=b")), WorkerNeeds(11), WorkerNeeds(4, ("gpu",))]
    drafts = [draft(NewTask(type=TaskType.WORKER, name="render", queue="film", needs=need)) for need in needs]
    await store.schedule([Batch(0, drafts)])
    await client.aclose()
    for lacks in ("label gpu and zone=b", "11 places", "label gpu and 4 places"):
        bench.until(
            f"1 WORKER task of function 'render' in queue 'film' wait: no connected worker with {lacks} serves it"
        )
    assert bench.ready()[0] == 200
    found = bench.doctor()["readiness"]
    assert found["word"] == "warning"
    assert "label gpu and zone=b" in found["says"]
    assert "`--label`" in found["do"]
