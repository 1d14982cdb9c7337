"""Webhooks to a URL that asked for a wait: none goes there meanwhile, and the first one afterwards goes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from delaybox.core.delivery import Delivery, Done, HandBack, Outcome
from delaybox.core.lane import lane_of
from delaybox.core.task import NewTask, TaskType
from delaybox.core.webhook import Url, Webhook, WebhookRules, url_of
from delaybox.targets.http import HttpOptions, HttpTarget
from delaybox.targets.http_waits import AGAIN_S, LONGEST_S, Waits
from delaybox.wire import body
from tests.receivers import Receiver, receiver, reply

ONE = url_of("https://example.com/hooks/1?token=a")
SAME = url_of("https://EXAMPLE.com/hooks/1?token=b")
OTHERS = [
    url_of(f"https://{rest}") for rest in ("example.com/hooks/2", "example.com:8443/hooks/1", "example.org/hooks/1")
]


def left(waits: Waits, url: Url, now: float, lease: int = 0, task: bytes = b"another") -> float:
    """Seconds; the least, because the leases end with 0."""
    return waits.put_off_ms(url, now, lease.to_bytes(4, "big") + b"\0", task) / 1_000


def test_others_to_the_same_url_wait_and_those_to_another_one_do_not():
    waits = Waits()
    assert left(waits, ONE, 0.0) == 0
    waits.asked(ONE, 10.0, 5.0)
    assert left(waits, SAME, 11.0) == 4.0
    assert all(left(waits, url, 11.0) == 0 for url in OTHERS)


def test_the_first_one_afterwards_goes_alone_and_then_all_may():
    waits = Waits()
    waits.asked(ONE, 0.0, 5.0)
    waits.ended(ONE, b"before")
    assert left(waits, ONE, 4.0) == 1.0, "what was under way when it began ends it not"
    assert left(waits, ONE, 5.0, task=b"first") == 0 and left(waits, ONE, 5.0) == AGAIN_S
    assert left(waits, ONE, 5.0, task=b"first") == 0, "it asks again when its turn comes"
    waits.ended(ONE, b"before")
    assert left(waits, ONE, 5.0) == AGAIN_S, "nor while the first one is under way"
    waits.ended(ONE, b"first")
    assert left(waits, ONE, 5.1) == 0 and left(waits, ONE, 5.1) == 0


def test_it_may_ask_again():
    waits = Waits()
    waits.asked(ONE, 0.0, 5.0)
    assert left(waits, ONE, 5.0) == 0
    waits.asked(ONE, 5.1, 8.0)
    waits.ended(ONE, b"another")
    assert left(waits, ONE, 6.1) == pytest.approx(7.0, abs=0.01)


def test_no_answer_holds_the_others_for_longer_than_a_minute():
    waits = Waits()
    waits.asked(ONE, 0.0, 3_600.0)
    assert left(waits, ONE, 0.0) == LONGEST_S and left(waits, ONE, LONGEST_S) == 0
    waits.asked(ONE, 0.0, 0.0)
    assert left(waits, OTHERS[0], 0.0) == 0


def test_where_very_many_wait_they_come_later():
    """So that they are not all handed out each second in vain."""
    waits = Waits()
    waits.asked(ONE, 0.0, 1.0)
    found = [left(waits, ONE, 0.0, number) for number in range(100_000)]
    assert found[:900] == [1.0] * 900 and found[9_999] == pytest.approx(10.0, abs=0.01) and max(found) == LONGEST_S


def test_no_more_urls_are_remembered_than_the_bound():
    waits = Waits()
    urls = [url_of(f"https://example.com/{number}") for number in range(10_001)]
    for url in urls:
        waits.asked(url, 0.0, 5.0)
    assert left(waits, urls[0], 0.0) == 0 and left(waits, urls[1], 0.0) == 5.0 == left(waits, urls[-1], 0.0)


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


async def test_they_are_handed_back_without_a_request(server: Receiver):
    server.answers["/busy"] = [reply(429, retry_after="30"), reply(200)]
    target = HttpTarget(HttpOptions(rules=WebhookRules(enabled=True, allow=("127.0.0.1",))))
    found: dict[bytes, Outcome] = {}

    def report(deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        found.update((d.task_id, outcome) for d in deliveries)

    def delivery(number: int, path: str, lease: bytes) -> Delivery:
        task = NewTask(type=TaskType.HTTP, webhook=Webhook(server.url(path)))
        lane = lane_of(TaskType.HTTP, "default")
        return Delivery(number.to_bytes(16, "big"), 0, lease, 1, 0, 0, 0, lane, False, body.encode(task))

    try:
        await target.deliver([delivery(1, "/busy", b"a")], report)
        await target.deliver([delivery(2, "/free", b"b")], report)
        await target.deliver([delivery(number, f"/busy?{number}", b"c") for number in range(3, 40)], report)
    finally:
        await target.stop()
    first, other, *later = [found[key] for key in sorted(found)]
    assert (first, other) == (HandBack(delay_ms=30_000), Done())
    assert len(server.requests) == 2
    (delay,) = {one.delay_ms for one in later if isinstance(one, HandBack)}
    assert 29_000 < delay <= 60_000, "one moment for all of one claim"


async def test_those_that_stand_in_the_line_of_their_host_wait_as_well(server: Receiver):
    server.answers["/line"] = [reply(429, retry_after="30"), reply(200)]
    target = HttpTarget(HttpOptions(rules=WebhookRules(enabled=True, allow=("127.0.0.1",)), per_host=1))
    found: list[Outcome] = []

    def report(deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        found.extend(outcome for _ in deliveries)

    task = body.encode(NewTask(type=TaskType.HTTP, webhook=Webhook(server.url("/line"))))
    lane = lane_of(TaskType.HTTP, "default")
    batch = [Delivery(bytes([n]) * 16, 0, b"a", 1, 0, 0, 0, lane, False, task) for n in range(5)]
    try:
        await target.deliver(batch, report)
        assert target._hosts.of("http", "127.0.0.1", server.port).unused, "and their places are free again"
    finally:
        await target.stop()
    assert len(server.to("/line")) == 1
    assert len(found) == 5 and all(isinstance(one, HandBack) and one.delay_ms > 29_000 for one in found), found
