"""What may be sent once at most is acked when it surely goes out, and probes of silent hosts hold few places."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace

import pytest

from delaybox.core.delivery import Delivery, Done, Failed, HandBack, Outcome
from delaybox.core.lane import lane_of
from delaybox.core.task import DeliveryMode, NewTask, TaskType
from delaybox.core.webhook import Webhook, WebhookRules
from delaybox.targets.http import HttpOptions, HttpTarget
from delaybox.targets.http_hosts import FAILURES, LONGEST_PAUSE_S, Host, Hosts, NoRoom
from delaybox.wire import body
from tests.ports import free_port
from tests.receivers import Received, Receiver, receiver, reply


@pytest.fixture(scope="module")
def server() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
async def to() -> AsyncIterator[HttpTarget]:
    found = HttpTarget(HttpOptions(rules=WebhookRules(enabled=True, allow=("127.0.0.1",)), per_host=1))
    yield found
    await found.stop()


class Acks:
    """Stands for the store. ``taken``: others have the task."""

    def __init__(self, server: Receiver, taken: bool = False) -> None:
        self.server, self.taken = server, taken
        self.arrived_before: list[int] = []

    async def __call__(self, d: Delivery) -> bool:
        await asyncio.sleep(0)
        self.arrived_before.append(len(self.server.requests))
        return not self.taken


async def sent(to: HttpTarget, url: str, *, once: bool = True) -> Outcome:
    found: list[Outcome] = []

    def report(deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        found.append(outcome)

    mode = DeliveryMode.AT_MOST_ONCE if once else DeliveryMode.AT_LEAST_ONCE
    task = NewTask(type=TaskType.HTTP, delivery=mode, webhook=Webhook(url))
    lane = lane_of(TaskType.HTTP, "default")
    d = Delivery(bytes(16), 0, b"lease", 1, 0, 0, 0, lane, False, body.encode(task), once=once)
    await to.deliver([d], report)
    return found[0]


async def test_it_is_acked_right_before_it_is_sent(server: Receiver, to: HttpTarget):
    to.ack_first = acks = Acks(server)
    before = len(server.requests)
    assert await sent(to, server.url("/once")) == Done()
    assert acks.arrived_before == [before] and len(server.to("/once")) == 1


async def test_one_that_others_have_is_not_sent_and_leaves_its_place(server: Receiver, to: HttpTarget):
    to.ack_first = Acks(server, taken=True)
    await sent(to, server.url("/taken"))
    assert not server.to("/taken")
    to.ack_first = Acks(server)
    async with asyncio.timeout(60):
        assert await sent(to, server.url("/next")) == Done(), "the only place of the host is free again"


async def test_it_is_not_acked_while_its_host_is_left_alone_or_has_no_room(server: Receiver, to: HttpTarget):
    """Before, it was acked first, and then a failed task though it was never sent."""
    to.ack_first = acks = Acks(server)
    host = to._hosts.of("http", "127.0.0.1", server.port)
    loop = asyncio.get_running_loop()
    for _ in range(FAILURES):
        await host.enter(loop.time())
        host.leave(loop.time(), 0.01, answered=False)
    assert host.closed
    assert isinstance(await sent(to, server.url("/alone")), HandBack)
    server.answers["/wait"] = reply(429, retry_after="9")
    host._pause_s = host._closed_until = 0.0
    assert isinstance(await sent(to, server.url("/wait")), HandBack) and len(acks.arrived_before) == 1
    assert isinstance(await sent(to, server.url("/wait?b")), HandBack) and len(acks.arrived_before) == 1
    assert not server.to("/alone") and not server.to("/wait?b")


async def test_without_a_connection_it_is_not_acked_and_tried_again(server: Receiver, to: HttpTarget):
    to.ack_first = acks = Acks(server)
    found = await sent(to, f"http://127.0.0.1:{free_port()}/none")
    assert isinstance(found, Failed) and found.retryable and not acks.arrived_before


async def test_it_is_not_sent_again_where_a_connection_ends_without_an_answer(server: Receiver, to: HttpTarget):
    """A connection that was kept may have ended before or after the request was read: any other task is sent again."""

    async def ends(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    to.ack_first = Acks(server)
    server.answers["/ends"] = ends
    assert await sent(to, server.url("/kept")) == Done()
    assert await sent(to, server.url("/kept"), once=False) == Done()
    found = await sent(to, server.url("/ends"))
    assert isinstance(found, Failed) and len(server.to("/ends")) == 1
    assert await sent(to, server.url("/kept"), once=False) == Done()
    await sent(to, server.url("/ends"), once=False)
    assert len(server.to("/ends")) == 3


async def test_a_store_that_hangs_while_it_is_acked_is_no_fault_of_the_host(server: Receiver, to: HttpTarget):
    never = asyncio.Event()

    async def hangs(d: Delivery) -> bool:
        return await never.wait()

    # On a connection that is kept: to open one may take the machine longer than the time that is left then.
    assert await sent(to, server.url("/kept"), once=False) == Done()
    to.ack_first = hangs
    to._options = replace(to._options, timeout_ms=20)
    host = to._hosts.of("http", "127.0.0.1", server.port)
    assert isinstance(await sent(to, server.url("/hangs")), HandBack)
    assert host.unused and not server.to("/hangs")


async def silent_hosts(hosts: Hosts, count: int) -> list[Host]:
    """Hosts whose breakers are open and whose pauses are over at 100."""
    made = [hosts.of("http", f"{number}.example", 80) for number in range(count)]
    for host in made:
        for _ in range(FAILURES):
            share = await hosts.enter(host, 0.0)
            hosts.leave(host, 1.0, 1.0, answered=False, share=share)
        assert host.closed
    return made


async def test_probes_of_however_many_hosts_hold_a_quarter_of_the_places():
    """With one for each of a thousand hosts no place was left for hosts that answer."""
    hosts = Hosts(50, most_doubted=20)
    made = await silent_hosts(hosts, 100)
    probed, refused = [], []
    for host in made:
        try:
            probed.append((host, await hosts.enter(host, 100.0)))
        except NoRoom as full:
            assert full.silent
            refused.append(host)
    assert len(probed) == 10 and all(host.probing for host, _ in probed)
    # They are tried again soon, and are left alone no longer in the end.
    assert all(host.closed_until == 101.0 and host.pause_s == 1.0 and not host.probing for host in refused)
    fresh = hosts.of("http", "fresh.example", 80)
    held = [await hosts.enter(fresh, 100.0) for _ in range(10)]
    with pytest.raises(NoRoom):
        await hosts.enter(fresh, 100.0)
    for host, share in probed:
        hosts.leave(host, 102.0, 2.0, answered=False, share=share)
    again = [await hosts.enter(host, 102.0) for host in refused[:10]]
    assert len(again) == len(held) == 10
    good = hosts.of("http", "good.example", 80)
    good._proven = True
    for _ in range(50):
        await hosts.enter(good, 102.0)


async def test_a_probe_that_was_refused_its_place_is_the_next_one_all_the_same():
    hosts = Hosts(50, most_doubted=2)
    one, other = await silent_hosts(hosts, 2)
    share = await hosts.enter(one, 100.0)
    with pytest.raises(NoRoom):
        await hosts.enter(other, 100.0)
    hosts.leave(one, 100.5, 0.5, answered=True, share=share)
    share = await hosts.enter(other, 101.0 + LONGEST_PAUSE_S)
    hosts.leave(other, 132.0, 0.5, answered=True, share=share)
    assert not one.closed and not other.closed
