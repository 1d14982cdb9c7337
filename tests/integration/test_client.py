"""Both clients against a node as a user starts it: over gRPC, and straight on its server."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_type_hints
from uuid import uuid4

import pytest

from delaybox import AsyncClient, Client, NewTask
from delaybox.client import (
    IdempotencyConflict,
    InvalidTask,
    KeyCancelled,
    PastDue,
    Retry,
    TaskState,
    TaskType,
    Unreachable,
)
from delaybox.client.chunks import ChunkLine
from delaybox.core.errors import ConfigError, PayloadTooLarge
from tests.nodes import Node, node
from tests.tls import Certificates
from tests.waiting import until, until_async

SOON = "1h"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("client")
    with node("--http-port", "0", "--data-dir", str(folder / "data"), folder=folder) as started:
        yield started


@pytest.fixture(params=["grpc", "redis"])
def address(request: pytest.FixtureRequest, served: Node) -> str:
    """Of the node, and of the server behind it: both ways do the same."""
    return served.address(request.param)


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as opened:
        yield opened


@pytest.fixture
def queue() -> str:
    return f"q-{uuid4().hex[:12]}"


def test_a_task_that_no_node_takes_is_refused_alone(client: Client, queue: str):
    """20 MB in one of many: the stream that they share must not break, again and again, for all of them."""

    def tasks() -> Iterator[NewTask]:
        for n in range(2_500):
            yield NewTask.publish(b"x" * (20_000_000 if n == 1_200 else 10), delay=SOON, queue=queue)

    outcomes = list(client.schedule_each(tasks()))
    refused = {at: outcome for at, outcome in enumerate(outcomes) if isinstance(outcome, Exception)}
    assert list(refused) == [1_200] and len(outcomes) == 2_500
    assert isinstance(refused[1_200], PayloadTooLarge) and "the task has 200000" in str(refused[1_200])


def test_headers_count_as_bytes_of_a_chunk():
    line = ChunkLine(1_000, time.monotonic, safe=False, filled=threading.Event(), answered=threading.Event())
    for _ in range(12):
        line.add(NewTask.publish("x", headers={"h": b"x" * 500_000}))
    line.close()
    sizes = [sum(task.ByteSize() for task in chunk.tasks) for chunk in iter(line.next, None)]
    assert len(sizes) > 1 and max(sizes) < 3_000_000


def test_a_task_is_scheduled_and_seen_as_it_was_asked_for(client: Client, queue: str):
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    handle = client.schedule(
        "mail.send",
        {"to": "a@b"},
        at=at,
        queue=queue,
        priority="high",
        labels={"customer": "c-17"},
        headers={"trace": "4bf9"},
        retry=Retry(3, initial="5s"),
        timeout="30s",
        expire_after="10m",
        keep_result="1d",
    )
    assert handle.created and handle.due == at
    task = handle.get()
    assert (task.state, task.type, task.due) == ("scheduled", TaskType.WORKER, at)
    assert (task.name, task.queue, task.priority, task.payload) == ("mail.send", queue, "high", b'{"to":"a@b"}')
    assert (task.labels, task.headers["trace"]) == ({"customer": "c-17"}, b"4bf9")
    assert (task.timeout_ms, task.expire_after_ms, task.keep_result_ms) == (30_000, 600_000, 86_400_000)


def test_a_task_is_moved_changed_run_and_cancelled(client: Client, queue: str):
    handle = client.publish("one", delay=SOON, queue=queue)
    moved = handle.reschedule(delay="2h")
    assert moved.due > handle.due + timedelta(minutes=59)
    changed = client.reschedule(handle.id, priority="low", payload={"now": 2}, labels={"a": "b"})
    assert (changed.priority, changed.payload, changed.labels) == ("low", b'{"now":2}', {"a": "b"})
    assert client.reschedule(handle.id, labels={}).labels == {}
    assert handle.cancel() is True
    assert handle.get().state is TaskState.CANCELLED
    assert client.publish("two", delay=SOON, queue=queue).run_now() <= datetime.now(UTC) + timedelta(seconds=5)


def test_keys(client: Client, queue: str):
    key = uuid4().hex
    first = client.publish("x", delay=SOON, queue=queue, key=key)
    again = client.publish("x", delay=SOON, queue=queue, key=key)
    assert (again.id, again.created) == (first.id, False)
    with pytest.raises(IdempotencyConflict) as caught:
        client.publish("other", delay=SOON, queue=queue, key=key)
    assert caught.value.task_id == first.id


def test_what_a_node_refuses_is_an_error_with_its_field(client: Client):
    with pytest.raises(InvalidTask) as caught:
        client.publish("x", queue="Not A Queue")
    assert caught.value.field == "queue"
    with pytest.raises(PastDue, match=r"at 2020-01-01T00:00:00\.000Z is \d+ days, .* in the past; give a later moment"):
        client.publish("x", at="2020-01-01T00:00:00Z", reject_past=True)
    assert client.publish("x", reject_past=True).created, "at once is not past"
    with pytest.raises(InvalidTask, match="not a UUID"):
        client.get("nonsense")


def test_many_tasks_of_which_some_are_wrong(client: Client, queue: str):
    def tasks() -> Iterator[NewTask]:
        for n in range(2_500):
            yield NewTask.publish(str(n), delay=SOON, queue=queue if n % 1000 else "Wrong Queue")

    reports: list[tuple[int, int | None]] = []
    done = client.schedule_many(tasks(), progress=lambda at, of: reports.append((at, of)))
    assert (done.created, done.refused) == (2_497, 3)
    assert [place for place, _ in done.errors] == [0, 1000, 2000]
    assert reports[-1] == (2_500, None) and len(reports) > 1
    assert len(list(client.list(queue=queue))) == 2_497
    assert len(list(client.list(queue=queue, limit=1_234))) == 1_234


def test_what_a_source_gave_is_sent_though_it_pauses(client: Client, queue: str):
    def tasks() -> Iterator[NewTask]:
        for n in range(3):
            yield NewTask.publish(str(n), delay=SOON, queue=queue)
        # The source pauses until its tasks were sent.
        until(lambda: len(list(client.list(queue=queue))) == 3)
        yield NewTask.publish("3", delay=SOON, queue=queue)

    assert client.schedule_many(tasks()).created == 4


def test_a_source_that_raises_says_how_many_were_stored(client: Client, queue: str):
    def tasks() -> Iterator[NewTask]:
        for n in range(1_234):
            yield NewTask.publish(str(n), delay=SOON, queue=queue if n else "Wrong Queue")
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="ends here") as caught:
        client.schedule_many(tasks())
    assert "1234 tasks had been answered: 1233 created, 0 there already, 1 refused" in caught.value.__notes__[0]
    found = list(client.list(queue=queue))
    assert len({task.id for task in found}) == len(found), "a task is listed twice"
    assert Counter(task.payload for task in found) == Counter(str(n).encode() for n in range(1, 1_234))


async def test_an_asynchronous_source_may_pause_and_raise_too(address: str, queue: str):
    async with AsyncClient(address) as client:

        async def tasks() -> AsyncIterator[NewTask]:
            yield NewTask.publish("0", delay=SOON, queue=queue)

            async def sent() -> bool:
                return bool([task async for task in client.list(queue=queue)])

            await until_async(sent)
            yield NewTask.publish("1", delay=SOON, queue=queue)
            raise OSError("the file ends here")

        with pytest.raises(OSError, match="ends here") as caught:
            await client.schedule_many(tasks())
        assert "2 tasks had been answered: 2 created" in caught.value.__notes__[0]


def test_a_source_without_a_length_is_shown_with_its_total(client: Client, queue: str):
    reports: list[tuple[int, int | None]] = []
    tasks = (NewTask.publish(str(n), delay=SOON, queue=queue) for n in range(10))
    client.schedule_many(tasks, total=10, progress=lambda at, of: reports.append((at, of)))
    assert reports[-1] == (10, 10)


def test_each_outcome_comes_in_the_order_of_the_tasks(client: Client, queue: str):
    tasks = [NewTask.publish(str(n), delay=SOON, queue=queue if n != 3 else "Wrong") for n in range(10)]
    outcomes = list(client.schedule_each(tasks, chunk=2))
    assert [isinstance(outcome, InvalidTask) for outcome in outcomes] == [n == 3 for n in range(10)]
    handle = outcomes[7]
    assert not isinstance(handle, Exception) and handle.get().payload == b"7"


def test_safe_scheduling_leaves_the_callers_tasks_alone(client: Client, queue: str):
    task = NewTask.publish("x", delay=SOON, queue=queue)
    assert client.schedule_many([task, task], safe=True).created == 2
    assert client.schedule(task).id != client.schedule(task).id


def test_bulk_calls_by_filter(client: Client, queue: str):
    client.schedule_many(NewTask.publish(str(n), delay=SOON, queue=queue) for n in range(30))
    counted = client.cancel_many(queue=queue, dry_run=True)
    assert (counted.matched, counted.changed) == (30, 0) and len(counted.sample_ids) == 10
    moved = client.reschedule_many(queue=queue, delay="3h", limit=10)
    assert moved.changed == 10
    assert client.cancel_many(queue=queue).changed == 30
    assert list(client.list(queue=queue)) == []
    with pytest.raises(InvalidTask, match="everything=True"):
        client.cancel_many()


def test_the_whole(client: Client, queue: str):
    handle = client.publish("x", delay="50s", queue=queue)
    # What is due in the next minute is looked at ahead, a moment later where the node has just begun.
    until(lambda: any(found.queue == queue and found.pending == 1 for found in client.queues()))
    client.set_queue(f"{queue}-waits", paused=True)
    client.publish("x", queue=f"{queue}-waits")
    until(lambda: [q for q in client.queues(f"{queue}-waits") if q.oldest_wait > timedelta(0)])
    client.unset_queue(f"{queue}-waits")
    steps = client.forecast(step="1m")
    assert sum(step.count for step in steps if abs(step.start - handle.due) < timedelta(minutes=2)) >= 1

    def kept() -> bool:
        (facts,) = client.nodes()
        assert facts["roles"] == ["api", "clock", "work"]
        found = {member["kind"]: (member["types"], member["partition_count"]) for member in facts["members"]}
        return (found.get("clock"), found.get("rest")) == ((["pub_sub"], 16), ([], 0))

    until(kept)
    needs = {need.kind: need for need in client.scaling()}
    assert needs["clock"].running == 1 and needs["clock"].needed >= 1
    assert [term.name for term in needs["clock"].terms] == ["tasks"]
    client.set_queue(f"{queue}-slow", concurrency=3)
    client.schedule("unknown", queue=f"{queue}-slow", delay="50s")

    def terms() -> list[tuple[str, int, float | None]]:
        (slow,) = client.scaling(queue=f"{queue}-slow", places=2, lead="1m")
        return [(term.name, term.due, term.most) for term in slow.terms]

    until(lambda: terms() == [(f"{queue}-slow:unknown", 1, 3.0)])
    client.cancel_many(queue=f"{queue}-slow")
    client.unset_queue(f"{queue}-slow")
    assert list(client.dead(queue=queue)) == []


def test_a_token_that_no_node_knows(tmp_path: Path):
    from delaybox.core.errors import Unauthenticated

    secret = "dbx_" + "s" * 40
    with node(
        "--http-port", "0", "--data-dir", str(tmp_path / "data"), folder=tmp_path,
        environ={"DELAYBOX_AUTH_TOKENS": f'[{{"name": "t", "token": "{secret}", "scopes": ["read"]}}]'},
    ) as guarded:  # fmt: skip
        address = f"127.0.0.1:{guarded.grpc_port}"
        with Client(address, token=secret) as known:
            known.queues()
        for token in (None, "dbx_" + "x" * 40):
            with Client(address, token=token) as unknown, pytest.raises(Unauthenticated):
                unknown.queues()


def test_tls_with_certificates_of_both_sides(tmp_path: Path):
    papers = Certificates(tmp_path)
    cert, key = papers.server
    flags = ("--http-port", "0", "--data-dir", str(tmp_path / "data"))
    environ = {
        "DELAYBOX_GRPC_SERVER_TLS_CERT_FILE": cert,
        "DELAYBOX_GRPC_SERVER_TLS_KEY_FILE": key,
        "DELAYBOX_GRPC_SERVER_TLS_CLIENT_CA_FILE": papers.ca,
    }
    with node(*flags, folder=tmp_path, environ=environ) as guarded:
        address = f"localhost:{guarded.grpc_port}"
        own: dict[str, Any] = dict(zip(("cert_file", "key_file"), papers.client, strict=True))
        with Client(address, ca_file=papers.ca, **own) as known:
            assert known.publish("x", delay=SOON).created
        strangers: dict[str, Any] = dict(zip(("cert_file", "key_file"), papers.wrong_client, strict=True))
        for options in (
            {"ca_file": papers.ca},
            {"ca_file": papers.ca, **strangers},
            {"ca_file": papers.wrong_ca, **own},
            {},
        ):
            with Client(address, retries=0, **options) as unknown, pytest.raises(Unreachable):
                unknown.publish("x")
    with pytest.raises(ConfigError, match="cannot be read"):
        Client(address, ca_file=tmp_path / "nowhere.pem")
    with pytest.raises(ConfigError, match="belong together"):
        Client(address, cert_file=cert)


def test_a_closed_client_says_so(address: str):
    client = Client(address)
    client.queues()
    client.close()
    client.close()
    with pytest.raises(Unreachable, match="closed"):
        client.queues()
    with pytest.raises(Unreachable, match="closed"):
        client.schedule_many([NewTask.publish("x")])


async def test_the_asynchronous_client_does_the_same(address: str, queue: str):
    async def tasks() -> AsyncIterator[NewTask]:
        for n in range(2_500):
            yield NewTask.publish(str(n), delay=SOON, queue=queue)

    async with AsyncClient(address) as client:
        handle = await client.schedule("f", [1, 2], delay=SOON, queue=queue)
        assert (await handle.get()).payload == b"[1,2]"
        many = await asyncio.gather(*(client.publish(str(n), delay=SOON, queue=queue) for n in range(20)))
        assert len({one.id for one in many}) == 20
        assert (await client.schedule_many(tasks())).created == 2_500
        ids = [outcome.id async for outcome in client.schedule_each([NewTask.publish("x", delay=SOON)])]  # type: ignore[union-attr]
        assert (await client.get(ids[0])).state is TaskState.SCHEDULED
        assert len([task async for task in client.list(queue=queue)]) == 2_521
        assert (await client.cancel_many(queue=queue)).changed == 2_521
        assert (await handle.get()).state is TaskState.CANCELLED
    with pytest.raises(Unreachable, match="closed"):
        await client.queues()


def test_both_clients_have_the_same_calls():
    def calls(kind: type) -> dict[str, Any]:
        return {name: value for name, value in vars(kind).items() if not name.startswith("_")}

    ordinary, asynchronous = calls(Client), calls(AsyncClient)
    assert ordinary.keys() == asynchronous.keys()
    for name, call in ordinary.items():
        mine, other = inspect.signature(call).parameters, inspect.signature(asynchronous[name]).parameters
        assert [(p.name, p.kind, p.default) for p in mine.values()] == [
            (p.name, p.kind, p.default) for p in other.values()
        ], name
        assert get_type_hints(call).keys() == get_type_hints(asynchronous[name]).keys()
        assert call.__doc__ and asynchronous[name].__doc__ == f"See `Client.{name}`."


def test_the_key_of_a_cancelled_task_is_free_again_when_the_cancel_says_so(client: Client, served: Node, queue: str):
    """The same over REST, the command, the client, and the client by filter; gRPC carries the last two."""

    def over_rest(task_id: str) -> None:
        assert served.call("DELETE", f"/v1/tasks/{task_id}?free_key=true")[0] == 204

    def by_command(task_id: str) -> None:
        arguments = ("cancel", task_id, "--free-key", "--server", f"http://127.0.0.1:{served.port}")
        subprocess.run([sys.executable, "-m", "delaybox", *arguments], check=True, timeout=60)

    def by_client(task_id: str) -> None:
        assert client.cancel(task_id, free_key=True) is True

    def by_filter(task_id: str) -> None:
        # It is cancelled already, and a filter finds only what is pending.
        client.cancel(task_id, free_key=True)
        assert client.schedule(task).created
        assert client.cancel_many(queue=queue, free_keys=True).changed == 1

    task = NewTask.publish("x", delay=SOON, queue=queue, key=queue)
    body = {"delay": SOON, "payload": "x", "queue": queue, "idempotency_key": queue}
    for free in (over_rest, by_command, by_client, by_filter):
        first = client.schedule(task)
        assert first.created, free
        first.cancel()
        with pytest.raises(KeyCancelled, match=f"{first.id}, which was cancelled.*free_key") as refused:
            client.schedule(task)
        assert refused.value.task_id == first.id
        (outcome,) = client.schedule_each([task])
        assert isinstance(outcome, KeyCancelled) and outcome.task_id == first.id
        status, _, problem = served.call("POST", "/v1/tasks", body)
        assert (status, problem["code"], problem["task_id"]) == (409, "key_cancelled", first.id)
        free(first.id)
    last = client.schedule(task)
    assert last.created
    last.cancel(free_key=True)
    status, _, problem = served.call("DELETE", f"/v1/tasks/{last.id}?free_key=maybe")
    assert (status, problem["field"]) == (400, "free_key")


def test_a_key_that_replaces_and_a_key_that_is_a_lock(client: Client, queue: str):
    debounce: dict[str, Any] = {"key": queue, "on_conflict": "replace", "max_wait": "1m"}
    first = client.schedule(NewTask.publish("1", delay="40s", queue=queue, **debounce))
    last = client.schedule(NewTask.publish("2", delay="2h", queue=queue, **debounce))
    assert (last.id, last.created) == (first.id, False)
    assert first.due + timedelta(seconds=15) < last.due < first.due + timedelta(seconds=40)
    assert client.get(first.id).payload == b"2"
    (done,) = [client.schedule_many([NewTask.publish("3", delay="2h", queue=queue, **debounce)])]
    assert (done.created, done.refused) == (0, 0) and client.get(first.id).payload == b"3"

    lock: dict[str, Any] = {"key": f"{queue}-lock", "delay": SOON, "queue": queue, "unique_while": "running"}
    locked = client.schedule(NewTask.publish("1", **lock))
    with pytest.raises(IdempotencyConflict):
        client.schedule(NewTask.publish("2", **lock))
    locked.cancel()
    assert client.schedule(NewTask.publish("2", **lock)).created
    with pytest.raises(InvalidTask, match="no idempotency key"):
        client.schedule(NewTask.publish("2", on_conflict="replace"))
    with pytest.raises(InvalidTask, match="'merge' is not a way"):
        NewTask.publish("2", key="k", on_conflict="merge")


def test_at_most_once_is_shown_and_goes_with_no_result(client: Client, queue: str):
    handle = client.schedule(NewTask.publish("1", delay=SOON, queue=queue, delivery="at_most_once"))
    assert client.get(handle.id).at_most_once
    with pytest.raises(InvalidTask, match="keep_result does not go with delivery at_most_once"):
        client.schedule(NewTask.publish("1", delivery="at_most_once", keep_result="1h"))
