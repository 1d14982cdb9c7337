"""The feed of events: each kind once, filters, bounds, what a reader misses, and every way to read it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from redis.asyncio import Redis

from delaybox import AsyncClient, Client
from delaybox.client import FeedEvent
from delaybox.core.delivery import DONE, Delivery, Failed, Report
from delaybox.core.errors import InvalidTask
from delaybox.core.events import EventKind, EventQuery, EventRules, FeedItem, Missed, StoredEvent
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import NewTask, Submitted, TaskType
from delaybox.service import Service
from delaybox.service.feed import Reader
from delaybox.store import events, keys
from delaybox.store.fsck import fsck
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.engines import running
from tests.engines import until as until_true
from tests.nodes import Node, node
from tests.proxy_nginx import needs_nginx, nginx
from tests.waiting import PATIENCE_S, until

RULES = EventRules()


class Target:
    """Fails the first attempt of what is labelled so."""

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        for d in batch:
            if b"dies" in d.body:
                report([d], Failed("it dies", retryable=False))
            elif b"again" in d.body and not d.attempt:
                report([d], Failed("not yet"))
            else:
                report([d], DONE)


async def opened(client: Redis, prefix: str, rules: EventRules = RULES) -> tuple[Store, Service]:
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    return store, Service(store, events=rules)


async def submit(service: Service, *tasks: NewTask) -> list[str]:
    answers = await service.submit_many(tasks)
    return [a.task_id for a in answers if isinstance(a, Submitted)]


async def taken(reader: Reader, count: int) -> list[FeedItem]:
    found: list[FeedItem] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found += await anext(reader)
    return found


def kinds(items: Sequence[FeedItem]) -> list[str]:
    return [item.what.kind if isinstance(item.what, StoredEvent) else f"missed {item.what.count}" for item in items]


async def test_each_kind_of_event_comes_once(client: Redis, prefix: str) -> None:
    store, service = await opened(client, prefix)
    reader = await service.feed.read(EventQuery())
    once = RetryPolicy(max_attempts=3, initial_ms=1)
    own = await Store.open(Servers(client), prefix=prefix)
    async with running(own, {TaskType.HTTP: Target()}, events=RULES, retry=once, channel=f"{prefix}:out"):
        await until_true(lambda: own.events.wanted)
        await submit(
            service,
            NewTask(type=TaskType.HTTP, payload=b"fine", labels={"customer": "7"}, queue="mail"),
            NewTask(type=TaskType.HTTP, payload=b"again"),
            NewTask(type=TaskType.HTTP, payload=b"dies"),
            NewTask(payload=b"published in place"),
        )
        moved, gone = await submit(service, NewTask(delay_ms=60_000), NewTask(delay_ms=60_000, labels={"a": "b"}))
        await service.reschedule(moved, delay_ms=90_000)
        await service.cancel(gone)
        found = await taken(reader, 6 + 1 + 1 + 5 + 3 + 1 + 1)
    assert sorted(kinds(found)) == sorted(
        ["scheduled"] * 6 + ["changed", "cancelled", "retried", "dead"] + ["fired"] * 5 + ["completed"] * 3
    )
    by = {(i.what.kind, i.what.task_id): i.what for i in found if isinstance(i.what, StoredEvent)}
    mine = [e for e in by.values() if e.labels.get("customer") == "7"]
    assert {e.kind for e in mine} == {"scheduled", "fired", "completed"}
    assert all(e.lane == b"hmail" for e in mine)
    (dead,) = (e for e in by.values() if e.kind == "dead")
    (retried,) = (e for e in by.values() if e.kind == "retried")
    (cancelled,) = (e for e in by.values() if e.kind == "cancelled")
    assert (dead.reason, retried.reason, cancelled.labels) == ("it dies", "not yet", {"a": "b"})
    assert retried.attempt == 1 and retried.due_ms >= retried.at_ms
    reader.close()
    await service.close()
    assert [p for p in (await fsck(store)).problems if "events" in p] == []


async def test_nobody_reads_and_nothing_is_written(client: Redis, prefix: str) -> None:
    store, service = await opened(client, prefix)
    await submit(service, NewTask(delay_ms=60_000))
    await service.close()
    assert not store.events.wanted
    assert not await client.exists(keys.events(store.tags[0]))


async def test_a_filter_leaves_out_what_does_not_match(client: Redis, prefix: str) -> None:
    _store, service = await opened(client, prefix)
    wanted = EventQuery(
        kinds=frozenset({EventKind.SCHEDULED}), queue="mail", type=TaskType.WORKER, name="f", labels={"c": "1"}
    )
    reader = await service.feed.read(wanted)
    right: dict[str, Any] = {
        "type": TaskType.WORKER,
        "queue": "mail",
        "name": "f",
        "labels": {"c": "1"},
        "delay_ms": 60_000,
    }
    wrong: list[dict[str, Any]] = [
        {"type": TaskType.PUB_SUB, "name": ""}, {"queue": "other"}, {"name": "g"}, {"labels": {"c": "2"}},
        {"labels": {}},
    ]  # fmt: skip
    await submit(service, *(NewTask(**(right | one)) for one in wrong))
    (match,) = await submit(service, NewTask(**right))
    (item,) = await taken(reader, 1)
    assert isinstance(item.what, StoredEvent) and item.what.task_id.hex() == match.replace("-", "")
    reader.close()
    await service.close()


async def test_a_reader_goes_on_where_it_was_cut_off(client: Redis, prefix: str) -> None:
    _store, service = await opened(client, prefix)
    first = await service.feed.read(EventQuery())
    ids = await submit(service, *(NewTask(delay_ms=60_000) for _ in range(5)))
    found = await taken(first, 5)
    first.close()
    # From the middle of a chunk, and then what is new.
    again = await service.feed.read(EventQuery(), after=found[1].position)
    rest = await taken(again, 3)
    more = await submit(service, NewTask(delay_ms=60_000))
    rest += await taken(again, 1)
    assert [i.what.task_id.hex() for i in rest if isinstance(i.what, StoredEvent)] == [
        one.replace("-", "") for one in (*ids[2:], *more)
    ]
    again.close()
    with pytest.raises(InvalidTask, match="not a position"):
        await service.feed.read(EventQuery(), after="yesterday")
    await service.close()


async def test_a_slow_reader_is_bounded_and_learns_what_it_missed(client: Redis, prefix: str) -> None:
    _store, service = await opened(client, prefix, EventRules(buffer=1_000))
    reader, quick = await service.feed.read(EventQuery()), await service.feed.read(EventQuery())
    taking = asyncio.create_task(taken(quick, 2_500))
    await submit(service, *(NewTask(delay_ms=60_000) for _ in range(2_500)))
    assert kinds(await taking) == ["scheduled"] * 2_500
    await until_true(lambda: events.parse(reader.seen) >= events.parse(quick.position))
    found = await anext(reader)
    assert isinstance(found[0].what, Missed) and found[0].what.count == 1_500
    assert len(found) == 1_001 and "too slow" in found[0].what.why
    for one in (reader, quick):
        one.close()
    await service.close()


async def test_the_feed_is_bounded_and_says_so_to_those_who_come_late(client: Redis, prefix: str) -> None:
    store, service = await opened(client, prefix, EventRules(entries=1_000))
    reader = await service.feed.read(EventQuery())
    start = reader.position
    for _ in range(3):
        await submit(service, *(NewTask(delay_ms=60_000) for _ in range(600)))
        await store.events.flush()
    sums = await client.hgetall(keys.events_sums(store.tags[0]))
    assert 0 < int(sums[b"events"]) <= 1_000
    late = await service.feed.read(EventQuery(), after=start)
    assert kinds(await anext(late))[0] == "missed 0"
    assert [p for p in (await fsck(store)).problems if "events" in p] == []
    await client.hincrby(keys.events_sums(store.tags[0]), "bytes", 7)
    assert [p for p in (await fsck(store)).problems if p.startswith("events-not-counted")]
    reader.close()
    late.close()
    await service.close()


async def test_a_pause_without_readers_is_named(client: Redis, prefix: str) -> None:
    """Whoever goes on behind it learns that events are missing."""
    store, service = await opened(client, prefix)
    reader = await service.feed.read(EventQuery())
    await submit(service, NewTask(delay_ms=60_000))
    (item,) = await taken(reader, 1)
    reader.close()
    await client.delete(keys.events_wanted(store.tags[0]))
    await until_true(lambda: not service.feed.follows)
    back = await service.feed.read(EventQuery(), after=item.position)
    (gap,) = await taken(back, 1)
    assert isinstance(gap.what, Missed) and gap.what.count == 0 and "nobody read" in gap.what.why
    await service.close()
    with pytest.raises(StopAsyncIteration):
        await anext(back)


# -- whole nodes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("events")
    with node("--http-port", "0", "--data-dir", str(folder / "data"), "--enable-shell", folder=folder) as started:
        yield started


class Stream:
    """Server-sent events of a node. ``answer``: once the head is there."""

    def __init__(self, port: int, after: str = "", **query: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        headers = {"Last-Event-ID": after} if after else {}
        self._connection.request("GET", f"/v1/events?{urlencode(query)}", headers=headers)
        self.answer: HTTPResponse = self._connection.getresponse()

    def take(self, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while len(found) < count:
            line = self.answer.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
        return found

    def end(self) -> None:
        self._connection.close()


def test_server_sent_events_of_a_node(served: Node) -> None:
    stream = Stream(served.port, queue="sse", kind="scheduled,fired,completed")
    assert stream.answer.status == 200
    assert stream.answer.getheader("content-type") == "text/event-stream"
    assert stream.answer.getheader("x-accel-buffering") == "no"
    with Client(f"127.0.0.1:{served.grpc_port}") as api:
        handle = api.shell("true", queue="sse", labels={"customer": "7"})
        other = api.shell("true", queue="other")
        found = stream.take(3)
        stream.end()
        assert {one["subject"] for one in found} == {handle.id} != {other.id}
        assert {one["type"] for one in found} == {f"io.delaybox.task.{k}" for k in ("scheduled", "fired", "completed")}
        assert all(one["specversion"] == "1.0" and one["data"]["labels"] == {"customer": "7"} for one in found)
        again = Stream(served.port, after=found[0]["id"], queue="sse")
        assert [one["id"] for one in again.take(2)] == [one["id"] for one in found[1:]]
        again.end()
    assert served.call("GET", "/v1/events?kind=born")[0] == 400
    assert served.call("GET", "/v1/events?after=x")[2]["field"] == "after"


@pytest.mark.parametrize("way", ["grpc", "direct"])
def test_a_client_reads_events(served: Node, way: str) -> None:
    with Client(served.address(way)) as api:
        found: list[FeedEvent] = []
        feed: Any = api.events(queue=f"py-{way}", kinds=["scheduled", "cancelled"], labels={"c": way})

        def read() -> None:
            for event in feed:
                found.append(event)
                if len(found) == 2:
                    return

        reading = threading.Thread(target=read)
        reading.start()
        # The stream is open when its reader is counted.
        until(lambda: _readers(served) or way == "direct")
        handles = []
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < 2:
            assert reading.is_alive() and time.monotonic() < deadline, found
            handles.append(api.publish("x", delay="1h", queue=f"py-{way}", labels={"c": way}))
            handles[-1].cancel()
            reading.join(0.3)
        reading.join()
        feed.close()
        assert {one.kind for one in found} <= {"scheduled", "cancelled"}
        assert {one.task_id for one in found} <= {one.id for one in handles}
        assert all(one.queue == f"py-{way}" and one.labels == {"c": way} for one in found)


def _readers(served: Node) -> bool:
    text = served.call("GET", "/metrics")[2].decode()
    return any(line.startswith("delaybox_event_readers ") and not line.endswith(" 0.0") for line in text.splitlines())


async def test_the_client_for_asyncio_reads_events(served: Node) -> None:
    async with AsyncClient(f"127.0.0.1:{served.grpc_port}") as api:
        before = Stream(served.port, queue="aio")
        one = await api.publish("x", delay="1h", queue="aio")
        (known,) = before.take(1)
        before.end()
        await one.cancel()
        async with asyncio.timeout(PATIENCE_S):
            async for event in api.events(queue="aio", after=known["id"]):
                assert (event.kind, event.task_id) == ("cancelled", one.id)
                break


def test_the_command_line_follows_events(served: Node) -> None:
    command = [sys.executable, "-m", "delaybox", "events", "--follow", "--queue", "cli", "--json", "--count", "2"]
    with subprocess.Popen(
        [*command, "--server", f"http://127.0.0.1:{served.port}"], stdout=subprocess.PIPE, text=True
    ) as following:
        try:
            with Client(f"127.0.0.1:{served.grpc_port}") as api:
                while following.poll() is None:
                    handle = api.publish("x", delay="1h", queue="cli")
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        following.wait(0.3)
            assert following.stdout is not None
            lines = following.stdout.read().splitlines()
        finally:
            following.kill()
    assert len(lines) == 2 and handle.id
    assert all(json.loads(line)["data"]["queue"] == "cli" for line in lines)
    shown = subprocess.run(
        [*command[:4], "--queue", "cli", "--server", f"http://127.0.0.1:{served.port}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "scheduled" in shown.stdout


@needs_nginx
def test_nginx_passes_events_on_as_they_happen(served: Node, tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx", [served.port], [served.grpc_port]) as (port, _):
        stream = Stream(port, queue="nginx")
        with Client(f"127.0.0.1:{served.grpc_port}") as api:
            handle = api.publish("x", delay="1h", queue="nginx")
            assert stream.take(1)[0]["subject"] == handle.id
            handle.cancel()
            assert stream.take(1)[0]["type"] == "io.delaybox.task.cancelled"
        stream.end()


def test_a_node_that_stops_ends_its_streams(tmp_path: Path) -> None:
    with node("--http-port", "0", "--data-dir", str(tmp_path / "data"), folder=tmp_path) as started:
        stream = Stream(started.port)
        assert stream.answer.readline()
        stopping = threading.Thread(target=started.stop)
        stopping.start()
        rest = stream.answer.read()
        stopping.join()
        assert b"data:" not in rest
        assert "Traceback" not in started.output()
