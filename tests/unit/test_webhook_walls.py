"""Webhooks against hostile names, URLs and servers: nothing reaches this machine, and no answer costs without bound."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from delaybox.core.addresses import Address
from delaybox.core.delivery import Delivery, Done, Failed, HandBack, Outcome
from delaybox.core.errors import InvalidTask
from delaybox.core.lane import lane_of
from delaybox.core.task import NewTask, TaskType
from delaybox.core.webhook import Webhook, WebhookRules
from delaybox.targets import http_client
from delaybox.targets.http import MAX_HELD_BYTES, HttpOptions, HttpTarget
from delaybox.targets.http_client import Resolve
from delaybox.wire import body
from tests import rebinding
from tests.receivers import Received, Receiver, Reply, receiver, reply
from tests.spent import Spent
from tests.waiting import until_async

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HERE = WebhookRules(enabled=True, allow=("127.0.0.1", "*.test"))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the receiver, a thread of this process, takes connections late."""
    monkeypatch.setattr(http_client, "_CONNECT_S", 90.0)


@pytest.fixture
def server():
    with receiver() as found:
        yield found


async def send(target: HttpTarget, *urls: str, keep_result_ms: int = 0, token: int = 1, **more: Any) -> list[Outcome]:
    found: dict[bytes, Outcome] = {}

    def report(deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        found.update((d.task_id, outcome) for d in deliveries)

    lane = lane_of(TaskType.HTTP, "default")
    tasks = [NewTask(type=TaskType.HTTP, webhook=Webhook(url), keep_result_ms=keep_result_ms, **more) for url in urls]
    batch = [
        Delivery(number.to_bytes(16, "big"), 0, b"lease", token, 0, 0, 0, lane, False, body.encode(one))
        for number, one in enumerate(tasks)
    ]
    await target.deliver(batch, report)
    return [found[d.task_id] for d in batch]


def target(rules: WebhookRules = HERE, resolve: Resolve | None = None, **options: Any) -> HttpTarget:
    """No test waits for a time-out but those that set one."""
    return HttpTarget(HttpOptions(rules=rules, **{"timeout_ms": 600_000, **options}), resolve=resolve)


def _rebound(found: rebinding.Found) -> None:
    assert found.first == found.again == "Done" and found.asked == 1
    assert "not sent" in found.later and "127.0.0.1: it is a loopback address" in found.later
    assert "loopback" in found.mixed
    # Each of these names was looked up once for all three tasks; half of them were private then.
    assert found.refused == 3 * rebinding.TURNS // 2 and found.turning == found.arrived == found.refused
    assert "rebound.example" in found.hosts and found.hits == 0


async def test_a_name_that_turns_private_reaches_nobody():
    """A DNS server of our own answers with an allowed address first and with a private one afterwards."""
    _rebound(await rebinding.attack())


def test_nor_does_it_by_the_machines_own_resolver(tmp_path: Path):
    """The same with the system's resolver, in a network of its own whose resolv.conf names our DNS server."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs Linux and unshare")
    names = tmp_path / "resolv.conf"
    names.write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:1\n")
    inside = f"mount --bind {names} /etc/resolv.conf && exec {sys.executable} -m tests.rebinding"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "--net", "sh", "-c", inside],
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if not done.stdout and ("unshare:" in done.stderr or "mount:" in done.stderr):
        pytest.skip(f"no namespaces here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    _rebound(rebinding.Found(**json.loads(done.stdout)))


HOSTS = r"""
127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0x7F000001 0x7f.0.0.1 0x7f.1 0177.0.0.1 017700000001 00127.0.0.1
127.0.0.1. 127.0.0.1.. 0.0.0.0 0 00 0x0 127.0.0.1%00 127.0.0.1%2f 127.255.255.254 127.0.0.01 1.0.0.127.in-addr.arpa
[::1] [::] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:0:127.0.0.1] [::127.0.0.1]
[64:ff9b::127.0.0.1] [2002:7f00:1::] [2001:0:7f00:1::] [::1%25lo] [::1%lo] [fe80::1%25lo] [fe80::1%lo] [::1].
[127.0.0.1] [[::1]] localhost LOCALHOST LocalHost localhost. a.localhost localhost%00 localhost%2e ip6-localhost
user@127.0.0.1 user:secret@127.0.0.1 127.0.0.1@example.com example.com@127.0.0.1 example.com%40127.0.0.1
127.0.0.1\@example.com example.com\@127.0.0.1 example.com\127.0.0.1 127.0.0.1#@example.com 127.0.0.1?@example.com
127.0.0.1;example.com example.com;@127.0.0.1 127.0.0.1,example.com example.com,127.0.0.1 127.0.0.1&@example.com
⑫７.⓪.⓪.① １２７.０.０.１ 127。0。0。1 127．0．0．1 loc𝒶lhost ⓛocalhost lOcalhoﬆ xn--localhost-x2b ⅼocalhost
inside.example metadata.google.internal nat64.example mapped.example six.example both.example zone.example
"""
NAMES = {
    "inside.example": ["127.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "six.example": ["::1"],
    "both.example": ["93.184.216.34", "127.0.0.1"],
    "zone.example": ["fe80::1%lo"],
    "ip6-localhost": ["::1"],
}


async def lenient(host: str) -> Sequence[Address]:
    """As the system's resolver, which takes 127.1 and 0x7f000001 for addresses too, but it asks nobody."""
    if host in NAMES:
        return [ip_address(text) for text in NAMES[host]]
    found = socket.getaddrinfo(host, None, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    return [ip_address(entry[4][0]) for entry in found]


async def test_no_way_of_writing_a_url_leads_to_this_machine():
    with receiver() as v4:
        rules = WebhookRules(enabled=True, ports=(80, v4.port))
        urls = [f"http://{host}:{v4.port}/inside" for host in HOSTS.split()]
        urls += [f"http://{host}/inside:{v4.port}" for host in ("127.0.0.1", "127.1", "localhost")]
        urls += [
            f"http:/127.0.0.1:{v4.port}/", f"http:127.0.0.1:{v4.port}/", f"//127.0.0.1:{v4.port}/",
            f"http:\\\\127.0.0.1:{v4.port}/", f"http:///127.0.0.1:{v4.port}/", f"http://127.0.0.1:{v4.port}:80/",
            f"http://127.0.0.1:0{v4.port}/", f"http://127.0.0.1:{v4.port + 65_536}/", f"http://127.0.0.1:+{v4.port}/",
            f"http://\t127.0.0.1:{v4.port}/", f"http://127.0.0.1\n:{v4.port}/", f"http://127.0.0.1:{v4.port}\r\n/",
            f"http://example.com/..//127.0.0.1:{v4.port}/\r\nhost: x", f"gopher://127.0.0.1:{v4.port}/_GET",
            f"unix:///127.0.0.1:{v4.port}", f"file://127.0.0.1:{v4.port}/", f"HTTP://127.0.0.1:{v4.port}/",
        ]  # fmt: skip
        accepted = []
        for url in urls:
            try:
                rules.check(Webhook(url), {}, b"")
                accepted.append(url)
            except InvalidTask as error:
                assert error.field == "url" and "secret" not in str(error), url
        # What cannot be judged before its time is judged then: names, each of which leads inside.
        assert {url.split("/")[2].rpartition(":")[0] for url in accepted} <= {
            *NAMES,
            "1.0.0.127.in-addr.arpa",
            "xn--localhost-x2b",
        }
        to = target(rules, lenient)
        try:
            for url in urls:
                # As if all of them had been stored by somebody who does not check.
                (end,) = await send(to, url)
                assert isinstance(end, Failed | HandBack), (url, end)
        finally:
            await to.stop()
        assert v4.connections == 0, f"{v4.connections} of {len(urls)} reached this machine"


async def test_a_redirect_leads_nowhere(server: Receiver):
    """Chains and loops as well, and every way to name the place."""
    with receiver() as inside:
        for number, place in enumerate(
            (inside.url("/x"), f"//127.0.0.1:{inside.port}/x", "/again", "file:///etc/passwd")
        ):
            for status in (300, 301, 302, 303, 305, 307, 308):
                server.answers[f"/r{status}-{number}"] = reply(status, location=place, refresh=f"0; url={place}")
        server.answers["/again"] = reply(302, location="/again")
        to = target()
        try:
            ends = await send(to, *(server.url(path) for path in server.answers))
        finally:
            await to.stop()
        assert all(isinstance(end, Failed) and not end.retryable and "not followed" in end.reason for end in ends)
        assert inside.connections == 0 and len(server.requests) == len(server.answers)


async def test_an_answer_is_bounded_in_every_part(server: Receiver):
    """Endless trailers, chunk extensions and early hints; a body that would unpack to a thousand times its size."""

    def endless(head: bytes, piece: bytes) -> Reply:
        async def write(_: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n" + head)
            sent[head] = 0
            for turn in range(20_000):
                writer.write(piece * 10)
                await writer.drain()
                sent[head] = 10 * (turn + 1) * len(piece)

        return write

    sent: dict[bytes, int] = {}
    chunked = b"transfer-encoding: chunked\r\n\r\n"
    bomb = gzip.compress(b"\0" * 10_000_000)
    server.answers |= {
        "/trailers": endless(chunked + b"1\r\na\r\n0\r\n", b"x: " + b"y" * 1_000 + b"\r\n"),
        "/extensions": endless(chunked + b"1;", b"e" * 1_000),
        "/hints": endless(b"x: y\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: " + b"z" * 900 + b"\r\n\r\n"),
        "/continues": endless(b"", b"x: " + b"HTTP/1.1 100 Continue\r\n\r\n"),
        "/same": endless(b"", b"a:b\r\n"),
        "/bomb": reply(200, bomb, content_encoding="gzip"),
        "/claims": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999\r\n\r\n" + b"x" * 300_000,
        "/overflow": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999999\r\n\r\n",
        "/twice": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "/both": b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "/nul": b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
        "/status": b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
    }
    to = target(timeout_ms=20_000, max_answer=64 * 1024)
    try:
        began = Spent()
        for path, words in (
            ("/trailers", "framing"), ("/extensions", "framing"), ("/same", "head"), ("/overflow", "not HTTP"),
            ("/twice", "not HTTP"), ("/both", ""), ("/nul", "not HTTP"), ("/status", "not HTTP"),
        ):  # fmt: skip
            (end,) = await send(to, server.url(path))
            if words:
                assert isinstance(end, Failed) and end.retryable and words in end.reason, (path, end)
            await send(to, server.url("/fine"))
        for path in ("/hints", "/continues"):
            (end,) = await send(to, server.url(path))
            assert isinstance(end, Done | Failed), (path, end)
        assert began.s() < 20, "none of them was waited for until its time-out"
        assert all(size < 20_000_000 for size in sent.values()), sent
        (end,) = await send(to, server.url("/bomb"), keep_result_ms=1)
        assert isinstance(end, Done) and end.result is not None
        assert end.result.output == bomb[: 64 * 1024] and end.result.headers["content-encoding"] == "gzip"
        (end,) = await send(to, server.url("/claims"), keep_result_ms=1)
        assert isinstance(end, Done) and end.result is not None and len(end.result.output) == 64 * 1024
        assert end.result.truncated
    finally:
        await to.stop()


async def test_a_second_answer_closes_the_connection(server: Receiver):
    """What comes after an answer belongs to no request, and must neither be taken for the next one's nor stay open."""
    server.answers["/two"] = reply(200, b"one") + reply(500, b"two")
    server.answers["/fine"] = reply(200, b"fine")
    to = target()
    try:
        for _ in range(20):
            (end,) = await send(to, server.url("/two"), keep_result_ms=1)
            assert isinstance(end, Done) and end.result is not None and end.result.output == b"one"
            (end,) = await send(to, server.url("/fine"), keep_result_ms=1)
            assert isinstance(end, Done) and end.result is not None and end.result.output == b"fine"
        await until_async(
            lambda: len(server.open) <= 1, lambda: "connections with a second answer are left open", within_s=10
        )
    finally:
        await to.stop()


async def test_retry_after_that_no_calendar_has(server: Receiver):
    for number, text in enumerate(
        (
            "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
            "Mon, 01 Jan 2020 00:00:00 +999999",
            "-5",
            "1e9",
            "٣",
            "5, 9",
            "",
        )
    ):
        server.answers[f"/{number}"] = f"HTTP/1.1 503 x\r\ncontent-length: 0\r\nretry-after: {text}\r\n\r\n".encode()
    to = target()
    try:
        for end in await send(to, *(server.url(path) for path in server.answers)):
            assert isinstance(end, Failed) and end.retryable and "503" in end.reason and end.delay_ms is None
    finally:
        await to.stop()


async def test_slow_names_hold_up_no_others_and_are_asked_for_once(server: Receiver):
    asked: list[str] = []
    release = asyncio.Event()

    async def resolve(host: str) -> Sequence[Address]:
        asked.append(host)
        if host.startswith("slow"):
            await release.wait()
        return [ip_address("127.0.0.1")]

    to = target(resolve=resolve)
    slow = asyncio.create_task(send(to, *[server.url("/slow", f"slow{n % 3}.test") for n in range(60)]))
    try:
        while len(asked) < 3:
            await asyncio.sleep(0)
        (end,) = await send(to, server.url("/quick", "quick.test"))
        assert end == Done() and sorted(asked) == ["quick.test", "slow0.test", "slow1.test", "slow2.test"]
        # One that gives up leaves the question to the others.
        (end,) = await send(to, server.url("/given-up", "slow0.test"), timeout_ms=20)
        assert isinstance(end, Failed) and "within 20 ms" in end.reason
        release.set()
        assert await slow == [Done()] * 60 and len(asked) == 4
    finally:
        await to.stop()


async def silent(_: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def test_hosts_that_never_answered_leave_room_for_those_that_do(server: Receiver):
    """However many names somebody makes up: the wildcard of a DNS zone, each a host of its own."""

    async def resolve(_: str) -> Sequence[Address]:
        return [ip_address("127.0.0.1")]

    server.answers["/silent"] = silent
    to = target(resolve=resolve, concurrency=40)
    try:
        assert await send(to, server.url("/", "good.test")) == [Done()]
        many = asyncio.create_task(send(to, *(server.url("/silent", f"made-up-{n}.test") for n in range(60))))
        await until_async(lambda: len(server.to("/silent")) == 20)
        assert await send(to, *[server.url("/", "good.test")] * 20) == [Done()] * 20
        (end,) = await send(to, server.url("/silent", "made-up-99.test"))
        assert isinstance(end, HandBack) and end.delay_ms >= 1_000 and len(server.to("/silent")) == 20
        many.cancel()
        await asyncio.gather(many, return_exceptions=True)
        assert await send(to, server.url("/", "new.test")) == [Done()], "the places are free again"
    finally:
        await to.stop()


async def test_bodies_under_way_are_bounded(server: Receiver):
    server.answers["/silent"] = silent
    to = target(per_host=100)
    try:
        assert await send(to, server.url("/first")) == [Done()]
        many = asyncio.create_task(send(to, *[server.url("/silent")] * 50, payload=b"x" * (1 << 20)))
        await until_async(lambda: len(server.to("/silent")) == 31)
        (end,) = await send(to, server.url("/large"), payload=b"x" * (1 << 20))
        assert isinstance(end, HandBack) and end.delay_ms >= 1_000
        assert await send(to, server.url("/small"), payload=b"x" * 1_000) == [Done()]
        many.cancel()
        await asyncio.gather(many, return_exceptions=True)
        assert await send(to, server.url("/large"), payload=b"x" * (1 << 20)) == [Done()]
    finally:
        await to.stop()


async def test_bodies_for_hosts_that_do_not_answer_leave_room_for_those_of_others(server: Receiver):
    """Before, they could hold all of it, and the others' came again every two seconds until time-outs."""
    server.answers["/silent"] = silent
    with receiver() as other:
        to = target(per_host=100)
        try:
            assert await send(to, other.url("/first")) == [Done()]
            many = asyncio.create_task(send(to, *[server.url("/silent")] * 40, payload=b"x" * (1 << 20)))
            await until_async(lambda: len(server.to("/silent")) == 15)
            assert await send(to, *[other.url("/large")] * 10, payload=b"x" * (1 << 20)) == [Done()] * 10
            many.cancel()
            await asyncio.gather(many, return_exceptions=True)
            assert len(server.to("/silent")) == 15 and to._hosts._doubted_bytes == to._held_bytes == 0
        finally:
            await to.stop()


async def test_large_bodies_hold_up_no_small_ones(server: Receiver):
    server.answers["/silent"] = silent
    to = target(per_host=1_000)
    try:
        assert await send(to, server.url("/first")) == [Done()]
        many = asyncio.create_task(send(to, *[server.url("/silent")] * 700, payload=b"x" * 50_000))
        await until_async(lambda: to._held_bytes + 50_100 > MAX_HELD_BYTES)
        small = asyncio.create_task(send(to, *[server.url("/silent")] * 100, payload=b"x" * 1_000))
        await until_async(lambda: len([one for one in server.to("/silent") if len(one.body) == 1_000]) == 100)
        for task in (many, small):
            task.cancel()
        await asyncio.gather(many, small, return_exceptions=True)
    finally:
        await to.stop()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("webhook-timestamp", "9" * 400),
        ("webhook-timestamp", "1e999"),
        ("webhook-timestamp", "\u0661" * 10),
        ("webhook-timestamp", "-1"),
        ("webhook-id", "\udcff"),
        ("webhook-signature", "v1,\udcff \ud800"),
    ],
)
def test_headers_of_anybody_are_not_verified_and_no_other_error(name: str, text: str):
    """Whoever sends such a request would have the receiver answer 500, and log a traceback each time."""
    from delaybox import webhook

    signature = webhook.sign("m", int(time.time()), b"", [webhook.key_of(SECRET)])
    headers = {"webhook-id": "m", "webhook-timestamp": f"{time.time():.0f}", "webhook-signature": signature}
    with pytest.raises(webhook.NotVerified):
        webhook.verify(b"", {**headers, name: text}, SECRET)


def test_the_package_of_the_standard_verifies_what_is_sent():
    """Row S5: rotation, replay, a dot in the id; the verifier is the standard's own, not ours."""
    standard = pytest.importorskip("standardwebhooks")
    from delaybox import webhook

    old, new = SECRET, "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
    now = int(time.time())
    for message_id in ("01a2b3c4-d5e6-8001-9f00-112233445566", "a.b.c", "msg_1"):
        for payload in (b"", b'{"a": 1}', b'{"x": "\xc3\xa9.1"}'):
            signature = webhook.sign(message_id, now, payload, [webhook.key_of(old), webhook.key_of(new)])
            headers = {webhook.ID: message_id, webhook.TIMESTAMP: str(now), webhook.SIGNATURE: signature}
            for secret in (old, new):
                verifier = standard.Webhook(secret)
                if payload:
                    verifier.verify(payload, headers)
                # Another body, another id, and the request again after its time.
                for wrong, changed in (
                    (payload + b" ", headers),
                    (payload, {**headers, webhook.ID: message_id + "."}),
                    (payload, {**headers, webhook.TIMESTAMP: str(now - 301)}),
                ):
                    with pytest.raises(standard.WebhookVerificationError):
                        verifier.verify(wrong, changed)
            with pytest.raises(standard.WebhookVerificationError):
                standard.Webhook("whsec_" + "B" * 32).verify(payload, headers)
        # And the other way round: ours takes what the standard's own package signs.
        from datetime import UTC, datetime

        made = standard.Webhook(old).sign(message_id, datetime.fromtimestamp(now, UTC), "text")
        headers = {webhook.ID: message_id, webhook.TIMESTAMP: str(now), webhook.SIGNATURE: made}
        assert webhook.verify("text", headers, [new, old]) == message_id
