"""Tasks at hand beyond a worker's places: which are sent so, how both sides count them, and when they are worth it."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from delaybox.core.delivery import DONE, HAND_BACK, Delivery
from delaybox.core.queue import QueueRules
from delaybox.core.queue_limits import Rate
from delaybox.core.retry import LOSSES_CAP
from delaybox.targets import worker_pool
from delaybox.targets.worker_places import MAX_AHEAD
from delaybox.targets.worker_session import WorkerSession
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker.ahead import RunPace
from delaybox.worker.session import NodeSession
from delaybox.worker.slots import Slots
from tests.desk import LANE, Desk, delivery, messages_of, tasks_of


def once(**parts: Any) -> Delivery:
    d = delivery(**parts)
    d.once = True
    return d


def limited() -> Delivery:
    d = delivery()
    d.limit_keys = (b"mail",)
    return d


def test_the_shorter_runs_are_the_more_tasks_wait_and_none_behind_long_ones() -> None:
    pace = RunPace()
    for seconds in (0.001, 0.001, 0.001):
        pace.ended(seconds)
        assert pace.ahead == 0, "too few runs say nothing"
    pace.ended(0.001)
    assert pace.ahead == 50
    for seconds, ahead in ((0.0, 64), (0.017, 3), (0.04, 1), (0.051, 0), (0.001, 50)):
        for _ in range(16):
            pace.ended(seconds)
        assert pace.ahead == ahead
    pace.ended(0.09)
    assert pace.ahead > 0, "one that took longer than the others"
    pace.ended(0.11)
    assert pace.ahead == 0, "but not so long"
    for _ in range(16):
        pace.ended(0.001)
    pace.slow()
    pace.ended(0.001)
    assert pace.ahead == 0


async def test_places_are_filled_first_then_what_is_wanted_ahead() -> None:
    desk = Desk()
    full, free = desk.open(credit=1), desk.open(credit=3)
    desk.receive(full, number=2, ahead=2)
    assert (full.ahead, full.room, desk.pool.room()) == (2, 1, 6)
    five = [delivery() for _ in range(5)]
    over = await desk.deliver(*five)
    assert (full.held, free.held) == (2, 3)
    assert sorted(d.line for d in five) == [1, 1, 1, 1, 2], "by which the time that it takes is told"
    assert desk.gateway.activity().running == {LANE.decode(): 4}, "for who asks how many places are taken"
    more = await desk.deliver(delivery(), delivery())
    assert (full.held, free.held, desk.pool.room(), full.places) == (3, 3, -1, 1)
    sent = tasks_of(messages_of(full))
    assert len(sent) == 3
    # An end gives its place back, not another one.
    desk.receive(full, number=3, done=[sent[0].sequence], credit=1)
    assert (full.held, full.credit, desk.pool.room()) == (3, -2, 0)
    desk.receive(full, number=4, drain=True)
    assert (full.ahead, full.credit, desk.pool.room()) == (0, 0, 0)
    for task in (over, more):
        task.cancel()


@pytest.mark.parametrize("strict", [once, limited])
async def test_what_must_not_wait_gets_a_place_and_nothing_passes_it(strict: Any) -> None:
    desk = Desk()
    session = desk.open(credit=1)
    desk.receive(session, number=2, ahead=5)
    over = await desk.deliver(delivery(), strict(), delivery())
    sent = tasks_of(messages_of(session))
    assert len(sent) == 1 and session.held == 1
    assert desk.pool.room() < 0, "none is claimed to wait there"
    desk.receive(session, number=3, done=[sent[0].sequence], credit=1)
    second, third = tasks_of(messages_of(session))
    assert session.credit == -1
    desk.receive(session, number=4, done=[second.sequence, third.sequence], credit=2)
    await over
    assert set(desk.engine.outcomes.values()) == {DONE}
    assert (desk.pool.room(), session.ahead) == (1, 5), "for a while only places are claimed for"


@pytest.mark.parametrize("rule", [QueueRules(concurrency=5), QueueRules(rate=Rate(5, 1_000))])
async def test_what_holds_a_permit_of_its_queue_gets_a_place(rule: QueueRules) -> None:
    desk = Desk()
    desk.gateway._rules.take(1, {"mail": rule})
    session = desk.open(credit=1)
    desk.receive(session, number=2, ahead=5)
    over = await desk.deliver(delivery(), delivery())
    assert session.held == 1 and desk.pool.room() < 0
    over.cancel()


async def test_no_more_wait_at_a_worker_than_the_bound() -> None:
    desk = Desk()
    session = desk.open(credit=1)
    desk.receive(session, number=2, ahead=1 << 30)
    assert desk.pool.room() == 1 + MAX_AHEAD
    over = await desk.deliver(*(delivery() for _ in range(MAX_AHEAD + 10)))
    assert (session.held, session.ahead) == (1 + MAX_AHEAD, 0)
    over.cancel()


async def test_after_a_while_tasks_wait_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "_NO_WAITING_S", 0.0)
    desk = Desk()
    session = desk.open(credit=1)
    desk.receive(session, number=2, ahead=5)
    over = await desk.deliver(limited())
    assert desk.pool.room() == 5
    over.cancel()


async def test_suspects_get_places_before_others_wait() -> None:
    desk = Desk()
    session = desk.open(credit=1)
    desk.receive(session, number=2, ahead=5)
    over = await desk.deliver(*(delivery(losses=LOSSES_CAP - 1) for _ in range(2)))
    assert session.held == 1 and desk.pool.room() == 0
    plain = await desk.deliver(delivery())
    assert session.held == 1
    for task in (over, plain):
        task.cancel()


async def test_what_is_handed_back_goes_to_others_and_its_credit_is_granted_again() -> None:
    desk = Desk()
    session = desk.open(credit=1)
    desk.receive(session, number=2, ahead=1)
    over = await desk.deliver(delivery(), delivery())
    first, second = tasks_of(messages_of(session))
    desk.receive(session, number=3, handed_back=[second.sequence], credit=1, ahead=0)
    assert list(desk.engine.outcomes.values()) == [HAND_BACK]
    assert (session.credit, session.places, desk.pool.room()) == (0, 1, 0)
    desk.receive(session, number=4, done=[first.sequence], credit=1)
    await over
    assert (session.credit, session.places, desk.pool.room()) == (1, 1, 1)


class Wire:
    """Both halves of one session, with the messages between them on their way."""

    def __init__(self, size: int) -> None:
        self.desk = Desk()
        self.node: WorkerSession = self.desk.open()
        self.slots = Slots(size)
        self.worker: NodeSession[bool] = NodeSession(pb.Hello(), lambda: None)
        self.worker.hello()
        greeting = pb.Welcome(session="s1", heartbeat_ms=1_000, resume_ms=2_000, max_output=1_000, node="n")
        self.worker.receive(pb.ToWorker(welcome=greeting))
        self.slots.join(self.worker)
        self._up: deque[bytes] = deque()
        self._down: deque[bytes] = deque()
        self.strict: set[str] = set()

    def say(self) -> None:
        if raw := self.worker.flush(self.slots.room(self.worker), self.slots.ahead_of(self.worker)):
            self._up.append(raw)

    def arrive_up(self) -> None:
        if self._up:
            self.node.receive(pb.FromWorker.FromString(self._up.popleft()))
            self.desk.gateway.received(self.node)
            self._down += self.node.messages(idle=True)

    def arrive_down(self) -> None:
        if not self._down:
            return
        received = self.worker.receive(pb.ToWorker.FromString(self._down.popleft()))
        placed = len(received.tasks) - received.ahead
        for number, task in enumerate(received.tasks):
            self.worker.held[task.sequence] = ahead = number >= placed
            assert not (ahead and task.id in self.strict), "it was sent where no place is free"

    async def offer(self, some: list[Delivery]) -> None:
        self.strict |= {d.id for d in some if d.once}
        await self.desk.deliver(*some)
        self._down += self.node.messages()

    def settle(self) -> None:
        self.say()
        while self._up or self._down:
            self.arrive_up()
            self.arrive_down()
            self.say()


@given(st.integers(0, 2**32), st.integers(1, 4))
@example(311047, 1)
async def test_both_sides_count_alike_whatever_is_on_its_way(seed: int, size: int) -> None:
    draw, wire = random.Random(seed), Wire(size)
    most, drains = 0, 0
    for _ in range(draw.randint(5, 60)):
        match draw.randrange(8):
            case 0:
                wire.slots.ahead = draw.choice([0, 0, 1, 3, 8])
                most = max(most, wire.slots.ahead)
                wire.say()
            case 1:
                await wire.offer([draw.choice([delivery, delivery, once])() for _ in range(draw.randint(1, 4))])
            case 2 | 3 if wire.worker.held:
                wire.worker.done(draw.choice(list(wire.worker.held)))
            case 4 if wire.worker.held:
                late = [one for one, ahead in wire.worker.held.items() if ahead]
                wire.worker.hand_back(late[-1:])
            case 5 if draw.random() < 0.2:
                # What waited counts as running when the credit was taken back, and as many may wait again.
                drains += 1
                wire.worker.drain()
                wire.say()
            case 6:
                wire.say()
            case _:
                wire.arrive_up()
                wire.arrive_down()
        assert len(wire.worker.held) <= size + most * (1 + drains)
    wire.settle()
    assert wire.worker.credit == wire.node.credit
    assert wire.node.held == len(wire.worker.held)
    assert size <= wire.node.places == wire.worker.taken <= max(size, len(wire.worker.held))
    # All that is left can be ended, and then every place is offered again.
    for _ in range(400):
        for sequence in list(wire.worker.held):
            wire.worker.done(sequence)
        wire.settle()
    assert (wire.worker.credit, wire.node.room) == (size, size)


@given(st.integers(-5, 9), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9), st.booleans(), st.booleans())
def test_what_is_saved_or_taken_by_costs_is_neither_room_nor_at_hand(
    credit: int, extra: int, saved: int, ahead: int, connected: bool, leaving: bool
) -> None:
    session = Desk().open()
    session.credit, session.connected = credit, connected
    session.beyond.extra, session.beyond.saved, session.beyond.ahead = extra, saved, ahead
    if leaving:
        session.leave()
    assert session.room == max(0, session.free - saved)
    line = max(0, session.free - saved + ahead) - session.room
    assert session.ahead == (line if connected and not leaving else 0)
