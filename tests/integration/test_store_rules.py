"""The rules of queues in the store: paused lanes wait apart, and the copies in partitions follow what is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from delaybox.core.errors import PartAway
from delaybox.core.lane import lane_of
from delaybox.core.queue import LiveRules, QueueRules, Slack
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.engine.ownership import Ownership
from delaybox.engine.rules import RuleReader
from delaybox.service.rules import Rules
from delaybox.store import keys, rules
from delaybox.store.lanes import queues
from delaybox.store.roundtrips import NotSent
from delaybox.store.slots import key_of
from tests.lab import Lab, leased

SEND = lane_of(TaskType.WORKER, "mail", "send")


def call(queue: str = "mail", **parts: Any) -> NewTask:
    return NewTask(type=TaskType.WORKER, queue=queue, name="send", **parts)


async def pause(lab: Lab, queue: str, paused: bool | None = True) -> None:
    await Rules(lab.store).set(queue, QueueRules(paused=paused), clear={"paused"} if paused is None else ())


async def unsteered(lab: Lab) -> bool:
    """Whether a partition holds nothing about rules, so that scripts look nothing up."""
    found = await lab.client.exists(keys.steered(lab.tag), keys.parked(lab.tag))
    return not found and not await lab.client.hexists(keys.clock(lab.tag), "steered")


async def copied(lab: Lab) -> dict[bytes, bytes]:
    """What a partition holds of the rules of each queue."""
    found: dict[bytes, bytes] = {}
    for field, value in (await lab.client.hgetall(keys.steered(lab.tag))).items():
        for one in value.split(b"\0")[1:]:
            name, _, rest = one.partition(b"\1")
            assert field == (b"*" if name == b"*" else rules.steered_group(name))
            found[name] = rest
    return found


@pytest.mark.parametrize("guest", [False, True])
@pytest.mark.parametrize("ready", [False, True])
async def test_a_paused_queue_waits_and_goes_on_in_order(lab: Lab, ready: bool, guest: bool) -> None:
    first = await lab.add(call(priority=Priority.HIGH), call(priority=Priority.CRITICAL), call(delay_ms=500))
    (other,) = await lab.add(call("other"))
    if ready:
        await lab.claim(slots=0)
    await pause(lab, "mail")
    await lab.move(5_000)
    lanes = (SEND, lane_of(TaskType.WORKER, "other", "send")) if guest else ()
    took: dict[bytes, Any] = {}
    for _ in range(3):
        took |= leased(await lab.claim(types="w", lanes=lanes, guest=guest))
    assert set(took) == {other}
    assert await lab.problems() == []
    late = await lab.add(call())
    assert leased(await lab.claim(types="w", lanes=lanes, guest=guest)) == {}
    counts = (await lab.store.counts())[0]
    (mail,) = [q for q in await queues(lab.store) if q.queue == "mail"]
    assert (mail.pending, mail.ready, counts.due) == (4, 4, 4)
    await pause(lab, "mail", None)
    assert await unsteered(lab)
    order = [first[1], first[0], first[2], late[0]]
    for task_id in order:
        assert list(leased(await lab.claim(types="w", lanes=lanes, guest=guest, slots=1))) == [task_id]
    assert await lab.problems() == []


async def test_a_paused_queue_is_not_fired_in_place(lab: Lab) -> None:
    async with lab.client.pubsub() as heard:
        await heard.subscribe("c")
        await heard.get_message(timeout=1)
        await pause(lab, "news")
        task_id, other = await lab.add(NewTask(queue="news"), NewTask())
        assert (await lab.claim(channel="c", slots=0)).lateness_ms == [0]
        assert (await lab.find(task_id)).place == "home" and (await lab.find(other)).place == ""
        await pause(lab, "news", False)
        assert (await lab.claim(channel="c", slots=0)).lateness_ms == [0]


async def test_a_paused_lane_that_is_cancelled_leaves_nothing(lab: Lab) -> None:
    await pause(lab, "mail")
    task_ids = await lab.add(call(), call())
    await lab.claim()
    assert await lab.client.zcard(keys.parked(lab.tag)) == 1
    await lab.store.cancel(task_ids)
    assert await lab.client.zcard(keys.parked(lab.tag)) == 0
    await Rules(lab.store).unset("mail")
    assert await unsteered(lab)


async def test_all_others_are_paused_with_a_star(lab: Lab) -> None:
    kept, *held = await lab.add(call("vip"), call("mail"), call("default"))
    await pause(lab, "*")
    await pause(lab, "vip", False)
    assert set(leased(await lab.claim())) == {kept}
    await pause(lab, "*", None)
    assert set(leased(await lab.claim())) == set(held)
    assert await unsteered(lab), "vip is as all others are, so no script need know of it"


async def test_lanes_behind_many_paused_ones_are_found(lab: Lab) -> None:
    await lab.add(*(NewTask(type=TaskType.SHELL_CMD, queue=f"q{n}") for n in range(300)))
    (mine,) = await lab.add(NewTask(type=TaskType.SHELL_CMD, queue="zz"))
    await lab.claim(slots=0)
    await pause(lab, "*")
    await pause(lab, "zz", False)
    for _ in range(15):
        if mine in leased(claimed := await lab.claim()):
            break
        assert claimed.next_due_ms >= 0, "the claim is to be repeated at once"
    else:
        raise AssertionError("300 paused lanes stand before it")
    assert await lab.client.zcard(keys.parked(lab.tag)) == 300
    await pause(lab, "*", None)
    assert len(leased(await lab.claim())) + len(leased(await lab.claim())) >= 64
    assert await lab.problems() == []


async def test_a_copy_that_was_cut_off_is_completed_by_a_time_keeper(lab: Lab) -> None:
    """T24 for rules: whoever stored them died before the copy."""
    (task_id,) = await lab.add(call())
    word, number = await rules.change(lab.store, [("mail", b"", rules.encode(QueueRules(paused=True), {}))])
    assert word == "stored" and number == lab.now
    live, ownership = LiveRules(), Ownership(lab.store.partitions)
    ownership.assign(frozenset({0}), frozenset())
    reader = RuleReader(lab.store, live, ownership, keeps=True)
    await reader.step()
    assert live.of("mail").paused and leased(await lab.claim()) == {}
    await rules.change(lab.store, [("mail", rules.encode(QueueRules(paused=True), {}), b"")])
    # The mark of a copy that another began and did not end.
    await lab.client.hset(keys.clock(lab.tag), "rules", "2~gone")
    await reader.step()
    assert set(leased(await lab.claim())) == {task_id} and await unsteered(lab)


async def test_several_who_copy_at_once_end_with_the_last_rules(lab: Lab) -> None:
    names = [f"q{n}" for n in range(20)]
    await asyncio.gather(*(pause(lab, name) for name in names))
    assert await copied(lab) == dict.fromkeys((name.encode() for name in names), b"1")
    await asyncio.gather(*(Rules(lab.store).unset(name) for name in names))
    assert await unsteered(lab)


async def test_rules_of_a_newer_version_are_left_alone_and_shown(lab: Lab) -> None:
    service = Rules(lab.store)
    await lab.client.hset(keys.rules(lab.store.prefix), mapping={"mail": b'{"color":"red","paused":true}', "": 1})
    shown = await service.set("mail", QueueRules(timeout_ms=5), clear={"paused"})
    assert (shown.own, shown.newer) == (QueueRules(timeout_ms=5), ("color",))
    assert (await rules.one(lab.store, "mail")).newer == {"color": "red"}


async def test_a_rule_comes_from_the_queue_first_then_from_all_others(lab: Lab) -> None:
    service = Rules(lab.store)
    await service.set("*", QueueRules(paused=True, timeout_ms=1_000))
    shown = await service.set("mail", QueueRules(timeout_ms=2_000))
    assert shown.effect == QueueRules(paused=True, timeout_ms=2_000)
    assert shown.waits.startswith("waits: all queues without a rule of their own are paused")
    assert (await service.set("mail", QueueRules(paused=False))).waits == ""
    assert (await service.set("mail", QueueRules(paused=True), whole=True)).own == QueueRules(paused=True)
    assert (await service.unset("mail")).own == QueueRules()
    assert [one.queue for one in await service.every()] == ["*"]


async def test_rules_for_the_first_start_are_taken_once(lab: Lab) -> None:
    await rules.begin(lab.store, {"mail": QueueRules(paused=True)})
    await Rules(lab.store).unset("mail")
    await rules.begin(lab.store, {"mail": QueueRules(paused=True)})
    assert (await rules.one(lab.store, "mail")).rules == QueueRules()


async def test_too_many_queues_with_rules_are_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MOST", 1)
    service = Rules(lab.store)
    await service.set("a", QueueRules(paused=True))
    with pytest.raises(Exception, match="1 queues have rules already"):
        await service.set("b", QueueRules(paused=True))


@pytest.mark.parametrize("ready", [False, True])
async def test_a_queue_has_slack_of_its_own(lab: Lab, ready: bool) -> None:
    await Rules(lab.store).set("mail", QueueRules(slack=Slack(low_ms=100)))
    await Rules(lab.store).set("*", QueueRules(slack=Slack(low_ms=90_000)))
    (low,) = await lab.add(call(priority=Priority.LOW))
    await lab.move(500)
    (high,) = await lab.add(call(priority=Priority.HIGH))
    if ready:
        await lab.claim(slots=0)
    for task_id in (low, high):
        assert list(leased(await lab.claim(slots=1))) == [task_id]
    assert await copied(lab) == {b"*": b"0low=90000", b"mail": b"-low=100"}
    await Rules(lab.store).unset("mail")
    await Rules(lab.store).unset("*")
    assert await unsteered(lab)


async def test_nodes_of_the_previous_version_keep_their_copy(lab: Lab) -> None:
    """In it each queue has fields of its own. It holds until the first node of this version has copied."""
    clock, former = keys.clock(lab.tag), keys.former_steered(lab.tag)
    await Rules(lab.store).set("mail", QueueRules(paused=True, slack=Slack(low_ms=100)))
    theirs = {b"mail": b"1", b"mail:": b"low=100"}
    await lab.client.delete(keys.steered(lab.tag))
    await lab.client.hset(former, mapping=theirs)
    await lab.client.hdel(clock, "grouped")
    ruled = b"%d" % await rules.version(lab.store)
    await lab.client.hset(clock, "ruled", ruled)
    (task_id,) = await lab.add(call())
    assert (await lab.claim()).leased == []
    ownership = Ownership(lab.store.partitions)
    ownership.assign(frozenset({0}), frozenset())
    await RuleReader(lab.store, LiveRules(), ownership, keeps=True).step()
    assert await copied(lab) == {b"mail": b"1low=100"}
    assert await lab.client.hgetall(former) == theirs and await lab.client.hget(clock, "ruled") == ruled
    await Rules(lab.store).unset("mail")
    assert await lab.client.hgetall(former) == theirs, "they see that it is old, and copy"
    assert set(leased(await lab.claim())) == {task_id}
    await Rules(lab.store).set("mail", QueueRules(paused=True))
    assert not await lab.client.exists(former) and not await lab.client.hexists(clock, "ruled")


def keeper(lab: Lab) -> RuleReader:
    """The reader of a time keeper that keeps all partitions."""
    ownership = Ownership(lab.store.partitions)
    ownership.assign(frozenset(range(lab.store.partitions)), frozenset())
    return RuleReader(lab.store, LiveRules(), ownership, keeps=True)


@pytest.mark.parametrize("first", [False, True])
async def test_a_change_that_its_server_lost_is_taken_back_in_all_partitions(lab: Lab, first: bool) -> None:
    """A fail-over at the server of the rules; the partition lies at another one, which has copied them."""
    name = keys.rules(lab.store.prefix)
    if not first:
        await pause(lab, "other")
    before = None if first else await lab.client.dump(name)
    await pause(lab, "mail")
    (task_id,) = await lab.add(call())
    assert (await lab.claim()).leased == []
    await lab.client.delete(name)
    if before is not None:
        await lab.client.restore(name, 0, before)
    reader = keeper(lab)
    for _ in range(2):
        await reader.step()
    assert set(leased(await lab.claim())) == {task_id}
    assert await copied(lab) == ({} if first else {b"other": b"1"})


async def test_the_change_behind_one_that_was_lost_has_a_number_of_its_own(lab: Lab) -> None:
    await pause(lab, "other")
    name = keys.rules(lab.store.prefix)
    before = await lab.client.dump(name)
    await lab.move(1)
    await pause(lab, "mail")
    await lab.client.restore(name, 0, before, replace=True)
    await lab.move(5_000)
    await pause(lab, "third")
    assert await copied(lab) == {b"other": b"1", b"third": b"1"}


async def test_a_partition_that_is_away_keeps_rules_from_no_other(
    client: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = await Lab.open(client, prefix, partitions=2)
    send, last = lab.store.servers.send, lab.store.tags[1]

    async def without_the_last(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        there = [command for command in commands if not str(key_of(command)).startswith(last)]
        replies = iter(await send(there))
        return [next(replies) if command in there else NotSent("it moves") for command in commands]

    with monkeypatch.context() as patched:
        patched.setattr(lab.store.servers, "send", without_the_last)
        with pytest.raises(PartAway):
            await pause(lab, "mail")
        assert await copied(lab) == {b"mail": b"1"}
        reader = keeper(lab)
        await reader.step()
    await reader.step()
    lab.tag = last
    assert await copied(lab) == {b"mail": b"1"}, "with the first look at it"


async def test_the_rules_of_many_queues_are_few_fields(lab: Lab) -> None:
    """A field for each of 10,000 queues made storing tasks of other queues take longer."""
    named = {f"q{n}": QueueRules(paused=n % 2 == 0, slack=Slack(low_ms=n)) for n in range(2_000)}
    # Names that are parts of others, or look like what stands behind a name.
    odd = {name: QueueRules(paused=True) for name in ("1", "0", "-", "q", "low=1", "default")}
    stored = named | odd
    await rules.change(lab.store, [(name, b"", rules.encode(one, {})) for name, one in list(stored.items())[:1_000]])
    await rules.change(lab.store, [(name, b"", rules.encode(one, {})) for name, one in list(stored.items())[1_000:]])
    number = await rules.version(lab.store)
    await rules.copy(lab.store, [0], number, rules.codes(stored))
    assert (await rules.copies(lab.store, [0], number)).behind == []
    assert await lab.client.hlen(keys.steered(lab.tag)) <= 256
    queues_ = ["q7", "q8", "q17", "q170", "q1999", "7", "*x", *odd]
    ids = await lab.add(*(call(name) for name in queues_))
    free = {"q7", "q17", "q1999", "7", "*x"}
    assert set(leased(await lab.claim())) == {id_ for id_, name in zip(ids, queues_, strict=True) if name in free}
    assert await lab.problems() == []
    await rules.change(lab.store, [(name, rules.encode(one, {}), b"") for name, one in stored.items()])
    await rules.copy(lab.store, [0], number + 1, {})
    assert set(leased(await lab.claim())) == {id_ for id_, name in zip(ids, queues_, strict=True) if name not in free}
    assert await unsteered(lab)


async def test_a_copy_goes_in_parts_of_bounded_size(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_PART_BYTES", 100)
    names = [f"{'long' * 20}{n}" for n in range(40)]
    wanted = rules.codes(dict.fromkeys(names, QueueRules(paused=True)))
    await rules.change(lab.store, [("any", b"", b"{}")])
    await rules.copy(lab.store, [0], 1, wanted)
    assert await copied(lab) == dict.fromkeys((name.encode() for name in names), b"1")
