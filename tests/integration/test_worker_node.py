"""The SDK against the real service: every kind of function, every kind of end, broken streams, several nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from delaybox.store.nodes import MemberList
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.worker import Runner
from tests.engines import until
from tests.ports import free_port
from tests.waiting import until_async
from tests.yard import PATIENT, QUICK, Yard, both_ways, yard

__all__ = ["yard"]  # the fixture

KEEP: dict[str, Any] = {"keep_result_ms": 60_000}


@pytest.fixture
def beats() -> Mapping[str, int]:
    """A worker that is well is given up by nobody, whatever the machine does."""
    return PATIENT


@both_ways
async def test_every_kind_of_function_gives_its_result(yard: Yard) -> None:
    await yard.worker()
    (one,) = await yard.call("echoes", {"a": [1, None]}, **KEEP)
    (two,) = await yard.call("sleeps", 0.01, **KEEP)
    (three,) = await yard.call("computes", 4, **KEEP)
    (four,) = await yard.call("echoes", None, **KEEP)
    outputs = [(await yard.ends(task)).result.output for task in (one, two, three, four)]
    assert outputs == [b'{"a":[1,null]}', b"0.01", b"14", b""]
    await yard.sound()


@both_ways
async def test_failures_are_tried_again_by_the_functions_own_rules(yard: Yard) -> None:
    await yard.worker()
    (well,) = await yard.call("fails", 2, **KEEP)
    (never,) = await yard.call("fails", 9)
    (own,) = await yard.call("fails", 9, retry={"max_attempts": 1})
    (put_off,) = await yard.call("later", **KEEP)
    found = await yard.ends(well)
    assert (found.state, found.result.output) == (pb.TASK_STATE_SUCCEEDED, b"2")
    found = await yard.ends(never)
    assert (found.state, found.reason) == (pb.TASK_STATE_FAILED, "ConnectionError: attempt 2")
    assert len(yard.oracle.begun()[never]) == 3
    assert (await yard.ends(own)).reason == "ConnectionError: attempt 0"
    assert (await yard.ends(put_off)).result.output == b'"at last"'


@both_ways
async def test_a_task_may_put_itself_off_more_often_than_it_has_attempts(yard: Yard) -> None:
    await yard.worker()
    (often,) = await yard.call("waits", 7, retry={"max_attempts": 1}, **KEEP)
    (ever,) = await yard.call("waits", 10**6, max_snooze_ms=100, **KEEP)
    found = await yard.ends(often)
    assert (found.result.output, found.attempt, found.deliveries) == (b"8", 0, 8)
    found = await yard.ends(ever)
    assert (found.state, found.attempt, found.max_snooze_ms) == (pb.TASK_STATE_FAILED, 0, 100)
    assert found.reason == "it was put off for longer than its max_snooze of 0.1 s; the last time: not yet"
    assert found.result.reason == found.reason
    await yard.sound()


@both_ways
@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("rejects", (), "an order without lines"),
        ("unencodable", (), "NotEncodable: the result cannot be sent as application/json"),
        ("echoes", (), "MisfitArguments: the arguments do not fit echoes("),
        ("hangs", (), "timed out after 0.2 s"),
    ],
)
async def test_what_ends_for_good_is_a_dead_letter_that_says_why(
    yard: Yard, name: str, arguments: Sequence[Any], reason: str
) -> None:
    await yard.worker()
    (task,) = await yard.call(name, *arguments, **KEEP)
    found = await yard.ends(task)
    assert found.state == pb.TASK_STATE_FAILED
    assert found.reason.startswith(reason)


@both_ways
async def test_at_most_once_runs_once_whatever_comes_of_it(yard: Yard) -> None:
    await yard.worker()
    (well,) = await yard.call("fails", 0, delivery=pb.DELIVERY_AT_MOST_ONCE)
    (bad,) = await yard.call("fails", 9, delivery=pb.DELIVERY_AT_MOST_ONCE)
    (after,) = await yard.call("fails", 2, **KEEP)
    assert (await yard.ends(after)).state == pb.TASK_STATE_SUCCEEDED
    await until_async(lambda: {well, bad} <= yard.oracle.begun().keys())
    begun = yard.oracle.begun()
    assert [len(begun[task]) for task in (well, bad, after)] == [1, 1, 3]
    await yard.sound()


async def test_a_cpu_process_that_dies_costs_an_attempt_of_its_task_alone(yard: Yard) -> None:
    await yard.worker(cpu_processes=2)
    (bad,) = await yard.call("dies", retry={"max_attempts": 2, "initial_ms": 1, "factor": 1, "max_ms": 1})
    good = [(await yard.call("computes", 1_000, **KEEP))[0] for _ in range(4)]
    found = await yard.ends(bad)
    assert found.reason == "its process died: exit code 9"
    assert len(yard.oracle.begun()[bad]) == 2
    assert {(await yard.ends(task)).result.output for task in good} == {b"332833500"}


@both_ways
async def test_progress_is_seen_and_a_running_task_can_be_cancelled(yard: Yard) -> None:
    await yard.worker()
    (task,) = await yard.call("reports", **KEEP)
    await yard.begun(task)
    await yard.store.servers.publish(yard.store.control_channel, f"cancel {task}")

    async def cancelled() -> bool:
        return (await yard.info(task)).state == pb.TASK_STATE_CANCELLED

    await until(cancelled)
    await yard.sound()


@both_ways
async def test_a_function_that_nobody_serves_waits_for_a_worker_that_does(yard: Yard) -> None:
    await yard.worker(queues=["other"])
    (task,) = await yard.call("quick")
    (theirs,) = await yard.call("quick", queue="other")
    await yard.begun(theirs)
    assert task not in yard.oracle.begun()
    await yard.worker(queues=["default"])
    await yard.begun(task)
    await yard.sound()


@both_ways
async def test_concurrency_is_never_exceeded(yard: Yard) -> None:
    await yard.worker(concurrency=3, queues=[])
    made = await yard.call("naps", 0.02, count=40)
    await yard.begun(*made)
    await yard.sound()
    at_once = most = 0
    for line in yard.oracle.file.read_text().splitlines():
        at_once += 1 if line[0] == "+" else -1
        most = max(most, at_once)
    assert most == 3


async def test_a_stream_that_breaks_is_resumed_and_nothing_is_handed_out_twice(yard: Yard) -> None:
    proxy = await yard.proxy(yard.rpc)
    runner = await yard.worker(f"127.0.0.1:{proxy.port}", concurrency=20)
    made = await yard.call("naps", 0.5, count=20)
    await yard.begun(*made)
    for breaks in range(1, 4):
        assert proxy.reset_all() > 0
        await until(lambda: runner.stats.streams == 3 * (breaks + 1))  # noqa: B023 - waited for at once
        made += await yard.call("naps", 0.3, count=5)
    await yard.begun(*made)
    await yard.sound()
    assert {task: [1] for task in made} == dict(yard.oracle.begun())
    assert runner.stats.done == len(made)
    assert runner.stats.lost == 0


@pytest.mark.parametrize("beats", [QUICK], ids=["quick"])
async def test_a_node_that_is_away_for_longer_has_given_the_tasks_to_others(yard: Yard) -> None:
    """The cable is cut, no end is told: both sides find out by silence."""
    proxy = await yard.proxy(yard.rpc)
    runner = await yard.worker(f"127.0.0.1:{proxy.port}", concurrency=5)
    made = await yard.hold(5)
    await yard.begun(*made)
    proxy.gate.clear()
    other = await yard.worker(concurrency=5)
    await until(lambda: all(len(t) > 1 for t in yard.oracle.begun().values()))
    await until(lambda: runner.stats.lost == 5)
    proxy.gate.set()
    yard.gate.touch()
    await yard.sound()
    # Those of the first worker were stopped; each was done once.
    ended = yard.oracle.ended()
    assert ended.keys() == set(made) and all(len(tokens) == 1 and tokens != [1] for tokens in ended.values()), ended
    assert (runner.stats.done, other.stats.done) == (0, 5)


async def test_a_node_that_ends_in_order_gets_its_answers_first(yard: Yard) -> None:
    second = await yard.node(port=free_port(), grace_s=30.0)
    runner = await yard.worker(second.address)
    made = await yard.hold(4)
    await yard.begun(*made)
    stopping = asyncio.create_task(second.process.stop())

    async def ends() -> bool:
        return bool((await MemberList(yard.store).read()).ending)

    await until(ends)
    waiting = await yard.call("naps", 0.1, count=8)
    await asyncio.sleep(0.5)  # it might take them
    assert not stopping.done()
    yard.gate.touch()
    await stopping
    assert runner.stats.done == 4, "it waited for them"
    assert not set(waiting) & set(yard.oracle.begun()), "it took no more"
    await yard.node(port=second.process.port)
    await yard.begun(*waiting)
    await yard.sound()
    assert {task: [1] for task in made + waiting} == dict(yard.oracle.ended())


async def test_places_are_shared_among_nodes_and_go_over_when_one_dies(yard: Yard) -> None:
    second = await yard.node()
    runner = await yard.worker(yard.rpc.address, second.address, concurrency=4)
    await until(lambda: _credits(runner) == [2, 2])
    made = await yard.call("naps", 0.2, count=8)
    await yard.begun(*made)
    await second.process.stop()
    await until(lambda: max(_credits(runner)) == 4)
    made += await yard.call("naps", 0.05, count=20)
    await yard.begun(*made)
    await yard.sound()


def _credits(runner: Runner) -> list[int]:
    return sorted(line.session.taken for line in runner._lines.values() if line.crew.kind.value == "async")
