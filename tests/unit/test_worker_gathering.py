"""How many messages a worker sends for the ends of its tasks, and how long an end waits for others; in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from delaybox.client.channel import ChannelTarget
from delaybox.wire.gen import task_pb2
from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker import Worker
from delaybox.worker.attempt import Common
from delaybox.worker.coroutines import Coroutines
from delaybox.worker.functions import FunctionKind
from delaybox.worker.gathering import MOST_ENDS, MOST_S, QUEUED_S
from delaybox.worker.line import WorkerLine
from delaybox.worker.runner import CREWS
from tests.virtual_time import VirtualLoop

WAY_S = 0.002
"""From a worker's message to the tasks that a node sends for it."""

worker = Worker("naps", concurrency=200)
PARTS: dict[str, Callable[[], float]] = {}


@worker.task
async def nap(name: str) -> None:
    await asyncio.sleep(PARTS[name]())


@worker.task
async def answer(name: str) -> str:
    await asyncio.sleep(PARTS[name]())
    return name


class Node:
    """Gives a task for each credit, up to ``count``, and notes each of the worker's messages."""

    def __init__(self, count: int, function: str, nap: Callable[[], float], *, size: int) -> None:
        self.left = count
        self.function = function
        self.messages: list[tuple[float, pb.FromWorker]] = []
        self.ended_at: dict[int, float] = {}
        self.reported_at: dict[int, float] = {}
        self._sequences, self._numbers = itertools.count(1), itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self.over = self._loop.create_future()
        self._count, self._size = count, size
        PARTS["x"] = nap
        common = Common()
        common.bind()
        self.crew = CREWS[FunctionKind.ASYNC](worker.functions, size=size, common=common)
        assert isinstance(self.crew, Coroutines)
        target = ChannelTarget(("node:1",), None, (), ())
        self.line = WorkerLine("node", target, self.crew, pb.Hello(), replace=lambda *_: None)
        self.crew.freed = self.line.poke
        session = self.line.session
        self._done, session.done = session.done, self._noted  # type: ignore[method-assign]
        session.hello()
        session.receive(pb.ToWorker(welcome=pb.Welcome(session="s", heartbeat_ms=60_000, resume_ms=60_000)))
        self.crew.slots.join(session)

    def _noted(self, sequence: int) -> None:
        self.ended_at[sequence] = self._loop.time()
        self._done(sequence)

    async def write(self, raw: bytes) -> None:
        """As the call's."""
        message = pb.FromWorker.FromString(raw)
        now = self._loop.time()
        self.messages.append((now, message))
        self.reported_at |= dict.fromkeys([*message.done, *(one.sequence for one in message.succeeded)], now)
        give = min(message.credit, self.left)
        if give:
            self.left -= give
            self._loop.call_later(WAY_S, self._send, give)
        if len(self.reported_at) == self._count and not self.over.done():
            self.over.set_result(None)

    def _send(self, give: int) -> None:
        want = self.function == "answer"
        tasks = [
            pb.Assignment(
                sequence=next(self._sequences), name=self.function, want_result=want,
                task=task_pb2.Task(payload=b'"x"'),
            )
            for _ in range(give)
        ]  # fmt: skip
        received = self.line.session.receive(pb.ToWorker(number=next(self._numbers), tasks=tasks))
        self.crew.handle(self.line.session, received)

    async def run(self) -> None:
        """Until the end of every task was reported."""
        writing = asyncio.ensure_future(self.line._send(self))  # type: ignore[arg-type]
        await asyncio.wait({writing, self.over}, return_when=asyncio.FIRST_COMPLETED)
        writing.cancel()
        await asyncio.wait({writing})

    @property
    def waits(self) -> list[float]:
        """How long each end that says nothing more waited."""
        return [at - self.ended_at[sequence] for sequence, at in self.reported_at.items() if sequence in self.ended_at]


def virtually(run: Callable[[], Coroutine[Any, Any, Node]]) -> Node:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


async def naps(count: int, *, size: int, function: str = "nap", within_s: float = 0.05) -> Node:
    """Functions of 50 ms; those that begin together end ``within_s`` of each other."""
    shares = itertools.cycle([(n * 7919 % 1000) / 1000 for n in range(1000)])
    node = Node(count, function, lambda: 0.05 + within_s * (next(shares) - 0.5), size=size)
    await node.run()
    return node


def test_ends_that_come_one_at_a_time_are_reported_many_together() -> None:
    node = virtually(lambda: naps(4_000, size=200))
    assert len(node.messages) < 4_000 / 12, "with a message a millisecond it is one for four tasks"
    assert max(node.waits) <= MOST_S + 0.001


@pytest.mark.parametrize("within_s", [0.001, 0.002, 0.005])
def test_where_tasks_come_and_end_together_no_place_waits_as_if_others_had_not_begun(within_s: float) -> None:
    """Those that had just come were not begun yet: the next message waited for 20 ms, and all places with it."""
    node = virtually(lambda: naps(4_000, size=200, within_s=within_s))
    assert max(node.waits) <= 1.5 * MOST_S + 0.0011
    assert len(node.messages) < 4_000 / 12


def test_no_more_than_a_tenth_of_the_places_wait_for_it() -> None:
    node = virtually(lambda: naps(4_000, size=200))
    assert max(len(message.done) for _, message in node.messages[1:-1]) <= 200 // 10 + 10
    few = virtually(lambda: naps(2_000, size=8))
    assert max(few.waits) <= 0.0011, "in eight places each end is reported at once"


def test_where_little_ends_each_end_is_reported_at_once() -> None:
    node = virtually(lambda: naps(400, size=30))  # 600 a second
    assert max(node.waits) <= 0.0011


def test_results_do_not_wait() -> None:
    node = virtually(lambda: naps(2_000, size=200, function="answer"))
    assert len(node.messages) > 2_000 / 8
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(node.messages[20:-1])]
    assert sorted(gaps)[len(gaps) // 2] < 0.0011


class Busy:
    """A crew whose stepper runs ``each`` tasks, which take no time, in a turn of ``turn_s``; the others wait."""

    def __init__(self, count: int, each: int, *, turn_s: float, size: int) -> None:
        self.node = Node(count, "nap", lambda: 0.0, size=size)
        self.each, self.turn_s = each, turn_s
        self.left: list[int] = []
        """How many had not begun when a message went out."""

    async def run(self) -> None:
        node = self.node
        session, crew = node.line.session, node.crew
        assert isinstance(crew, Coroutines)
        write = node.write

        async def noted(raw: bytes) -> None:
            self.left.append(crew.queued)
            await write(raw)

        node.write = noted  # type: ignore[method-assign]

        async def turns() -> None:
            while not node.over.done():
                for run in list(session.held.values())[: self.each]:
                    session.done(run.sequence)
                    crew._queue.popleft()
                await asyncio.sleep(self.turn_s)

        crew._begin = crew._queue.extend  # type: ignore[assignment, method-assign]
        stepping = asyncio.ensure_future(turns())
        await node.run()
        stepping.cancel()


async def busy(each: int, *, turn_s: float, count: int, size: int) -> Busy:
    crew = Busy(count, each, turn_s=turn_s, size=size)
    await crew.run()
    return crew


def busily(each: int, *, turn_s: float, count: int, size: int = 200) -> Busy:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(busy(each, turn_s=turn_s, count=count, size=size))


def test_while_tasks_wait_for_their_turn_ends_are_reported_as_late_as_others_come_in_time() -> None:
    """With half of them it was a third more messages."""
    crew = busily(10, turn_s=0.0023, count=6_000)  # 4,350 a second
    full = crew.node.messages[5:-3]
    assert min(len(message.done) for _, message in full) >= 120, "more than half of 200"
    assert min(crew.left[5:-3]) >= 43, "what takes 10 ms"
    assert max(crew.node.waits) <= QUEUED_S + 0.005


def test_of_tasks_that_take_next_to_nothing_some_hundreds_are_reported_together() -> None:
    """Of 4,000 it was half, and the node claimed 2,000 in one piece while the worker ran out of the others."""
    crew = busily(100, turn_s=0.00125, count=60_000, size=4_000)  # 80,000 a second
    reported = [len(message.done) for _, message in crew.node.messages[5:-5]]
    assert max(reported) <= MOST_ENDS + 100
    assert min(reported) >= MOST_ENDS
