"""The target of HTTP tasks against real servers: what goes out, what becomes of each answer, where nothing may go."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from email.utils import formatdate
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import pytest

from delaybox import webhook
from delaybox.core.addresses import Address
from delaybox.core.delivery import Delivery, Done, Failed, HandBack, Outcome
from delaybox.core.lane import lane_of
from delaybox.core.queue import LiveRules, QueueRules, RuleBook
from delaybox.core.task import NO_RESULT, NewTask, TaskType
from delaybox.core.webhook import Webhook, WebhookRules
from delaybox.targets.http import HttpOptions, HttpTarget
from delaybox.targets.http_client import Resolve
from delaybox.targets.http_hosts import FAILURES, Host, NoRoom
from delaybox.wire import body
from tests.receivers import Received, Receiver, receiver, reply
from tests.tls import Certificates
from tests.waiting import until_async

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
HERE = WebhookRules(enabled=True, allow=("127.0.0.1", "*.test"))


@pytest.fixture(scope="module")
def server() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@contextlib.asynccontextmanager
async def target(
    resolve: Resolve | None = None, *, rules: WebhookRules = HERE, queues: LiveRules | None = None, **options
) -> AsyncIterator[HttpTarget]:
    found = HttpTarget(HttpOptions(rules=rules, **options), queues, resolve=resolve)
    try:
        yield found
    finally:
        await found.stop()


def delivery(number: int, task: NewTask, *, attempt: int = 0, token: int = 1) -> Delivery:
    task_id = number.to_bytes(16, "big")
    lane = lane_of(TaskType.HTTP, task.queue)
    return Delivery(task_id, 0, b"lease", token, attempt, 0, 1_700_000_000_000, lane, False, body.encode(task))


def task(url: str, payload: bytes = b"", *, method: str = "POST", retry_on: Sequence[int] = (), **more) -> NewTask:
    return NewTask(type=TaskType.HTTP, payload=payload, webhook=Webhook(url, method, tuple(retry_on)), **more)


async def outcomes(of: HttpTarget, *deliveries: Delivery) -> list[Outcome]:
    found: dict[bytes, Outcome] = {}

    def report(deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        found.update((d.task_id, outcome) for d in deliveries)

    await of.deliver(deliveries, report)
    return [found[d.task_id] for d in deliveries]


async def outcome(of: HttpTarget, asked: NewTask, **more) -> Outcome:
    return (await outcomes(of, delivery(7, asked, **more)))[0]


def names(hosts: Mapping[str, Sequence[str]]) -> Resolve:
    async def resolve(host: str) -> Sequence[Address]:
        if host not in hosts:
            raise OSError(0, "no such name")
        return [ip_address(text) for text in hosts[host]]

    return resolve


async def test_what_goes_out(server: Receiver):
    header = {"X-Own": b"a b", "content-type": b"text/x", "traceparent": b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"}
    asked = task(server.url("/out?a=b"), b"hello", method="PUT", header=header)
    async with target(secret=(SECRET, OTHER)) as to:
        assert await outcome(to, asked, attempt=2, token=5) == Done()
        assert await outcome(to, asked, attempt=3, token=6) == Done()
    first, second = server.to("/out?a=b")
    assert (first.method, first.body) == ("PUT", b"hello")
    h = first.headers
    assert h["host"] == f"127.0.0.1:{server.port}" and h["x-own"] == "a b" and h["content-type"] == "text/x"
    assert h["delaybox-attempt"] == "3" and h["delaybox-fencing"] == "5" and h["delaybox-due"] == "1700000000000"
    assert h["traceparent"].startswith("00-111") and h["user-agent"].startswith("DelayBox/")
    assert h["webhook-id"] == second.headers["webhook-id"] == delivery(7, asked).id
    for secret in (SECRET, OTHER, [OTHER, SECRET]):
        assert webhook.verify(first.body, h, secret) == h["webhook-id"]
    with pytest.raises(webhook.NotVerified):
        webhook.verify(first.body + b"x", h, SECRET)
    with pytest.raises(webhook.NotVerified, match="away from now"):
        webhook.verify(first.body, h, SECRET, now_s=time.time() + 301)


def test_signatures_are_those_of_the_standard():
    # Made with the package standardwebhooks 1.0.
    key = webhook.key_of(SECRET)
    made = webhook.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [key])
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert webhook.sign("a.b.c", 1614265330, b"x.y", [key]) == "v1,NcJaT1BReUnXFuClE5l6AchpjfoZfVxLfYXiL5hzJPM="
    for wrong in ("whsec_!", "whsec_QUJD", "QUJD" * 30):
        with pytest.raises(ValueError, match="secret"):
            webhook.key_of(wrong)


async def test_a_host_or_queue_may_have_a_secret_of_its_own(server: Receiver):
    async with target(secret=(SECRET,), secrets={"mail": (OTHER,)}) as to:
        assert await outcome(to, task(server.url("/mail"), queue="mail")) == Done()
        assert await outcome(to, task(server.url("/none"))) == Done()
    assert webhook.verify(b"", server.to("/mail")[0].headers, OTHER)
    assert webhook.verify(b"", server.to("/none")[0].headers, SECRET)
    with pytest.raises(webhook.NotVerified):
        webhook.verify(b"", server.to("/mail")[0].headers, SECRET)


async def test_a_node_may_make_events_of_all_and_a_task_may_say_otherwise(server: Receiver):
    header = {"content-type": b"application/json"}
    async with target(secret=(SECRET,), cloudevents="structured") as to:
        for form in ("", "binary", "none"):
            webhook_ = Webhook(server.url(f"/event-{form}"), cloudevents=form)
            asked = NewTask(type=TaskType.HTTP, payload=b"[1]", webhook=webhook_, header=header, queue="mail")
            assert await outcome(to, asked) == Done()
    (whole,), (parts,), (none,) = (server.to(f"/event-{form}") for form in ("", "binary", "none"))
    event = json.loads(whole.body)
    assert (event["data"], event["source"], event["time"]) == ([1], "/delaybox/queues/mail", "2023-11-14T22:13:20.000Z")
    assert event["id"] == parts.headers["ce-id"] == none.headers["webhook-id"] and "ce-id" not in none.headers
    assert parts.body == none.body == b"[1]" and parts.headers["ce-type"] == "io.delaybox.task.due"
    for one in (whole, parts, none):
        assert webhook.verify(one.body, one.headers, SECRET)


async def test_what_becomes_of_each_status(server: Receiver):
    for status in (200, 201, 204, 299, 301, 302, 307, 308, 400, 401, 404, 408, 409, 410, 422, 425, 429, 500, 502, 503):
        server.answers[f"/s{status}"] = reply(status, location="http://127.0.0.1:1/secret?token=x")
    async with target() as to:
        for status in (200, 201, 299):
            assert await outcome(to, task(server.url(f"/s{status}"))) == Done()
        for status in (301, 302, 307, 308):
            found = await outcome(to, task(server.url(f"/s{status}")))
            assert isinstance(found, Failed) and not found.retryable and "redirects are not followed" in found.reason
            assert "secret" not in found.reason
        for status in (400, 401, 404, 409, 410, 422):
            found = await outcome(to, task(server.url(f"/s{status}")))
            assert isinstance(found, Failed) and not found.retryable and str(status) in found.reason
            found = await outcome(to, task(server.url(f"/s{status}"), retry_on=(status,)))
            assert isinstance(found, Failed) and found.retryable
        for status in (408, 425, 429, 500, 502, 503):
            found = await outcome(to, task(server.url(f"/s{status}")))
            assert isinstance(found, Failed) and found.retryable and found.delay_ms is None
    assert not server.to("/secret?token=x")


async def test_retry_after_is_waited_for_without_a_charge_up_to_a_bound(server: Receiver):
    server.answers["/busy"] = reply(429, retry_after="7")
    server.answers["/moment"] = reply(503, retry_after=formatdate(time.time() + 100, usegmt=True))
    server.answers["/now"] = reply(503, retry_after="0")
    server.answers["/long"] = reply(503, retry_after="999999999999999")
    server.answers["/strange"] = reply(503, retry_after="soon")
    async with target(longest_wait_ms=3_600_000) as to:
        assert await outcome(to, task(server.url("/busy"))) == HandBack(delay_ms=7_000)
        found = await outcome(to, task(server.url("/moment")))
        assert isinstance(found, HandBack) and 90_000 < found.delay_ms <= 100_000
        assert await outcome(to, task(server.url("/now"))) == HandBack(delay_ms=100)
        found = await outcome(to, task(server.url("/long")))
        assert isinstance(found, Failed) and found.retryable and found.delay_ms == 3_600_000
        found = await outcome(to, task(server.url("/strange")))
        assert isinstance(found, Failed) and found.delay_ms is None
        server.answers["/busy/again"] = reply(429, retry_after="7")
        found = await outcome(to, task(server.url("/busy/again")), token=2_000)
        assert isinstance(found, Failed) and found.delay_ms == 7_000


async def test_the_answer_is_kept_on_request_and_bounded(server: Receiver):
    server.answers["/kept"] = reply(201, b"made", x_id="17", set_cookie="secret")
    server.answers["/huge"] = reply(200, b"x" * 3_000_000)
    server.answers["/refused"] = reply(422, b"why")
    async with target(max_answer=1_000) as to:
        found = await outcome(to, task(server.url("/kept"), keep_result_ms=60_000))
        assert isinstance(found, Done) and found.result is not None and found.keep_ms == 60_000
        assert (found.result.status, found.result.output, found.result.ok) == (201, b"made", True)
        assert found.result.headers["x-id"] == "17" and "set-cookie" not in found.result.headers
        assert await outcome(to, task(server.url("/kept"), keep_result_ms=NO_RESULT)) == Done()
        found = await outcome(to, task(server.url("/huge"), keep_result_ms=60_000))
        assert isinstance(found, Done) and found.result is not None
        assert found.result.output == b"x" * 1_000 and found.result.truncated
        found = await outcome(to, task(server.url("/refused"), keep_result_ms=60_000))
        assert isinstance(found, Failed) and found.result is not None and found.result.output == b"why"


async def test_servers_that_misbehave_cost_no_more_than_the_time_out(server: Receiver):
    async def silent(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def drip(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def endless_head(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(100_000):
            writer.write(b"x-%d: %b\r\n" % (number, b"y" * 100))
            await writer.drain()

    async def closes(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nxy")

    async def nonsense(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9\r\n")

    async def unframed(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        await writer.drain()

    async def continues(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
        await writer.drain()

    server.answers |= {
        "/silent": silent, "/drip": drip, "/head": endless_head, "/closes": closes, "/nonsense": nonsense,
        "/unframed": unframed, "/continues": continues,
    }  # fmt: skip
    async with target() as to:
        for path, timeout_ms, words in (
            ("/silent", 400, "within 400 ms"),
            ("/drip", 400, "within 400 ms"),
            ("/head", 60_000, "head is longer"),
            ("/closes", 60_000, "before the answer was complete"),
            ("/nonsense", 60_000, "not HTTP"),
        ):
            found = await outcome(to, task(server.url(path), timeout_ms=timeout_ms))
            assert isinstance(found, Failed) and found.retryable and words in found.reason, (path, found)
            # Its breaker does not matter here.
            await outcome(to, task(server.url("/fine")))
    async with target() as to:
        found = await outcome(to, task(server.url("/unframed"), keep_result_ms=1))
        assert isinstance(found, Done) and found.result is not None and found.result.output == b"until the end"
        found = await outcome(to, task(server.url("/continues"), keep_result_ms=1))
        assert isinstance(found, Done) and found.result is not None and found.result.output == b"abc"
        assert "link" not in found.result.headers


async def test_connections_are_used_again_also_when_the_server_has_closed_one(server: Receiver):
    async with target() as to:
        before = server.connections
        for _ in range(5):
            assert await outcome(to, task(server.url("/again"))) == Done()
        assert server.connections == before + 1
        assert await outcome(to, task(server.url("/again"), method="HEAD")) == Done()
    with receiver() as first:
        port = first.port
        async with target() as to:
            assert await outcome(to, task(first.url("/"))) == Done()
            first.stop()
            again = Receiver()
            again.port = port
            again.start()
            try:
                assert await outcome(to, task(again.url("/"))) == Done()
            finally:
                again.stop()


async def test_a_name_is_judged_by_every_address_and_each_time(server: Receiver):
    """Rebinding: the name's answer changes between looks. What was checked is what is connected to."""
    public = WebhookRules(enabled=True, ports=(server.port,))
    asked = task(f"http://turns.example:{server.port}/rebound")
    looks: list[str] = []

    async def turning(host: str) -> Sequence[Address]:
        looks.append(host)
        return [ip_address("127.0.0.1" if len(looks) > 1 else "203.0.113.9")]

    async with target(turning, rules=public) as to:
        for _ in range(2):
            found = await outcome(to, asked)
            assert isinstance(found, Failed) and not found.retryable and "not sent" in found.reason
            assert "webhooks.allow" in found.reason
    mixed = names({"mixed.example": ["1.1.1.1", "10.0.0.1"], "mapped.example": ["::ffff:127.0.0.1"], "no.example": []})
    async with target(mixed, rules=public) as to:
        for host, words in (("mixed", "10.0.0.1"), ("mapped", "loopback")):
            found = await outcome(to, task(f"http://{host}.example:{server.port}/rebound"))
            assert isinstance(found, Failed) and not found.retryable and words in found.reason
        for host in ("no", "unknown"):
            found = await outcome(to, task(f"http://{host}.example:{server.port}/rebound"))
            assert isinstance(found, Failed) and found.retryable
    # A literal of a task that an earlier configuration accepted.
    async with target(rules=public) as to:
        found = await outcome(to, task(server.url("/rebound")))
        assert isinstance(found, Failed) and not found.retryable
    assert not server.to("/rebound")


async def test_names_keep_their_host_and_their_certificate(tmp_path: Path):
    made = Certificates(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*made.server)
    seen: list[str | None] = []
    tls.sni_callback = lambda _, name, __: seen.append(name)
    rules = WebhookRules(enabled=True, allow=("localhost", "other.test"))
    resolve = names({"localhost": ["127.0.0.1"], "other.test": ["127.0.0.1"]})
    with receiver(tls) as server:
        async with target(resolve, rules=rules, ca_file=made.ca) as to:
            assert await outcome(to, task(server.url("/tls", "localhost"))) == Done()
            found = await outcome(to, task(server.url("/tls", "other.test")))
            assert isinstance(found, Failed) and found.retryable and "certificate" in found.reason
        async with target(resolve, rules=rules, ca_file=made.wrong_ca) as to:
            found = await outcome(to, task(server.url("/tls", "localhost")))
            assert isinstance(found, Failed) and "certificate" in found.reason
    assert seen[:2] == ["localhost", "other.test"]
    assert [one.headers["host"] for one in server.to("/tls")] == [f"localhost:{server.port}"]


async def test_no_proxy_from_the_environment(server: Receiver, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with target() as to:
        assert await outcome(to, task(server.url("/direct"))) == Done()


async def test_a_host_that_does_not_answer_holds_up_nobody(server: Receiver):
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    held: list[Received] = []

    async def hold(got: Received, writer: asyncio.StreamWriter) -> None:
        held.append(got)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(release.wait(), loop))
        writer.write(reply(200))
        await writer.drain()

    resolve = names({"slow.test": ["127.0.0.1"], "fast.test": ["127.0.0.1"]})
    server.answers["/hold"] = hold
    async with target(resolve, per_host=3) as to:
        slow = [delivery(number, task(server.url("/hold", "slow.test"))) for number in range(40)]
        fast = [delivery(100 + number, task(server.url("/quick", "fast.test"))) for number in range(10)]
        found: dict[bytes, Outcome] = {}

        def report(deliveries: Sequence[Delivery], outcome: Outcome) -> None:
            found.update((d.task_id, outcome) for d in deliveries)

        running = asyncio.create_task(to.deliver([*slow, *fast], report))
        await until_async(lambda: len(found) == 40 - 3 - 15 + 10, about=lambda: found)
        assert all(found[d.task_id] == Done() for d in fast) and len(held) == 3
        back = [end for end in found.values() if isinstance(end, HandBack)]
        assert len(back) == 22 and all(end.delay_ms >= 100 for end in back)
        release.set()
        await running
        assert sum(isinstance(end, Done) for end in found.values()) == 3 + 15 + 10


async def test_a_target_that_is_stopped_reports_nothing_more(server: Receiver):
    async def never(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    server.answers["/never"] = never
    ends: list[Outcome] = []

    def report(deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        ends.append(outcome)

    async with target(per_host=2) as to:
        waiting = [delivery(number, task(server.url("/never"))) for number in range(4)]
        running = asyncio.create_task(to.deliver(waiting, report))
        await until_async(lambda: len(server.to("/never")) == 2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not ends


async def test_a_host_gets_no_more_requests_a_second_than_its_rate():
    host, now, taken = Host(1_000, 50), 100.0, 0
    for at in range(2_000):
        try:
            await host.enter(now + at / 1_000)
            taken += 1
        except NoRoom as full:
            assert full.after_ms >= 100
    # Those that may be ahead at the beginning are added.
    assert 100 <= taken <= 100 + 6


async def test_rules_of_a_queue_hold_for_webhooks(server: Receiver):
    rules = LiveRules(RuleBook(default=QueueRules(timeout_ms=50, keep_result_ms=60_000)))

    async def never(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    server.answers["/late"], server.answers["/kept"] = never, reply(200, b"pong")
    async with target(queues=rules) as to:
        late = await outcome(to, task(server.url("/late")))
        assert isinstance(late, Failed) and "within 50 ms" in late.reason
        kept = await outcome(to, task(server.url("/kept"), timeout_ms=60_000))
        assert isinstance(kept, Done) and kept.result is not None and kept.keep_ms == 60_000
        not_kept = await outcome(to, task(server.url("/kept"), timeout_ms=60_000, keep_result_ms=NO_RESULT))
        assert not_kept == Done()


async def test_a_breaker_opens_probes_and_closes():
    host, now = Host(2), 100.0
    for _ in range(FAILURES):
        await host.enter(now)
        host.leave(now, 0.1, answered=False)
    assert host.closed
    with pytest.raises(NoRoom) as full:
        await host.enter(now)
    assert 1_000 <= full.value.after_ms < 2_000
    now += 1.5
    await host.enter(now)  # the probe
    with pytest.raises(NoRoom):
        await host.enter(now)
    host.leave(now, 0.1, answered=False)
    with pytest.raises(NoRoom) as full:
        await host.enter(now)
    assert full.value.after_ms >= 2_000
    now += 2.5
    await host.enter(now)
    host.leave(now, 0.1, answered=True)
    assert host.unused
    await host.enter(now)
    await host.enter(now)
    waiting = asyncio.ensure_future(host.enter(now))
    await asyncio.sleep(0)
    for _ in range(2):
        host.leave(now, 0.1, answered=True)
    await waiting
    host.leave(now, 0.1, answered=None)
    assert host.unused


async def test_what_a_dead_host_leaves_over_does_not_come_back_in_bursts():
    """100 webhooks a second, of which each try takes two seconds to fail; those of other hosts have to pass between."""
    random.seed(7)
    host, met = Host(50), Counter[int]()
    coming = [(n / 100, n, "try") for n in range(2_000)]
    entering: dict[asyncio.Future[None], int] = {}
    while coming[0][0] < 20:
        now, n, what = heapq.heappop(coming)
        if what == "end":
            host.leave(now, 2.0, answered=False)
        else:
            met[int(now * 100)] += 1
            entering[asyncio.ensure_future(host.enter(now))] = n
        await asyncio.sleep(0)
        for done in [one for one in entering if one.done()]:
            again = (2_000, "end") if (full := done.exception()) is None else (cast(NoRoom, full).after_ms, "try")
            heapq.heappush(coming, (now + again[0] / 1_000, entering.pop(done), again[1]))
    for one in entering:
        one.cancel()
    assert host.closed
    assert max(met.values()) <= 25, "so many at most in 10 ms"


async def test_a_dead_host_is_left_alone_after_some_failures():
    unused = 1  # a port where nobody listens
    async with target() as to:
        for _ in range(FAILURES):
            found = await outcome(to, task(f"http://127.0.0.1:{unused}/"))
            assert isinstance(found, Failed) and found.retryable and "no connection" in found.reason
        found = await outcome(to, task(f"http://127.0.0.1:{unused}/"))
        assert isinstance(found, HandBack) and found.delay_ms >= 100


async def test_a_body_that_is_no_webhook_is_final():
    async with target() as to:
        found = await outcome(to, NewTask(type=TaskType.HTTP, payload=b"x"))
        assert isinstance(found, Failed) and not found.retryable and "no webhook" in found.reason
