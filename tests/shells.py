"""A shell target without a store, and a look at what its commands leave behind."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from delaybox.core.delivery import Delivery, Done, Failed, Outcome
from delaybox.core.lane import lane_of
from delaybox.core.needs import WorkerNeeds
from delaybox.core.task import NewTask, TaskResult, TaskType
from delaybox.targets.shell import ShellOptions, ShellTarget
from delaybox.wire import body
from tests.waiting import until_async


def delivery(payload: bytes | str = b"", *, attempt: int = 0, token: int = 1, cost: int = 1, **task) -> Delivery:
    raw = payload.encode() if isinstance(payload, str) else payload
    new = NewTask(payload=raw, type=TaskType.SHELL_CMD, **task)
    lane = lane_of(new.type, new.queue, new.name + WorkerNeeds(cost).text())
    return Delivery(os.urandom(16), 0, b"lease", token, attempt, 0, 0, lane, False, body.encode(new))


class Desk:
    """A running target, and what it reported."""

    def __init__(self, target: ShellTarget) -> None:
        self.target = target
        self.outcomes: dict[str, Outcome] = {}
        self.order: list[str] = []

    def report(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        for d in deliveries:
            assert d.id not in self.outcomes, "reported twice"
            self.outcomes[d.id] = outcome
            self.order.append(d.id)

    async def run(self, *deliveries: Delivery) -> list[Outcome]:
        await self.target.deliver(deliveries, self.report)
        return [self.outcomes[d.id] for d in deliveries]

    async def result(self, payload: bytes | str, **task) -> TaskResult:
        """The result of one command, whether it failed or not."""
        (outcome,) = await self.run(delivery(payload, **task))
        assert isinstance(outcome, Done | Failed), outcome
        assert outcome.result is not None
        return outcome.result


@contextlib.asynccontextmanager
async def desk(**options) -> AsyncIterator[Desk]:
    target = ShellTarget(ShellOptions(**{"payloads": True, "concurrency": 4, **options}))
    await target.start()
    try:
        yield Desk(target)
    finally:
        await target.stop()


def mark() -> str:
    """A word to know processes by: export it in a command, or put it into its arguments."""
    return f"mark{uuid.uuid4().hex}"


def alive(word: str) -> list[int]:
    """Processes that carry the word in their arguments or environment."""
    raw = word.encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if raw in (entry / "cmdline").read_bytes() or raw in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


async def until_dead(word: str) -> list[int]:
    """Those still alive when the time is over; they would live for a minute."""
    left: list[int] = []

    def none() -> bool:
        left[:] = alive(word)
        return not left

    with contextlib.suppress(AssertionError):
        await until_async(none, within_s=20.0)
    return left


async def until_alive(word: str, count: int = 1) -> None:
    """Returns when so many of them run."""
    await until_async(lambda: len(alive(word)) >= count, lambda: f"{alive(word)} of {count} came up")
