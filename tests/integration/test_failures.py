"""Each failed attempt keeps its reason and traceback, within bounds; every way of looking at the task shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from delaybox.cli import render
from delaybox.client import AsyncClient
from delaybox.core import ids
from delaybox.core.delivery import Delivery, Failed, Report
from delaybox.core.history import FAILURES_EACH, FAILURES_EACH_BYTES, HistoryRules
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import FailedAttempt, NewTask, TaskResult, TaskState, TaskType
from delaybox.service import Service
from delaybox.service import failures as notes
from delaybox.store import failures, keys
from delaybox.store.fsck import fsck
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.json import rendering
from tests.engines import running, until
from tests.lab import Lab
from tests.yard import Yard, yard

__all__ = ["yard"]  # the fixture
RULES = HistoryRules(keep_ms=3_600_000)
KEEP_MS = RULES.keep_failed_ms


def attempts(found: Any) -> list[int]:
    return [one.attempt for one in found.failures]


async def known(yard: Yard, task: str, count: int) -> pb.TaskInfo:
    """The task, once so many failures are written down: that takes a tenth of a second."""

    async def there() -> bool:
        return len((await yard.info(task)).failures) >= count

    await until(there)
    return await yard.info(task)


async def test_every_way_of_looking_shows_each_attempt(yard: Yard) -> None:
    yard.rpc = await yard.node(history=RULES)
    await yard.worker()
    (fails,) = await yard.call("fails", 9)
    (succeeds,) = await yard.call("fails", 1)
    await yard.ends(fails)
    found = await known(yard, fails, 3)
    assert attempts(found) == [1, 2, 3]
    for number, one in enumerate(found.failures):
        assert one.reason == f"ConnectionError: attempt {number}"
        assert "in fails" in one.traceback and one.traceback.rstrip().endswith(one.reason)
        assert one.node and 0 < one.fired_ms <= one.failed_ms
    # Lists stay small.
    pages = [page async for page in yard.rpc.scheduler.ListDead(pb.ListRequest(limit=10))]
    ((listed,),) = [page.tasks for page in pages if page.tasks]
    assert not listed.failures
    # REST, Python, the command line.
    view = await Service(yard.store).get(fails)
    shown = rendering.task(view)
    assert [(one.attempt, one.reason, one.traceback) for one in shown.failures] == [
        (one.attempt, one.reason, one.traceback) for one in found.failures
    ]
    async with AsyncClient(yard.rpc.address) as client:
        mine = (await client.get(fails)).failures
        assert [one.traceback for one in mine] == [one.traceback for one in found.failures]
        assert mine[0].failed.timestamp() * 1000 == pytest.approx(found.failures[0].failed_ms, abs=1)
        # One that succeeded in the end has them too.
        await yard.ends(succeeds)
        await known(yard, succeeds, 1)
        assert [one.reason for one in (await client.get(succeeds)).failures] == ["ConnectionError: attempt 0"]
    words = render.one(msgspec.to_builtins(shown), 0)
    assert "attempt 1" in words and words.count("in fails") == 3
    # Brought back it fails again: its first life is still there. Discarded, nothing of it is.
    raw = ids.parse(fails)
    assert await yard.store.replay([raw]) == ["replayed"]
    await yard.ends(fails)
    assert attempts(await known(yard, fails, 6)) == [1, 2, 3, 1, 2, 3]
    await yard.store.discard(ids.partition(raw), [raw])
    assert await failures.of(yard.store, raw) == ()
    await yard.sound()


class Printing:
    """Fails every attempt, as a command does that prints something."""

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        result = TaskResult(ok=False, finished_ms=1, output=b"no such file\n", reason="exit code 1")
        report(batch, Failed("exit code 1", result=result, keep_ms=60_000))


async def test_of_a_command_it_keeps_what_was_printed(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    service = Service(store, history=RULES)
    policy = RetryPolicy(max_attempts=2, initial_ms=10, max_ms=10, jitter=0)
    async with running(store, {TaskType.SHELL_CMD: Printing()}, history=RULES):
        (answer,) = await service.submit_many([NewTask(type=TaskType.SHELL_CMD, payload=b"x", retry=policy)])
        task = answer.task_id  # type: ignore[union-attr]

        async def over() -> bool:
            return len((await service.get(task)).failures) == 2

        await until(over)
    view = await service.get(task)
    assert view.state is TaskState.FAILED
    assert [(one.attempt, one.reason, one.traceback) for one in view.failures] == [
        (1, "exit code 1", "no such file\n"),
        (2, "exit code 1", "no such file\n"),
    ]
    await service.close()


def one(number: int, *, traceback: str = "") -> FailedAttempt:
    return FailedAttempt(
        attempt=number, fired_ms=1, failed_ms=2, node="n", reason=f"reason {number}", traceback=traceback
    )


async def explained(lab: Lab, task_id: bytes, *numbers: int, rules: HistoryRules = RULES, traceback: str = "") -> int:
    some = [(task_id, failures.failure(number, one(number, traceback=traceback))) for number in numbers]
    return int(await lab.store.runner.run(failures.remember_call(lab.store, 0, rules, some)))


async def test_they_are_bounded_for_each_task_and_in_all(lab: Lab) -> None:
    ids_ = [await _scheduled(lab) for _ in range(6)]
    first = ids_[0]
    await explained(lab, first, *range(1, 26))
    assert [f.attempt for f in await failures.of(lab.store, first)] == list(range(26 - FAILURES_EACH, 26))
    # The same call sent again adds nothing.
    await explained(lab, first, 24, 25)
    assert [f.attempt for f in await failures.of(lab.store, first)] == list(range(26 - FAILURES_EACH, 26))
    await explained(lab, first, 26, 27, 28, 29, 30, traceback="x" * 20_000)
    found = await failures.of(lab.store, first)
    assert [f.attempt for f in found] == [28, 29, 30], f"more than {FAILURES_EACH_BYTES} bytes"
    assert {len(f.traceback) for f in found} == {8 * 1024} and found[0].traceback.startswith("[...]")
    # In all: the tasks whose last failure is oldest go.
    small = HistoryRules(keep_ms=3_600_000, failures=3 * 9_000)
    for task_id in ids_[1:]:
        await lab.move(1)
        await explained(lab, task_id, 1, rules=small, traceback="y" * 8_000)
    left = [bool(await failures.of(lab.store, task_id)) for task_id in ids_]
    assert left == [False, False, False, True, True, True]
    # What is old goes with the next failure, and all of it by itself where none comes.
    await lab.move(KEEP_MS + 1)
    await explained(lab, ids_[5], 2)
    assert [bool(await failures.of(lab.store, task_id)) for task_id in ids_[3:]] == [False, False, True]
    for key in (keys.failures(lab.tag), keys.failures_at(lab.tag), keys.failures_bytes(lab.tag)):
        assert KEEP_MS < await lab.client.pttl(key) <= KEEP_MS + 600_000
    assert await lab.problems() == []


async def test_long_tracebacks_behind_many_short_reasons_stay_within_the_bound(lab: Lab) -> None:
    """Each call forgets so many tasks at most, and those that failed first were small."""
    rules = HistoryRules(keep_ms=3_600_000, failures=2**20)

    async def note(first: int, traceback: str) -> int:
        some = [((first + i).to_bytes(16, "big"), failures.failure(1, one(1, traceback=traceback))) for i in range(100)]
        return int(await lab.store.runner.run(failures.remember_call(lab.store, 0, rules, some)))

    for call in range(60):
        await note(call * 100, "")
    dropped = [await note(10_000 + call * 100, "x" * 8_000) for call in range(5)]
    assert int(await lab.client.get(keys.failures_bytes(lab.tag)) or 0) <= 2 * 2**20
    assert all(dropped[1:]), "what is not kept is counted"


async def _scheduled(lab: Lab) -> bytes:
    (task_id,) = await lab.add(NewTask(delay_ms=1_000))
    return task_id


class Quick:
    """Fails everything for good."""

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        report(batch, Failed("no", retryable=False))


async def test_of_very_many_failures_most_leave_no_reason(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "BURST", 20)
    monkeypatch.setattr(notes, "A_SECOND", 0)
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    service = Service(store, history=RULES)
    async with running(store, {TaskType.PUB_SUB: Quick()}, history=RULES, channel=""):
        await service.submit_many([NewTask() for _ in range(100)])

        async def all_dead() -> bool:
            return sum(c.dead for c in await store.counts()) == 100

        await until(all_dead)
    assert await store.servers.ask("HLEN", keys.failures(store.tags[0])) == 20
    assert (await fsck(store)).problems == []
    await service.close()
