"""Leases end by ack, failure, hand-back or expiry; dead letters come back or go. Nobody settles what is not theirs."""

from __future__ import annotations

import os

import pytest

from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.store import keys
from delaybox.store.leases import new_lease
from delaybox.store.loader import ScriptCall
from delaybox.store.record import read_dead
from tests.lab import Lab
from tests.reaping import LEASE_MS, reap, watched
from tests.waiting import PATIENCE_S


async def due_again(lab: Lab, task_id: bytes) -> None:
    """Moves the time to when the task is due, which lies at home."""
    await lab.move(max(0, (await lab.record(task_id)).due_ms - lab.now))
    await lab.expand()


async def test_an_ack_completes_and_leaves_nothing(lab: Lab) -> None:
    added = await lab.add(NewTask(), NewTask(payload=bytes(5_000)), NewTask(idempotency_key="k"))
    await lab.lease(b"L")
    assert await lab.store.ack(0, b"L", added[:1]) == []
    assert await lab.client.zscore(keys.leases(lab.tag), b"L") is not None
    assert await lab.store.ack(0, b"L", added[1:]) == []
    for pattern in ("lease*", "b:*", "body:*", "near:*"):
        assert await lab.names(pattern) == []


@pytest.mark.parametrize("settle", ["ack", "fail", "release"])
async def test_what_is_not_in_the_lease_is_refused(lab: Lab, settle: str) -> None:
    mine, theirs = await lab.add(NewTask(), NewTask())
    (pending,) = await lab.add(NewTask(delay_ms=60_000))
    assert len(await lab.lease(b"mine", slots=1)) == 1
    assert len(await lab.lease(b"theirs")) == 1
    held = {(await lab.find(i)).lease_id: i for i in (mine, theirs)}

    async def run(task_id: bytes, lease_id: bytes = b"mine") -> list[bytes]:
        if settle == "fail":
            return (await lab.store.fail(0, lease_id, [(task_id, 0, "no")]))[0]
        return await (lab.store.ack if settle == "ack" else lab.store.release)(0, lease_id, [task_id])

    for stranger in (held[b"theirs"], pending, os.urandom(16)):
        assert await run(stranger) == [stranger]
    assert (await lab.find(held[b"theirs"])).place == "lease"
    assert (await lab.find(pending)).place == "home"
    assert await run(held[b"mine"], b"no such lease") == [held[b"mine"]]
    assert await run(held[b"mine"]) == []
    assert await run(held[b"mine"]) == [held[b"mine"]], "a second time it is stale"


async def test_a_zombie_is_refused_after_its_lease_was_reaped(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask())
    await lab.lease(b"zombie")
    assert (await watched(lab)).back == 1
    got = await lab.lease(b"next")
    assert (got[task_id].losses, got[task_id].attempt, got[task_id].deliveries) == (1, 0, 2)
    assert await lab.store.ack(0, b"zombie", [task_id]) == [task_id]
    assert await lab.store.extend(0, [b"zombie", b"next"], LEASE_MS) == [b"zombie"]
    assert await lab.store.ack(0, b"next", [task_id]) == []


async def test_a_heartbeat_keeps_a_lease(lab: Lab) -> None:
    await lab.add(NewTask())
    await lab.lease(b"L")
    for _ in range(5):
        assert (await watched(lab, LEASE_MS - 1)).leases == 0
        assert await lab.store.extend(0, [b"L"], LEASE_MS) == []
    assert (await watched(lab)).leases == 1


async def test_a_failure_charges_an_attempt_and_a_hand_back_nothing(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(priority=Priority.HIGH))
    await lab.lease(b"A")
    assert await lab.store.fail(0, b"A", [(task_id, 700, "no")]) == ([], 0)
    r = await lab.record(task_id)
    assert (r.attempt, r.losses, r.due_ms, r.priority) == (1, 0, lab.now + 700, 1)
    assert (await lab.claim()).leased == []
    await lab.move(700)
    await lab.lease(b"B")
    assert await lab.store.release(0, b"B", [task_id]) == []
    assert task_id in await lab.lease(b"C"), "handed back, it is due as it was"
    await lab.store.release(0, b"C", [task_id], delay_ms=50)
    assert (await lab.claim()).leased == []
    r = await lab.record(task_id)
    assert (r.attempt, r.losses, r.deliveries, r.due_ms) == (1, 0, 3, lab.now + 50)


async def test_a_retry_past_the_horizon_is_found_through_its_pointer(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask())
    await lab.lease(b"A")
    due = lab.now + 3_600_000
    await lab.store.fail(0, b"A", [(task_id, 3_600_000, "no")])
    assert await lab.near() == {}
    assert await lab.client.hgetall(keys.bucket(lab.tag, due // 1_000)) == {task_id: b""}
    await lab.move(3_600_000)
    await lab.expand()
    assert await lab.names("b:*") == [keys.bucket(lab.tag, (due - 3_600_000) // 1_000).encode()]
    assert task_id in await lab.lease(b"B")


async def test_a_task_that_lost_its_node_three_times_is_dead(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(type=TaskType.SHELL_CMD, payload=bytes(3_000)))
    for n in range(3):
        assert task_id in await lab.lease(bytes([n]))
        reaped = await watched(lab)
    assert (reaped.back, reaped.dead) == (0, 1)
    found = await lab.find(task_id)
    died, reason, record = read_dead(task_id, found.value)
    assert (found.place, died, reason) == ("dead", lab.now, "lost with its node 3 times")
    assert (record.losses, record.attempt, record.deliveries) == (3, 0, 3)
    assert len(found.body) > 3_000, "whole, with its body"
    assert (await lab.claim()).leased == []


@pytest.mark.parametrize("carried", [NewTask(), NewTask(type=TaskType.WORKER, name="f")], ids=["message", "call"])
async def test_what_a_node_only_carries_is_not_blamed_for_the_nodes_that_die_with_it(
    lab: Lab, carried: NewTask
) -> None:
    (task_id,) = await lab.add(carried)
    for n in range(20):
        assert (await lab.find(task_id)).place == "home"
        await due_again(lab, task_id)
        assert (await lab.lease(bytes([n])))[task_id].losses == n
        await watched(lab)
    found = await lab.find(task_id)
    assert found.place == "dead" and b"lost with its node 20 times" in found.value
    assert read_dead(task_id, found.value)[2].losses == 20


async def test_a_call_that_nodes_die_with_again_and_again_is_tried_ever_less_often(lab: Lab) -> None:
    """It may be what kills them, together with its worker. Those that only ran beside it come back apart from it."""
    calls = await lab.add(*[NewTask(type=TaskType.WORKER, name="f")] * 2, NewTask(type=TaskType.WORKER, name="g"))
    waits: list[list[int]] = []
    for n in range(1, 20):
        for task_id in calls:
            await due_again(lab, task_id)
        lease_id = new_lease(LEASE_MS)
        assert len(await lab.lease(lease_id)) == 3
        await watched(lab, LEASE_MS + LEASE_MS // 4)
        assert await lab.client.exists(keys.lease(lab.tag, lease_id)) == 0
        waits.append([(await lab.record(task_id)).due_ms - lab.now for task_id in calls])
        least = min(LEASE_MS * 2 ** (n - 3), 600_000)
        # By their ids, whose ends are random, each at a time of its own.
        parts = {least * int.from_bytes(task_id[-2:]) // 65_536 for task_id in calls}
        assert n < 3 or len(set(waits[-1])) == len(parts)
    assert max(max(waits[n]) for n in (0, 1)) <= 0, "at once at first"
    for n, wait in enumerate(waits[2:]):
        least = min(LEASE_MS * 2**n, 600_000)
        assert all(least - LEASE_MS // 2 <= one <= 2 * least for one in wait), (n, wait)


async def test_a_worker_that_claimed_for_itself_is_charged_as_a_worker(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(type=TaskType.WORKER, name="f"))
    for n in range(3):
        lease_id = new_lease(LEASE_MS, of_worker=True)
        assert len(lease_id) == 20
        assert (await lab.lease(lease_id))[task_id].blamed == n
        await watched(lab)
    found = await lab.find(task_id)
    assert found.place == "dead" and b"lost with its worker 3 times" in found.value


async def test_losses_of_a_call_with_nodes_and_with_workers_are_counted_apart(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(type=TaskType.WORKER, name="f"))
    for n in range(3):
        await lab.lease(bytes([n]))
        await watched(lab)
    await due_again(lab, task_id)
    for n in range(2):
        await lab.lease(bytes([8, n]))
        assert await lab.store.lose(0, bytes([8, n]), [task_id], losses_cap=3) == ([], 0, 0)
    record = (await lab.lease(b"last"))[task_id]
    assert (record.losses, record.blamed) == (5, 2)
    assert await lab.store.release(0, b"last", [task_id]) == []
    assert (await lab.record(task_id)).losses == 5, "a hand-back charges nothing"
    await lab.lease(b"last")
    assert await lab.store.lose(0, b"last", [task_id], losses_cap=3) == ([], 1, 0)
    found = await lab.find(task_id)
    assert b"lost with its worker 3 times" in found.value
    assert read_dead(task_id, found.value)[2].losses == 6


async def test_a_replayed_task_starts_again_but_its_token_only_rises(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(idempotency_key="k"))
    await lab.lease(b"A")
    await lab.store.fail(0, b"A", [(task_id, None, "why \u00e9\n")])
    assert read_dead(task_id, (await lab.find(task_id)).value)[1] == "why \u00e9\n"
    assert await lab.store.cancel([task_id]) == ["dead"]
    await lab.move(5_000)
    assert await lab.store.replay([task_id, os.urandom(6) + task_id[6:]]) == ["replayed", "unknown"]
    record = (await lab.lease(b"B"))[task_id]
    assert (record.attempt, record.losses, record.deliveries, record.due_ms) == (0, 0, 2, lab.now)
    assert await lab.store.ack(0, b"B", [task_id]) == []


async def test_dead_letters_are_capped_oldest_first(lab: Lab) -> None:
    added = await lab.add(*(NewTask(payload=bytes(2_000)) for _ in range(8)))
    await lab.lease(b"L")
    dropped = 0
    for task_id in added:
        await lab.move(1)
        dropped += (await lab.store.fail(0, b"L", [(task_id, None, "no")], dead_cap=3))[1]
    assert dropped == 5
    assert set(await lab.client.hkeys(keys.dead(lab.tag))) == set(added[5:])
    assert len(await lab.names("body:*")) == 3


async def test_a_cap_of_dead_letters_that_was_lowered_is_reached_in_bounded_steps(lab: Lab) -> None:
    """500 failures in one script dropped 20 others each, 10,000 records with their bodies and keys."""
    for cap, most in ((10_000, 0), (10_000, 0), (10_000, 0), (10_000, 0), (10, 1_000), (10, 1_000), (10, 1_000)):
        added = await lab.add(*(NewTask() for _ in range(500)))
        await lab.lease(b"L")
        assert await lab.store.fail(0, b"L", [(one, None, "no") for one in added], dead_cap=cap) == ([], most)
    assert await lab.client.hlen(keys.dead(lab.tag)) == 500
    (last,) = await lab.add(NewTask())
    await lab.lease(b"L")
    assert await lab.store.fail(0, b"L", [(last, None, "no")], dead_cap=10) == ([], 20)


async def test_dead_letters_age_out(lab: Lab) -> None:
    old, young = await lab.add(NewTask(), NewTask())
    await lab.lease(b"L")
    await lab.store.fail(0, b"L", [(old, None, "no")])
    await lab.move(1_000)
    await lab.store.fail(0, b"L", [(young, None, "no")])
    assert await lab.store.discard(0, died_before_ms=lab.now) == 1
    assert [(await lab.find(i)).place for i in (old, young)] == ["", "dead"]
    assert await lab.store.discard(0, [young, young]) == 1


async def test_more_than_500_leases(lab: Lab) -> None:
    lease_ids = [os.urandom(16) for _ in range(700)]
    for at in range(0, 700, 350):
        await lab.add(*(NewTask() for _ in range(350)))
        for lease_id in lease_ids[at : at + 350]:
            assert len(await lab.lease(lease_id, slots=1)) == 1
    gone = os.urandom(16)
    assert await lab.store.extend(0, [*lease_ids, gone], LEASE_MS) == [gone]
    (task_id,) = await lab.add(NewTask())
    assert await lab.store.cancel([task_id]) == ["cancelled"]
    await watched(lab, LEASE_MS - 1)
    await lab.move(1)
    back, calls = 0, 0
    while (reaped := await reap(lab)).leases:
        assert reaped.back <= 500
        back, calls = back + reaped.back, calls + 1
    assert (back, calls) == (700, 7)
    assert len((await lab.claim()).leased) == 1_000


async def test_dead_letters_for_losses_are_held_for_two_leases(lab: Lab) -> None:
    shell = NewTask(type=TaskType.SHELL_CMD)
    tasks = await lab.add(shell, shell)
    for n in range(5):
        await lab.lease(bytes([n]), slots=2)
        seen = await watched(lab, failing=n >= 2)
        assert (seen.back, seen.dead) == (2, 0)
        assert (await lab.record(tasks[0])).losses == min(n + 1, 2), "charged, but one short of the cap"
    await lab.lease(b"last", slots=2)
    assert (await watched(lab, failing=True)).dead == 2, "or a poisonous task would live for ever"
    assert await lab.store.replay(tasks) == ["replayed", "replayed"]
    for n in range(3):
        await lab.lease(bytes([9, n]), slots=2)
        seen = await watched(lab, failing=n == 2)
    assert seen.back == 2, "two leases later it may be held again"


async def test_a_lease_with_a_newer_record_is_kept_for_newer_nodes(lab: Lab) -> None:
    ok, newer, bad = await lab.add(NewTask(), NewTask(), NewTask())
    await lab.lease(b"L")
    await lab.client.hset(keys.lease(lab.tag, b"L"), mapping={newer: b"\x3anew", bad: b"\x01bad"})
    await watched(lab, LEASE_MS - 1)
    await lab.move(1)
    for turn in range(2):
        reaped = await reap(lab)
        assert (reaped.leases, reaped.back) == ((1, 1) if turn == 0 else (0, 0))
    assert [(await lab.find(i)).place for i in (ok, newer, bad)] == ["home", "lease", "quarantine"]
    await lab.move(4 * LEASE_MS)
    assert (await reap(lab)).back == 0
    assert (await lab.find(newer)).value == b"\x3anew"


async def test_cancel_and_reschedule_answer_where_a_task_stands(lab: Lab) -> None:
    running, dead, done = await lab.add(*(NewTask() for _ in range(3)))
    await lab.lease(b"L")
    await lab.store.fail(0, b"L", [(dead, None, "no")])
    await lab.store.ack(0, b"L", [done])
    (pending,) = await lab.add(NewTask(delay_ms=60_000))
    assert await lab.store.cancel([running, dead, done, pending, pending]) == [
        "running", "dead", "unknown", "cancelled", "unknown",
    ]  # fmt: skip
    for task_id, word in ((running, "running"), (dead, "dead"), (done, "unknown"), (pending, "unknown")):
        assert await lab.store.reschedule(task_id, delay_ms=0) == (word, 0)


async def test_a_cancel_whose_answer_was_lost_answers_the_same_when_it_is_sent_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending, other = await lab.add(NewTask(delay_ms=60_000), NewTask(delay_ms=60_000))
    send = lab.store.runner.run

    async def lossy(call: ScriptCall) -> object:
        await send(call)
        return await send(call)

    with monkeypatch.context() as patch:
        patch.setattr(lab.store.runner, "run", lossy)
        assert await lab.store.cancel([pending, bytes(16)]) == ["cancelled", "unknown"]
    assert await lab.store.cancel([pending, other]) == ["unknown", "cancelled"], "another command asks anew"


@pytest.mark.parametrize("first", [0, 30_000, 3_600_000])
@pytest.mark.parametrize("then", [0, 40_000, 3_600_500, 7_200_000])
async def test_a_moved_task_leaves_nothing_where_it_was(lab: Lab, first: int, then: int) -> None:
    (task_id,) = await lab.add(NewTask(delay_ms=first))
    if first == 0:
        await lab.claim(slots=0)  # it is ready
    for priority in (Priority.CRITICAL, None, Priority.LOW):
        assert await lab.store.reschedule(task_id, delay_ms=then, priority=priority) == ("moved", lab.now + then)
        assert await lab.problems() == []
    record = await lab.record(task_id)
    assert (record.due_ms, record.priority, record.deliveries) == (lab.now + then, 3, 0)
    assert await lab.store.cancel([task_id]) == ["cancelled"]
    for pattern in ("b:*", "near:*", "ready:*", "buckets", "active:*"):
        assert await lab.names(pattern) == []


async def test_run_now_wakes_the_owner_and_fires(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(delay_ms=3_600_000))
    await lab.claim()
    channel = lab.client.pubsub()
    await channel.subscribe(lab.store.wakes[0])
    await channel.get_message(timeout=PATIENCE_S)
    assert await lab.store.reschedule(task_id, delay_ms=0) == ("moved", lab.now)
    assert (await channel.get_message(timeout=PATIENCE_S))["data"].decode() == f"{lab.now}"
    await channel.aclose()
    assert task_id in await lab.lease(b"L")


@pytest.mark.parametrize("delay", [10**14, 2**48, 2**53])
async def test_a_delay_past_all_time_never_wraps_to_now(lab: Lab, delay: int) -> None:
    one, two, three = await lab.add(NewTask(), NewTask(), NewTask())
    await lab.lease(b"L", slots=2)
    for task_id in (one, two, three):
        found = await lab.find(task_id)
        if found.place == "home":
            assert await lab.store.reschedule(task_id, delay_ms=delay) == ("moved", 10**14)
        elif task_id == one:
            assert await lab.store.fail(0, b"L", [(task_id, delay, "no")]) == ([], 0)
        else:
            assert await lab.store.release(0, b"L", [task_id], delay_ms=delay) == []
        assert (await lab.record(task_id)).due_ms == 10**14
    assert (await lab.claim()).leased == []


async def test_a_lost_doer_charges_a_loss_and_past_the_cap_the_task_is_a_dead_letter(lab: Lab) -> None:
    lost, other = await lab.add(NewTask(type=TaskType.WORKER, name="f"), NewTask(type=TaskType.WORKER, name="g"))
    for time_ in range(1, 3):
        await lab.lease(b"L", slots=2)
        assert await lab.store.lose(0, b"L", [lost], losses_cap=3) == ([], 0, 0)
        record = await lab.record(lost)
        assert (record.losses, record.attempt, record.deliveries) == (time_, 0, time_)
        assert await lab.store.release(0, b"L", [other]) == []
    await lab.lease(b"L", slots=2)
    assert await lab.store.lose(0, b"L", [lost, other, bytes(16)], losses_cap=3) == ([bytes(16)], 1, 0)
    found = await lab.find(lost)
    assert found.place == "dead" and b"lost with its worker 3 times" in found.value
    assert (await lab.record(other)).losses == 1
    assert await lab.store.lose(0, b"L", [lost], losses_cap=3) == ([lost], 0, 0), "asked again it changes nothing"
    assert await lab.problems() == []
