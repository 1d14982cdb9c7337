"""The feed of events to a URL: signed, in order for each task, again after the URL or the node was away, bounded."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox import webhook
from delaybox.core import ids as core_ids
from delaybox.core.errors import StoreUnavailable
from delaybox.core.events import EventKind, EventQuery, EventRules, FeedItem, Missed
from delaybox.core.task import NewTask, Submitted
from delaybox.core.webhook import WebhookRules, url_of
from delaybox.service import Service
from delaybox.store import events as feed
from delaybox.store import keys
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.targets.event_mover import EventMover
from delaybox.targets.http_events import EventWebhook
from delaybox.targets.stream_events import EventStream
from tests.engines import until as until_true
from tests.nodes import node
from tests.ports import free_port
from tests.receivers import Received, Receiver, receiver, reply
from tests.servers import RealServer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HERE = WebhookRules(enabled=True, allow=("127.0.0.1",), section="events.webhook")


@pytest.fixture(scope="module")
def to() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def event(got: Received) -> dict[str, Any]:
    """The event in a request, which is signed."""
    assert got.method == "POST" and got.headers["content-type"] == "application/cloudevents+json"
    message_id = webhook.verify(got.body, got.headers, SECRET)
    found: dict[str, Any] = json.loads(got.body)
    assert message_id == found["id"].replace(".", "-")
    return found


async def submit(store: Store, service: Service, *tasks: NewTask) -> list[str]:
    answers = await service.submit_many(tasks)
    await store.events.flush()
    return [a.task_id for a in answers if isinstance(a, Submitted)]


def later(count: int, **more: Any) -> list[NewTask]:
    return [NewTask(delay_ms=600_000, **more) for _ in range(count)]


@asynccontextmanager
async def opened(client: Redis, prefix: str, **rules: Any) -> AsyncIterator[tuple[Store, Service]]:
    """A store and its service; events are written at any time."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    service = Service(store, events=EventRules(**{"always": True, **rules}))
    await feed.keep_position(store.servers, store.tags[0], "webhook", "0-0.0")
    try:
        yield store, service
    finally:
        await service.close()


@asynccontextmanager
async def sending(store: Store, url: str, **more: Any) -> AsyncIterator[EventMover]:
    """Sends the store's events to a URL."""
    outlet = EventWebhook(
        url_of(url), more.pop("rules", HERE), source="/delaybox", secrets=(SECRET,), timeout_ms=20_000, **more
    )
    mover = EventMover(store, outlet, member="this")
    mover.start()
    try:
        yield mover
    finally:
        await mover.stop()
        outlet.close()


async def arrived(to: Receiver, path: str, count: int) -> Sequence[Received]:
    return await asyncio.to_thread(to.wait, path, count)


async def test_a_killed_node_loses_no_event(
    tmp_path: Path, to: Receiver, server: RealServer, client: Redis, prefix: str
) -> None:
    (tmp_path / "config").mkdir()
    hook = {"url": to.url("/killed"), "secret": SECRET, "allow": "127.0.0.0/8", "kinds": ["scheduled", "cancelled"]}
    config = {
        "storage": {"redisUrl": server.url, "prefix": prefix},
        "httpServer": {"port": 0},
        "grpcServer": {"enabled": False},
        "roles": ["api", "clock"],
        "events": {"webhook": hook},
    }
    (tmp_path / "config" / "config.yaml").write_text(json.dumps(config))
    with node(folder=tmp_path) as first:
        first.wait_for("from position")
        store = await Store.open(Servers(client), prefix=prefix)
        service = Service(store, events=EventRules())
        store.events.wanted = True
        ids = await submit(store, service, *later(20, labels={"a": "b"}))
        got = [event(one) for one in await arrived(to, "/killed", 20)]
        assert sorted(e["subject"] for e in got) == sorted(ids)
        assert got[0]["type"] == "io.delaybox.task.scheduled" and got[0]["data"]["labels"] == {"a": "b"}
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
    # While no node is there.
    ids += await submit(store, service, *later(300))
    await service.cancel(ids[0])
    await store.events.flush()
    await service.close()
    await store.events.close()
    with node(folder=tmp_path) as second:
        # What was under way when the first one was killed may come twice, with the same id.
        await until_true(lambda: len({event(one)["id"] for one in to.to("/killed")}) >= 321)
        got = [event(one) for one in to.to("/killed")]
        assert len(got) <= 321 + 100
        by_id = {e["id"]: e["subject"] for e in got}
        assert Counter(by_id.values()) == Counter([*ids, ids[0]])
        # A task's events keep their order.
        assert [e["type"].rpartition(".")[2] for e in got if e["subject"] == ids[0]][-1] == "cancelled"
        second.until(lambda: b'events_to_webhook_total{outcome="sent"}' in second.call("GET", "/metrics")[2])
        assert SECRET not in second.output()
        to.answers["/killed"] = reply(400)
        second.call("POST", "/v1/tasks", {"payload": "x", "delay": "1h"})
        second.until(lambda: b"wait in the feed: it refuses whatever is sent" in second.call("GET", "/readyz")[2])
        assert second.call("GET", "/readyz")[0] == 200, "callers need no URL"
        waits = b'delaybox_events_waiting{way="webhook"} '
        second.until(lambda: waits + b"1.0" in second.call("GET", "/metrics")[2])
        del to.answers["/killed"]
        second.until(lambda: waits + b"0.0" in second.call("GET", "/metrics")[2])


async def test_while_the_url_does_not_answer_events_wait(
    client: Redis, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with opened(client, prefix) as (store, service):
        with receiver(port=free_port()) as first:
            port = first.port
            async with sending(store, first.url("/away")):
                ids = await submit(store, service, *later(30))
                await arrived(first, "/away", 30)
                first.stop()
                ids += await submit(store, service, *later(250))
                await until_true(lambda: "wait in the feed" in caplog.text)
                with receiver(port=port) as second:
                    second.answers["/away"] = [reply(503, retry_after="1"), reply(204)]

                    def got() -> list[dict[str, Any]]:
                        return [event(one) for one in (*first.to("/away"), *second.to("/away"))]

                    # What was under way when it went away may come twice, with the same id.
                    await until_true(lambda: {e["subject"] for e in got()} == set(ids))
                    await until_true(lambda: "again" in caplog.text)
    assert len({e["id"] for e in got()}) == 280 and len(got()) <= 280 + 100


async def test_what_is_refused_is_left_out_and_a_batch_loses_no_other(
    to: Receiver, client: Redis, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(client, prefix) as (store, service):
        ids = await submit(
            store, service, *later(60, labels={"good": "1"}), NewTask(delay_ms=600_000, labels={"bad": "1"})
        )

        async def picky(got: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(reply(422 if b'"bad"' in got.body else 200, b"x"))
            await writer.drain()

        to.answers["/picky"] = picky
        async with sending(store, to.url("/picky"), batch=100):
            await until_true(lambda: "is left out: the answer was 422" in caplog.text)
            await until_true(lambda: len(taken(to.to("/picky"))) == 60)
    requests = to.to("/picky")
    assert requests[0].headers["content-type"] == "application/cloudevents-batch+json"
    assert max(len(json.loads(one.body)) for one in requests) > 1
    assert {e["subject"] for e in taken(requests)} == set(ids[:60])
    for one in requests:
        webhook.verify(one.body, one.headers, SECRET)
        assert "." not in one.headers["webhook-id"]


async def test_a_receiver_with_a_wrong_secret_loses_no_event(
    to: Receiver, client: Redis, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    expects, got = ["whsec_" + "B" * 32], []

    async def verifying(request: Received, writer: asyncio.StreamWriter) -> None:
        """As many a library's example does."""
        try:
            webhook.verify(request.body, request.headers, expects[0])
        except webhook.NotVerified:
            writer.write(reply(400))
        else:
            found = json.loads(request.body)
            bad = found["data"].get("labels")
            got.extend([] if bad else [found["subject"]])
            writer.write(reply(422 if bad else 204))
        await writer.drain()

    async def all_came(ids: Sequence[str]) -> None:
        await until_true(lambda: set(got) == set(ids))

    to.answers["/wrong"] = verifying
    async with opened(client, prefix) as (store, service):
        ids = await submit(store, service, *later(30))
        async with sending(store, to.url("/wrong")) as mover:
            await until_true(lambda: "it refuses whatever is sent: the answer was 400 (Bad Request)" in mover.trouble)
            assert len(to.to("/wrong")) < 30, "it does not try all of them"
            expects[0] = SECRET
            await all_came(ids)
            await until_true(lambda: not mover.trouble)
            expects[0] = "whsec_" + "C" * 32
            ids += await submit(store, service, *later(30))
            await until_true(lambda: "it refuses whatever is sent" in mover.trouble)
            expects[0] = SECRET
            await all_came(ids)
            assert "is left out" not in caplog.text and caplog.text.count("it refuses whatever is sent") == 2
            # One that is bad itself keeps nothing up, also where many are.
            bad = await submit(store, service, *later(12, labels={"bad": "1"}))
            await until_true(lambda: caplog.text.count("is left out: the answer was 422") == len(bad))
            ids += await submit(store, service, *later(1))
            await all_came(ids)
            assert not mover.trouble
    # To learn that it takes anything, it gets an event again that it took: for each of the bad ones at most.
    assert len(got) <= len(ids) + len(bad) + 4


async def test_a_refused_report_of_a_gap_keeps_up_nothing_behind_it(
    to: Receiver, client: Redis, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    got: set[str] = set()

    async def strict(request: Received, writer: asyncio.StreamWriter) -> None:
        """Knows events of tasks alone, and takes none twice."""
        found = json.loads(request.body)
        bad = found["type"] == "io.delaybox.events.missed" or found["id"] in got
        got.update([] if bad else [found["id"]])
        writer.write(reply(422 if bad else 204))
        await writer.drain()

    to.answers["/strict"] = strict
    async with opened(client, prefix, entries=1_000) as (store, service):
        # This process has sent nothing yet, and the report comes before all that the feed still has.
        await feed.keep_position(store.servers, store.tags[0], "webhook", "1-0.1")
        for _ in range(3):
            await submit(store, service, *later(500))
        async with sending(store, to.url("/strict")) as mover:
            await until_true(lambda: "is left out: the answer was 422" in caplog.text)
            await until_true(lambda: len(got) > 100)
            assert not mover.trouble
            # Nor does one that it refuses later, although it does not take again what it took.
            await store.events.gap()
            await submit(store, service, *later(20))
            await until_true(lambda: caplog.text.count("is left out: the answer was 422") == 2)


def taken(requests: Sequence[Received]) -> list[dict[str, Any]]:
    """The events of batches that the picky receiver took, each once."""
    found = {e["id"]: e for one in requests if b'"bad"' not in one.body for e in json.loads(one.body)}
    return list(found.values())


async def test_what_the_feed_dropped_is_reported_and_a_filter_counts(to: Receiver, client: Redis, prefix: str) -> None:
    async with opened(client, prefix, entries=1_000) as (store, service):
        await feed.keep_position(store.servers, store.tags[0], "webhook", "1-0.1")
        for _ in range(3):
            await submit(store, service, *later(500))
        ids = await submit(store, service, *later(2, queue="mail"), *later(2))
        await service.cancel(ids[0])
        await service.cancel(ids[2])
        await store.events.flush()
        wanted = EventQuery(kinds=frozenset({EventKind.CANCELLED}), queue="mail")
        async with sending(store, to.url("/some"), wanted=wanted):
            missed, cancelled = [event(one) for one in await arrived(to, "/some", 2)]
            assert missed["type"] == "io.delaybox.events.missed"
            assert (cancelled["type"], cancelled["subject"]) == ("io.delaybox.task.cancelled", ids[0])
            newest = await feed.newest(store.servers, store.tags[0])

            async def passed() -> bool:
                reached = await feed.position(store.servers, store.tags[0], "webhook")
                return reached.partition(".")[0] == newest.partition(".")[0]

            await until_true(passed)
    assert len(to.to("/some")) == 2


class Slow:
    """An outlet that takes nothing further until it may."""

    way: feed.Way = "webhook"
    name = "a slow place"
    wanted = EventQuery()
    most = 100

    def __init__(self) -> None:
        self.got: list[FeedItem] = []
        self.may = asyncio.Event()

    def trouble(self) -> str:
        return ""

    async def send(self, items: Sequence[FeedItem]) -> None:
        self.got += items
        await self.may.wait()


async def test_what_a_small_feed_dropped_while_it_was_sent_is_reported(client: Redis, prefix: str) -> None:
    async with opened(client, prefix, entries=1_000) as (store, service):
        await submit(store, service, *later(10))
        slow = Slow()
        mover = EventMover(store, slow, member="this")
        mover.start()
        await until_true(lambda: bool(slow.got))
        for _ in range(3):
            ids = await submit(store, service, *later(500))
        slow.may.set()
        await until_true(lambda: getattr(slow.got[-1].what, "task_id", b"") == core_ids.parse(ids[-1]))
        await mover.stop()
        assert [one for one in slow.got if isinstance(one.what, Missed)]
        positions = [one.position for one in slow.got]
        assert len(positions) == len(set(positions)), "a report has no other event's id"


async def test_the_rest_of_an_entry_that_the_bounds_dropped_is_missing(client: Redis, prefix: str) -> None:
    async with opened(client, prefix) as (store, service):
        await submit(store, service, *later(200))
        servers, tag = store.servers, store.tags[0]
        entry = (await feed.newest(servers, tag)).partition(".")[0]
        await servers.ask("HSET", keys.events_sums(tag), "dropped", entry)
        assert await feed.dropped_behind(servers, tag, f"{entry}.100")
        assert not await feed.dropped_behind(servers, tag, f"{entry}.{feed.CHUNK_EVENTS}")


async def test_a_pause_in_which_nobody_read_is_reported(to: Receiver, client: Redis, prefix: str) -> None:
    async with opened(client, prefix, always=False) as (store, service):
        await submit(store, service, *later(1))
        assert await feed.newest(store.servers, store.tags[0]) == "0-0.0", "nobody reads, and nothing is written"
        async with sending(store, to.url("/paused")):
            (missed,) = [event(one) for one in await arrived(to, "/paused", 1)]
            assert missed["type"] == "io.delaybox.events.missed" and "nobody read" in missed["data"]["reason"]


async def test_a_store_that_fails_while_it_begins_does_not_keep_it_from_sending(
    to: Receiver, client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    position, failures = feed.position, [StoreUnavailable("it is away")]

    async def failing(*args: Any) -> str:
        if failures:
            raise failures.pop()
        return await position(*args)

    async with opened(client, prefix) as (store, service):
        await submit(store, service, *later(1))
        monkeypatch.setattr(feed, "position", failing)
        async with sending(store, to.url("/begun")):
            await arrived(to, "/begun", 1)


async def test_a_redis_stream_gets_each_event(client: Redis, prefix: str) -> None:
    async with opened(client, prefix) as (store, service):
        await feed.keep_position(store.servers, store.tags[0], "stream", "0-0.0")
        ids = await submit(store, service, *later(450))
        mover = EventMover(store, EventStream(store, length=300, source="/delaybox"), member="this")
        mover.start()
        key = f"{prefix}:events"

        async def last() -> bool:
            found = await store.servers.ask("XREVRANGE", key, "+", "-", "COUNT", 1)
            return bool(found) and json.loads(found[0][1][1])["subject"] == ids[-1]

        await until_true(last)
        await mover.stop()
        found = [json.loads(fields[1]) for _, fields in await store.servers.ask("XRANGE", key, "-", "+")]
        # About as many as it may keep, the latest ones, in order.
        assert 300 <= len(found) < 450
        assert [e["subject"] for e in found] == ids[-len(found) :]
        assert {e["type"] for e in found} == {"io.delaybox.task.scheduled"}


async def test_a_name_that_leads_inside_gets_nothing(
    to: Receiver, client: Redis, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def resolve(_host: str) -> Any:
        return [ip_address("127.0.0.1")]

    url = f"http://hooks.example.org:{to.port}/inside"
    rules = WebhookRules(enabled=True, section="events.webhook", ports=(to.port,))
    async with opened(client, prefix) as (store, service):
        await submit(store, service, *later(1))
        async with sending(store, url, rules=rules, resolve=resolve):
            await until_true(lambda: "add it to events.webhook.allow" in caplog.text)
    assert not to.to("/inside")
