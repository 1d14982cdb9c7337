"""claim.lua: what is taken, in which order, and what becomes of hints that say otherwise than the record."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest

from delaybox.core import ids
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.store import keys
from delaybox.store.loader import ScriptRunner
from delaybox.store.store import MAX_RECORD_BYTES
from delaybox.wire import body as wire_body
from tests.lab import CLOCK, Lab, leased
from tests.waiting import PATIENCE_S

WORKER = TaskType.WORKER


async def test_nothing_is_taken_before_its_time(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(delay_ms=1_000))
    await lab.move(999)
    early = await lab.claim()
    assert early.leased == [] and early.next_due_ms == lab.now + 1
    await lab.move(1)
    got = leased(await lab.claim())
    assert set(got) == {task_id} and got[task_id].deliveries == 1


async def test_the_same_lease_id_again_gets_the_same_content(lab: Lab) -> None:
    await lab.add(*(NewTask() for _ in range(3)))
    first = await lab.claim(b"L" * 16, slots=2)
    again = await lab.claim(b"L" * 16, slots=2)
    assert leased(again) == leased(first) and len(leased(first)) == 2
    assert len(leased(await lab.claim(b"M" * 16))) == 1


async def test_slots_and_items_bound_a_claim(lab: Lab) -> None:
    await lab.add(*(NewTask() for _ in range(20)))
    assert len(leased(await lab.claim(slots=3))) == 3
    assert len(leased(await lab.claim(items=5))) == 5
    assert len(leased(await lab.claim(slots=0))) == 0
    assert len(leased(await lab.claim())) == 12


async def test_the_bytes_of_a_claim_are_bounded_and_the_rest_follows(lab: Lab) -> None:
    added = await lab.add(*(NewTask(payload=bytes(1_000)) for _ in range(500)))
    taken: set[bytes] = set()
    for _ in range(10):
        claimed = await lab.claim()
        assert sum(map(len, claimed.leased)) < MAX_RECORD_BYTES + 500 * 32
        taken |= set(leased(claimed))
        if not claimed.more:
            break
    assert taken == set(added)


async def claim_all(lab: Lab, **limits: Any) -> list[bytes]:
    out: list[bytes] = []
    while some := (await lab.claim(**limits)).leased[0::2]:
        out += some
    return out


async def promote(lab: Lab) -> None:
    """Makes everything ready: a claim with no slot leaves all that is due to others."""
    for _ in range(5):
        await lab.claim(slots=0)
    assert [await lab.near(p) for p in range(4)] == [{}] * 4


@pytest.mark.parametrize("ready", [False, True])
async def test_order_is_by_virtual_deadline(lab: Lab, ready: bool) -> None:
    at = lab.now
    low, normal, high, late = await lab.add(
        NewTask(due_ms=at + 1, priority=Priority.LOW),  # 60,001
        NewTask(due_ms=at + 49_000, priority=Priority.NORMAL),  # 59,000
        NewTask(due_ms=at + 58_500, priority=Priority.HIGH),  # 60,500
        NewTask(due_ms=at + 50_100, priority=Priority.NORMAL),  # 60,100
    )
    (critical,) = await lab.add(NewTask(due_ms=at + 59_000, priority=Priority.CRITICAL))
    await lab.move(59_500)
    if ready:
        await promote(lab)
    assert await claim_all(lab, slots=1) == [critical, normal, low, late, high]


@pytest.mark.parametrize("ready", [False, True])
async def test_critical_comes_first_and_the_others_keep_a_twentieth(lab: Lab, ready: bool) -> None:
    critical = set(await lab.add(*(NewTask(priority=Priority.CRITICAL) for _ in range(500))))
    critical |= set(await lab.add(*(NewTask(priority=Priority.CRITICAL) for _ in range(100))))
    await lab.add(*(NewTask(priority=Priority.LOW) for _ in range(200)))
    if ready:
        await promote(lab)
    got = set((await lab.claim(slots=500)).leased[0::2])
    assert len(got & critical) == 475 and len(got - critical) == 25


async def test_what_short_lanes_leave_goes_to_the_others(lab: Lab) -> None:
    await lab.add(NewTask(queue="a"), *(NewTask(queue="b") for _ in range(50)), NewTask(queue="c"))
    await promote(lab)
    assert len(leased(await lab.claim(slots=40))) == 40
    assert len(leased(await lab.claim(slots=40))) == 12


async def test_lanes_take_turns(lab: Lab) -> None:
    a = set(await lab.add(*(NewTask(queue="a") for _ in range(100))))
    b = set(await lab.add(*(NewTask(queue="b") for _ in range(100))))
    await promote(lab)
    for _ in range(4):
        got = set((await lab.claim(slots=10)).leased[0::2])
        assert len(got & a) == len(got & b) == 5


@pytest.mark.parametrize(("slots", "claims"), [(50, 40), (7, 60), (1, 100)])
@pytest.mark.parametrize("ready", [False, True])
async def test_the_others_keep_their_floor_whatever_arrives(lab: Lab, slots: int, claims: int, ready: bool) -> None:
    """More critical tasks fall due before each claim than it has room for; no other came to be ready."""
    low = set(await lab.add(*(NewTask(type=WORKER, priority=Priority.LOW) for _ in range(slots * claims // 20))))
    taken, others = 0, 0
    for _ in range(claims):
        await lab.add(*(NewTask(type=WORKER, priority=Priority.CRITICAL) for _ in range(slots * 3)))
        if ready:
            await lab.claim(slots=0)
        got = set((await lab.claim(slots=slots, items=max(slots, 20))).leased[0::2])
        taken, others = taken + len(got), others + len(got & low)
    assert taken == slots * claims
    assert others == len(low)


@pytest.mark.parametrize("ready", [False, True])
async def test_the_floor_holds_where_tasks_are_fired_in_place(lab: Lab, ready: bool) -> None:
    """By way of ready sets, critical tasks took all of each claim."""
    low = set(await lab.add(*(NewTask(queue="low", priority=Priority.LOW) for _ in range(500))))
    fired = others = 0
    for _ in range(20):
        await lab.add(*(NewTask(priority=Priority.CRITICAL) for _ in range(300)))
        if ready:
            await lab.claim(slots=0)
        claimed = await lab.claim(channel="c", slots=0, items=64)
        fired, others = fired + len(claimed.lateness_ms), others + claimed.fired.get(b"plow", 0)
    assert fired == 20 * 64
    assert 0.04 * fired <= others <= 0.06 * fired
    assert len(low) > others


@pytest.mark.parametrize("share", [None, (0, 10), (10, 0), (8, 2)])
@pytest.mark.parametrize("ready", [False, True])
async def test_a_claim_follows_what_its_taker_decided(lab: Lab, ready: bool, share: tuple[int, int] | None) -> None:
    critical = set(await lab.add(*(NewTask(type=WORKER, priority=Priority.CRITICAL) for _ in range(50))))
    await lab.add(*(NewTask(type=WORKER, priority=Priority.LOW) for _ in range(50)))
    if ready:
        await lab.claim(slots=0)
    plan = b"" if share is None else msgspec.msgpack.encode(share)
    got = set((await lab.claim(slots=10, plan=plan)).leased[0::2])
    assert len(got & critical) == {None: 10, (0, 10): 0, (10, 0): 10, (8, 2): 8}[share]
    assert len(got) == 10


@pytest.mark.parametrize(("name", "least"), [("comes", 19), ("comes-{}", 6)])
async def test_lanes_that_come_and_go_leave_its_turn_to_one_that_waits(lab: Lab, name: str, least: int) -> None:
    """Each new lane of one task started where the least start stood, and took every turn."""
    waiting = set(await lab.add(*(NewTask(queue="waits") for _ in range(100))))
    await promote(lab)
    turns = 0
    for turn in range(40):
        await lab.add(NewTask(queue=name.format(turn)))
        turns += len(waiting & set((await lab.claim(slots=1)).leased[0::2]))
    assert turns >= least


async def test_a_new_lane_waits_for_no_more_than_one_round(lab: Lab) -> None:
    for queue in "abcdefgh":
        await lab.add(*(NewTask(queue=queue) for _ in range(50)))
    await promote(lab)
    for _ in range(5):
        await lab.claim(slots=16)
    (new,) = await lab.add(NewTask(queue="new"))
    await promote(lab)
    got: list[bytes] = []
    while new not in got:
        got += (await lab.claim(slots=1)).leased[0::2]
    assert len(got) <= 16


async def test_what_nobody_here_serves_becomes_ready_and_does_not_block(lab: Lab) -> None:
    shell = await lab.add(*(NewTask(type=TaskType.SHELL_CMD) for _ in range(400)))
    await lab.move(1)
    (mine,) = await lab.add(NewTask(type=WORKER))
    claimed = await lab.claim(types="w")
    assert set(leased(claimed)) == {mine}
    assert set(await lab.ready("s")) == set(shell)
    assert claimed.next_due_ms == -1, "work that nobody can serve must not make the owner spin"
    assert set(leased(await lab.claim(types="s"))) == set(shell), "another node takes it from there"


async def test_a_large_unserved_backlog_is_passed_in_bounded_steps(lab: Lab) -> None:
    for _ in range(3):
        await lab.add(*(NewTask(type=TaskType.SHELL_CMD) for _ in range(400)))
    await lab.move(1)
    (mine,) = await lab.add(NewTask(type=WORKER))
    for _ in range(4):
        claimed = await lab.claim(types="w")
        if claimed.leased:
            break
        assert claimed.next_due_ms <= lab.now, "the owner must know that there is more"
    assert set(leased(claimed)) == {mine}


async def test_a_hint_that_is_too_early_is_put_right(lab: Lab) -> None:
    near, far = await lab.add(NewTask(delay_ms=30_000), NewTask(delay_ms=3_600_000))
    for task_id in (near, far):
        await lab.client.zadd(keys.near(lab.tag, 2), {task_id + b"p": lab.now - 1})
    assert (await lab.claim()).leased == []
    assert await lab.near() == {near + b"p": ids.due_ms(near)}


async def test_a_stale_hint_of_a_task_moved_far_away_leaves_its_pointer(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask())
    due = lab.now + 3_600_000
    assert await lab.store.reschedule(task_id, due_ms=due) == ("moved", due)
    pointer = keys.bucket(lab.tag, due // 1_000)
    await lab.client.delete(pointer)
    await lab.client.zrem(keys.buckets(lab.tag), due // 1_000)
    await lab.client.zadd(keys.near(lab.tag, 2), {task_id + b"p": lab.now})
    assert (await lab.claim()).leased == []
    assert await lab.client.hgetall(pointer) == {task_id: b""}


async def test_a_hint_without_a_record_is_dropped(lab: Lab) -> None:
    ghost = lab.now.to_bytes(6, "big") + ids.tails(0, bytes(8))[0]
    await lab.client.zadd(keys.near(lab.tag, 2), {ghost + b"p": lab.now})
    (task_id,) = await lab.add(NewTask())
    claimed = await lab.claim()
    assert claimed.dropped == 1 and set(leased(claimed)) == {task_id}
    assert await lab.near() == {}


@pytest.mark.parametrize("ready", [False, True])
async def test_two_hints_of_one_task_hand_it_out_once(lab: Lab, ready: bool) -> None:
    (task_id,) = await lab.add(NewTask())
    await lab.client.zadd(keys.near(lab.tag, 0), {task_id + b"p": lab.now})
    if ready:
        await promote(lab)
    assert set(await lab.lease(b"L")) == {task_id}
    await lab.store.release(0, b"L", [task_id])
    await lab.client.zadd(keys.near(lab.tag, 1), {task_id + b"p": lab.now})
    assert len((await lab.claim(channel="c")).lateness_ms) == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00",
        b"\x11\x02short",
        b"\x10\x02\x09p",
        b"\x10",
        b"\x1f\x02\x01p",
        b"\x10\x0a\x01p",
        b"\x10\x0a\x01p\x00\x09k",
    ],
)
async def test_an_unreadable_record_goes_to_quarantine(lab: Lab, garbage: bytes) -> None:
    task_id, other = await lab.add(NewTask(), NewTask())
    bucket = keys.bucket(lab.tag, lab.now // 1_000)
    await lab.client.hset(bucket, task_id, garbage)
    claimed = await lab.claim()
    assert set(leased(claimed)) == {other}
    if garbage:
        assert claimed.quarantined == 1
        assert (await lab.find(task_id)).place == "quarantine"
        assert (await lab.find(task_id)).value == garbage
        assert await lab.store.cancel([task_id]) == ["quarantined"]
    else:
        await lab.index(lab.now // 1_000)  # an empty value in the home bucket is seen by the scrubber
        assert (await lab.find(task_id)).place == "quarantine"


async def test_a_record_of_a_newer_format_is_left_alone_with_its_hint(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask())
    bucket, newer = keys.bucket(lab.tag, lab.now // 1_000), b"\x30whatever it says"
    await lab.client.hset(bucket, task_id, newer)
    claimed = await lab.claim()
    assert claimed.leased == [] and claimed.quarantined == 0
    assert await lab.client.hget(bucket, task_id) == newer
    assert [member[:16] for member in await lab.near()] == [task_id]
    assert claimed.next_due_ms > lab.now, "it must not make the owner spin"
    await lab.index(lab.now // 1_000)
    assert await lab.client.hget(bucket, task_id) == newer
    assert await lab.store.cancel([task_id]) == ["newer"]
    assert (await lab.store.reschedule(task_id, delay_ms=0))[0] == "newer"


async def test_what_is_fired_in_place_is_counted_by_lane(lab: Lab) -> None:
    await lab.add(NewTask(), *(NewTask(queue="mail") for _ in range(2)))
    claimed = await lab.claim(slots=0, types="", channel="c")
    assert claimed.fired == {b"p": 1, b"pmail": 2} and len(claimed.lateness_ms) == 3
    assert (await lab.claim(slots=0, types="", channel="c")).fired == {}


async def test_fired_in_place_is_what_the_original_publishes(lab: Lab) -> None:
    listener = lab.client.pubsub()
    await listener.subscribe(f"{lab.store.prefix}-out")
    await listener.get_message(timeout=PATIENCE_S)
    task = NewTask(payload=b"hello", header={"a": b"1"}, idempotency_key="k")
    (task_id,) = await lab.add(task)
    await lab.move(7)
    claimed = await lab.claim(slots=0, types="", channel=f"{lab.store.prefix}-out", stream=100)
    assert (claimed.lateness_ms, claimed.without_listeners, claimed.leased) == ([7], 0, [])
    assert dict(claimed.fired) == {b"p": 1}
    message = wire_body.decode((await listener.get_message(timeout=PATIENCE_S))["data"])
    assert message.taskUuid == ids.render(task_id)
    assert (message.payload, dict(message.header)) == (b"hello", {"a": b"1"})
    streamed = await lab.client.xrange(keys.stream(lab.tag))
    assert wire_body.decode(streamed[0][1][b"task"]) == message
    assert (await lab.find(task_id)).place == ""
    await listener.aclose()


STEPS = "tests:steps"
SPIED = f"""{CLOCK}
local redis, string, bit = redis, string, bit
do
  local call = redis.call
  local function spied(of, name, step)
    local inner = of[name]
    local function both(...)
      if step(...) then call('RPUSH', '{STEPS}', step(...)) end
      return inner(...)
    end
    return setmetatable({{ [name] = both }}, {{ __index = of }})
  end
  string = spied(string, 'format', function() return 'made' end)
  bit = spied(bit, 'tohex', function() return 'made' end)
  redis = spied(redis, 'call', function(name) return name == 'PUBLISH' and 'published' end)
end
"""
"""Stands in for lib/time.lua, and notes when a script makes the text of an id and when it publishes."""


async def test_all_messages_are_made_before_the_first_is_published(lab: Lab) -> None:
    # By turns both need more machine code than a processor keeps near (ADR 0073).
    await lab.client.delete(STEPS)
    channel = f"{lab.store.prefix}-out"
    listener = lab.client.pubsub()
    await listener.subscribe(channel)
    await listener.get_message(timeout=PATIENCE_S)
    added = [
        *await lab.add(*(NewTask() for _ in range(5))),
        *await lab.add(NewTask(idempotency_key="k"), NewTask(delay_ms=1), NewTask(delay_ms=3_000)),
    ]
    await lab.move(3_000)
    lab.store.runner = ScriptRunner(lab.store.servers.send, clock=SPIED)
    claimed = await lab.claim(slots=0, types="", channel=channel)
    assert len(claimed.lateness_ms) == len(added)
    heard = [wire_body.decode((await listener.get_message(timeout=PATIENCE_S))["data"]).taskUuid for _ in added]
    assert sorted(heard) == sorted(ids.render(task_id) for task_id in added)
    steps = await lab.client.lrange(STEPS, 0, -1)
    first, last = steps.index(b"published"), len(steps) - 1 - steps[::-1].index(b"published")
    assert b"made" in steps[:first] and set(steps[first : last + 1]) == {b"published"}
    assert (await lab.ttl_of("k") or 0) > 0
    await listener.aclose()


async def test_nobody_listening_is_counted(lab: Lab) -> None:
    await lab.add(NewTask(), NewTask())
    assert (await lab.claim(channel=f"{lab.store.prefix}-nobody")).without_listeners == 2


async def test_a_large_body_is_leased_and_not_fired_in_place(lab: Lab) -> None:
    small, large = await lab.add(NewTask(), NewTask(payload=bytes(5_000)))
    claimed = await lab.claim(slots=0, channel="c")
    assert len(claimed.lateness_ms) == 1 and claimed.leased == []
    assert (await lab.find(small)).place == ""
    assert set(leased(await lab.claim(slots=1, channel="c"))) == {large}


async def test_a_task_that_may_expire_is_leased_even_where_others_fire_in_place(lab: Lab) -> None:
    (plain,), (expiring,) = await lab.add(NewTask()), await lab.add(NewTask(expire_after_ms=5))
    claimed = await lab.claim(channel="c")
    assert len(claimed.lateness_ms) == 1 and set(leased(claimed)) == {expiring}
    assert (await lab.find(plain)).place == "" and (await lab.record(expiring)).look


async def test_the_stream_is_capped_and_trims_are_counted(lab: Lab) -> None:
    trimmed = 0
    for _ in range(4):
        await lab.add(*(NewTask(payload=b"x") for _ in range(200)))
        trimmed += (await lab.claim(channel="c", stream=100)).trimmed
    assert trimmed + await lab.client.xlen(keys.stream(lab.tag)) == 800
    assert trimmed > 300


async def test_other_types_need_slots_while_pub_sub_is_fired(lab: Lab) -> None:
    await lab.add(*(NewTask() for _ in range(5)), *(NewTask(type=WORKER) for _ in range(5)))
    claimed = await lab.claim(slots=2, types="w", channel="c")
    assert len(claimed.lateness_ms) == 5 and len(leased(claimed)) == 2


async def test_every_delivery_has_a_higher_counter(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask())
    seen = []
    for n in range(4):
        lease_id = bytes([n]) * 16
        seen.append((await lab.lease(lease_id))[task_id].deliveries)
        await lab.store.release(0, lease_id, [task_id])
    assert all(b > a for a, b in pairwise(seen))


async def test_a_type_that_wakes_late_takes_turns_with_the_others(lab: Lab) -> None:
    await lab.add(*(NewTask(type=WORKER) for _ in range(300)))
    await promote(lab)
    for _ in range(10):
        assert len(await lab.lease(bytes([_]), slots=20)) == 20
    shell = set(await lab.add(*(NewTask(type=TaskType.SHELL_CMD) for _ in range(50))))
    await promote(lab)
    got = [task_id for n in range(40) for task_id in await lab.lease(b"one" + bytes([n]), slots=1)]
    assert len(got) == 40 and 18 <= len(shell.intersection(got)) <= 22


@pytest.mark.parametrize("guest", [False, True])
async def test_a_claim_that_took_all_that_was_ready_says_so(lab: Lab, guest: bool) -> None:
    """Or each task that a limited queue lets through would be followed by a claim that finds nothing."""
    task = NewTask(type=WORKER, name="f")
    await lab.add(*(task for _ in range(8)))
    await lab.claim(slots=0)
    for slots, items, count, more in ((3, 500, 3, True), (10, 2, 2, True), (10, 500, 3, False)):
        claimed = await lab.claim(types="w", slots=slots, items=items, guest=guest)
        assert (len(leased(claimed)), claimed.more) == (count, more)


@pytest.mark.parametrize("guest", [False, True])
async def test_a_claim_that_took_what_it_made_ready_as_well_says_so(lab: Lab, guest: bool) -> None:
    """Or each task beside a queue that waits for permits would be followed by a claim that finds nothing."""
    ready = await lab.add(NewTask(type=WORKER, name="f"))
    await lab.claim(slots=0)
    due = await lab.add(NewTask(type=WORKER, name="f", queue="other"))
    claimed = await lab.claim(types="w", slots=10, guest=guest)
    assert set(leased(claimed)) == {*ready, *due} and (claimed.promoted, claimed.more) == (1, False)


@pytest.mark.parametrize("guest", [False, True])
async def test_a_claim_that_made_part_of_what_is_due_ready_says_that_there_is_more(lab: Lab, guest: bool) -> None:
    task = NewTask(type=WORKER, name="f")
    added = await lab.add(task)
    await lab.claim(slots=0)
    added += await lab.add(*(task for _ in range(150)))
    found: set[bytes] = set()
    for _ in range(3):
        claimed = await lab.claim(types="w", slots=120, items=120, guest=guest)
        found |= set(leased(claimed))
        if not claimed.more and claimed.next_due_ms > lab.now:
            break
    assert found == set(added)
