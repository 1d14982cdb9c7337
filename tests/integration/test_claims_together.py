"""One script claims from several partitions (claims.lua). It does what a claim of each of them does."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ClusterCrossSlotError, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.service.rules import Rules
from delaybox.store import keys
from delaybox.store.loader import ScriptRunner, load
from delaybox.store.replies import ClaimLimits, read_claim
from delaybox.store.survey import SHARED
from tests.lab import CLOCK, CLOCK_KEY, Lab
from tests.ways import content

PARTITIONS = 32
KEEPER = ClaimLimits(slots=100, types="shw", channel="c", names="h", looker="m")
LEASES = [b"%020d" % p for p in range(PARTITIONS)]


@pytest.fixture
async def wide(client: Redis, prefix: str) -> AsyncIterator[Lab]:
    lab = await Lab.open(client, prefix, partitions=PARTITIONS)
    for p in range(PARTITIONS):
        await lab.store.claim(p, os.urandom(20), KEEPER)
    await lab.move(100)
    yield lab
    assert await lab.problems() == []
    await client.unlink(CLOCK_KEY, *(await client.keys(f"*{prefix}:*")))


def message(due_ms: int, **parts: Any) -> NewTask:
    return NewTask(due_ms=due_ms, payload=b"x", **parts)


async def scripts(lab: Lab) -> int:
    stats = await lab.client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("evalsha", "eval"))


async def claim(
    lab: Lab, partitions: Sequence[int], limits: ClaimLimits, *, few: bool = False, together: bool = False
) -> list[Any]:
    calls = [lab.store.claim_call(p, LEASES[p], limits)._replace(few=few, together=together) for p in partitions]
    replies = await lab.store.runner.run_many(calls)
    assert not any(isinstance(reply, BaseException) for reply in replies), replies
    for reply in replies:
        # How many were fired by lane, in any order.
        reply[5] = dict(zip(reply[5][::2], reply[5][1::2], strict=True))
    return replies


async def same(
    lab: Lab, partitions: Sequence[int], limits: ClaimLimits = KEEPER, *, together: bool = True
) -> tuple[list[Any], int]:
    """Together they answer and store what each whole claim does, or each alone by the short script. The replies, and
    how many scripts ran; what was done stays."""
    dump = {key: await lab.client.dump(key) for key in await lab.client.keys("*")}
    alone = await claim(lab, partitions, limits), await content(lab)
    await lab.client.unlink(*await lab.client.keys("*"))
    for key, value in dump.items():
        await lab.client.restore(key, 0, value)
    await lab.client.script_load(load("claims", CLOCK).source)
    before = await scripts(lab)
    found = await claim(lab, partitions, limits, few=True, together=together)
    ran = await scripts(lab) - before
    assert found == alone[0]
    assert await content(lab) == alone[1]
    return found, ran


def taken(replies: Sequence[Any]) -> list[int]:
    return [len(reply[2]) // 2 + len(reply[3]) for reply in replies]


async def test_what_came_due_in_several_partitions(wide: Lab) -> None:
    for p in range(5):
        await wide.add(*(message(wide.now + 10 + i) for i in range(p)), message(wide.now + 500), partition=p)
    await wide.move(20)
    replies, ran = await same(wide, range(5))
    assert taken(replies) == [0, 1, 2, 3, 4] and ran == 1
    assert [reply[1] for reply in replies] == [wide.now + 480] * 5


async def test_what_is_leased_and_what_is_fired(wide: Lab) -> None:
    for p in range(3):
        command = NewTask(type=TaskType.SHELL_CMD, name="backup", due_ms=wide.now + 10)
        await wide.add(message(wide.now + 10), command, partition=p)
        await wide.add(NewTask(due_ms=wide.now + 10, payload=bytes(5_000)), partition=p)
    await wide.move(20)
    replies, ran = await same(wide, [2, 0, 1], KEEPER)
    assert taken(replies) == [3, 3, 3] and ran == 1
    for p in range(3):
        assert await wide.client.hlen(keys.lease(wide.store.tags[p], LEASES[p])) == 2


async def test_more_partitions_than_one_script_takes(wide: Lab) -> None:
    for p in range(PARTITIONS):
        await wide.add(message(wide.now + 10), partition=p)
    await wide.move(20)
    replies, ran = await same(wide, range(PARTITIONS))
    assert taken(replies) == [1] * PARTITIONS and ran == 2


async def test_what_needs_the_whole_claim_gets_it(wide: Lab) -> None:
    """Of several priorities, with a key that takes turns or one of its own, and under a lease that is there already."""
    await wide.add(message(wide.now + 10), message(wide.now + 10, priority=Priority.HIGH), partition=0)
    await wide.add(message(wide.now + 10, fairness_key="k"), partition=1)
    await wide.add(message(wide.now + 10, idempotency_key="k"), partition=2)
    await wide.add(NewTask(due_ms=wide.now + 10, payload=bytes(5_000)), partition=3)
    await wide.add(message(wide.now + 10), partition=4)
    await wide.move(20)
    await wide.store.claim(3, LEASES[3], KEEPER)
    replies, ran = await same(wide, range(5))
    assert taken(replies) == [2, 1, 1, 1, 1] and ran == 1 + 4


@pytest.mark.parametrize("channel", ["c", ""])
async def test_one_that_goes_alone_is_answered_by_the_short_script(wide: Lab, channel: str) -> None:
    limits = ClaimLimits(slots=100, types="pshw", channel=channel, names="h" if channel else "", looker="m")
    for p, count in enumerate((0, 1, 5, 8)):
        await wide.add(*(message(wide.now + 10) for _ in range(count)), message(wide.now + 500), partition=p)
    await wide.move(20)
    for p, most in enumerate((0, 1, 5, 8)):
        replies, scripts_run = await same(wide, [p], limits, together=False)
        assert taken(replies) == [most] and scripts_run == 1, p


@pytest.mark.parametrize("limits", [KEEPER, ClaimLimits(slots=100, types="p", channel="")], ids=["fired", "leased"])
async def test_of_more_than_a_few_the_first_are_taken_at_once(wide: Lab, limits: ClaimLimits) -> None:
    """They do not wait for those behind them, which the whole claim takes next: both together do what that does."""
    at = wide.now
    for p, count in enumerate((30, 9, 2)):
        await wide.add(*(message(at + 1 + i % 7) for i in range(count)), message(at + 500), partition=p)
    await wide.move(20)
    ninth = [sorted(at + 1 + i % 7 for i in range(count))[8] for count in (30, 9)]
    before = await scripts(wide)
    calls = [wide.store.claim_call(p, LEASES[p], limits)._replace(few=True, together=True) for p in range(3)]
    first = [read_claim(reply) for reply in await wide.store.runner.run_many(calls)]
    assert [len(one.leased) // 2 + len(one.lateness_ms) for one in first] == [8, 8, 2]
    assert [one.more for one in first] == [True, True, False]
    assert [one.next_due_ms for one in first] == [*ninth, at + 500]
    assert not any(one.clear for one in first[:2])
    behind = [wide.store.claim_call(p, LEASES[8 + p], limits)._replace(few=True, together=True) for p in range(3)]
    rest = [read_claim(reply) for reply in await wide.store.runner.run_many(behind)]
    assert [len(one.leased) // 2 + len(one.lateness_ms) for one in rest] == [22, 1, 0]
    assert not any(one.more for one in rest) and await scripts(wide) - before == 1 + 3


@pytest.mark.parametrize(
    "limits",
    [replace(KEEPER, plan=SHARED), ClaimLimits(slots=100, types="p", channel="", guest=True)],
    ids=["weights", "guest"],
)
async def test_where_all_is_chosen_from_the_first_of_many_are_not_taken(wide: Lab, limits: ClaimLimits) -> None:
    """Nor by a guest: a claim that leaves something calls other guests."""
    await wide.add(*(message(wide.now + 10) for _ in range(9)), partition=0)
    await wide.move(20)
    replies, ran = await same(wide, [0], limits, together=False)
    assert taken(replies) == [9] and ran == 2


async def test_one_that_needed_the_whole_claim_asks_for_it_for_a_while(wide: Lab) -> None:
    await wide.client.script_load(load("claims", CLOCK).source)
    ran = list[int]()
    for turn in range(23):
        await wide.add(message(wide.now + 10, fairness_key="k"), message(wide.now + 10), partition=0)
        await wide.move(20)
        before = await scripts(wide)
        call = wide.store.claim_call(0, b"%020d" % turn, KEEPER)._replace(few=True)
        assert taken(await wide.store.runner.run_many([call])) == [2]
        ran.append(await scripts(wide) - before)
    assert ran == [2, *[1] * 20, 2, 1]


async def test_queues_with_rules(wide: Lab) -> None:
    await Rules(wide.store).set("off", QueueRules(paused=True))
    for p in range(3):
        await wide.add(message(wide.now + 10), partition=p)
    await wide.add(message(wide.now + 10, queue="off"), partition=1)
    await wide.move(20)
    replies, ran = await same(wide, range(3))
    assert taken(replies) == [1, 1, 1] and ran == 2


async def test_what_needed_the_whole_claim_is_not_tried_together_each_time(wide: Lab) -> None:
    """As where keys take turns: each claim of such a partition needs the whole script."""
    send, sent = wide.store.servers.send, list[list[int]]()

    async def noted(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        sent.append([command[2] for command in commands])
        return await send(commands)

    await wide.client.script_load(load("claims", CLOCK).source)
    for turn in range(25):
        wide.store.runner = wide.store.runner if turn else ScriptRunner(noted, clock=CLOCK)
        await wide.add(message(wide.now + 10, fairness_key="k"), message(wide.now + 10), partition=0)
        for p in (1, 2):
            await wide.add(message(wide.now + 10), partition=p)
        await wide.move(20)
        sent.clear()
        leases = [b"%018d-%d" % (turn, p) for p in range(3)]
        calls = [wide.store.claim_call(p, leases[p], KEEPER)._replace(few=True, together=True) for p in range(3)]
        replies = await wide.store.runner.run_many(calls)
        assert taken(replies) == [2, 1, 1]
        assert sent == ([[3], [1]] if turn in (0, 21) else [[1, 2]])


async def test_an_error_in_one_partition_is_its_own(wide: Lab) -> None:
    for p in range(3):
        await wide.add(message(wide.now + 10), partition=p)
    await wide.move(20)
    await wide.client.rename(keys.near(wide.store.tags[1], 2), "aside")
    await wide.client.set(keys.near(wide.store.tags[1], 2), "x")
    calls = [wide.store.claim_call(p, LEASES[p], KEEPER)._replace(few=True, together=True) for p in range(3)]
    replies = await wide.store.runner.run_many(calls)
    assert "WRONGTYPE" in str(replies[1])
    assert [len(read_claim(replies[p]).lateness_ms) for p in (0, 2)] == [1, 1]
    await wide.client.rename("aside", keys.near(wide.store.tags[1], 2))


async def test_a_clock_that_cannot_be_read_stops_no_other_partition(wide: Lab) -> None:
    for p in range(3):
        await wide.add(message(wide.now + 10), partition=p)
    await wide.move(20)
    await wide.client.rename(keys.clock(wide.store.tags[1]), "aside")
    await wide.client.set(keys.clock(wide.store.tags[1]), "x")
    calls = [wide.store.claim_call(p, LEASES[p], KEEPER)._replace(few=True, together=True) for p in range(3)]
    replies = await wide.store.runner.run_many(calls)
    assert "WRONGTYPE" in str(replies[1])
    assert [len(read_claim(replies[p]).lateness_ms) for p in (0, 2)] == [1, 1]
    await wide.client.rename("aside", keys.clock(wide.store.tags[1]))


async def test_an_error_after_a_task_was_published_is_not_hidden(wide: Lab) -> None:
    """The whole claim finds nothing more there, and answers as if nothing had been due."""
    for p in range(3):
        await wide.add(message(wide.now + 10), partition=p)
    await wide.move(20)
    buckets = keys.buckets(wide.store.tags[1])
    await wide.client.unlink(buckets)
    await wide.client.set(buckets, "x")
    calls = [wide.store.claim_call(p, LEASES[p], KEEPER)._replace(few=True, together=True) for p in range(3)]
    replies = await wide.store.runner.run_many(calls)
    assert "WRONGTYPE" in str(replies[1])
    assert [len(read_claim(replies[p]).lateness_ms) for p in (0, 2)] == [1, 1]
    # The task's record is gone, and with it the only bucket there was.
    await wide.client.unlink(buckets)


async def test_an_error_after_a_task_was_leased_is_not_hidden(wide: Lab) -> None:
    """The whole claim answers with what lies under the lease already."""
    for p in range(3):
        await wide.add(NewTask(type=TaskType.SHELL_CMD, name="backup", due_ms=wide.now + 10), partition=p)
    await wide.move(20)
    leased, tag = keys.leased(wide.store.tags[1]), wide.store.tags[1]
    await wide.client.set(leased, "x")
    calls = [wide.store.claim_call(p, LEASES[p], KEEPER)._replace(few=True, together=True) for p in range(3)]
    replies = await wide.store.runner.run_many(calls)
    assert "WRONGTYPE" in str(replies[1])
    assert [len(read_claim(replies[p]).leased) // 2 for p in (0, 2)] == [1, 1]
    # As if the claim had not begun.
    await wide.client.unlink(leased, keys.lease(tag, LEASES[1]), keys.leases(tag))


async def test_a_reply_that_was_lost_is_given_again_to_each(wide: Lab) -> None:
    for p in range(3):
        command = NewTask(type=TaskType.SHELL_CMD, name="backup", due_ms=wide.now + 10)
        await wide.add(message(wide.now + 10), command, partition=p)
    await wide.move(20)
    send, lost = wide.store.servers.send, 0

    async def loses_the_first(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        nonlocal lost
        found = await send(commands)
        lost += 1
        return [RedisTimeoutError()] * len(found) if lost == 1 else found

    await wide.client.script_load(load("claims", CLOCK).source)
    wide.store.runner = ScriptRunner(loses_the_first, clock=CLOCK)
    calls = [wide.store.claim_call(p, LEASES[p], KEEPER)._replace(few=True, together=True) for p in range(3)]
    replies = [read_claim(reply) for reply in await wide.store.runner.run_many(calls)]
    for p, reply in enumerate(replies):
        held = await wide.client.hgetall(keys.lease(wide.store.tags[p], LEASES[p]))
        assert dict(zip(reply.leased[::2], reply.leased[1::2], strict=True)) == held and len(held) == 1
        assert reply.lateness_ms == [], "what was fired is gone"


async def test_a_server_that_has_forgotten_the_script(wide: Lab) -> None:
    """It is sent once to answer all of a round, and so is the whole claim to those that need it: for a key."""
    send, sources = wide.store.servers.send, list[str]()

    async def noted(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        sources.extend(command[1] for command in commands if command[0] == "EVAL")
        return await send(commands)

    wide.store.runner = ScriptRunner(noted, clock=CLOCK)
    for p in range(3):
        await wide.add(message(wide.now + 10, idempotency_key=f"k{p}"), partition=p)
    await wide.move(20)
    await wide.client.script_flush()
    calls = [wide.store.claim_call(p, LEASES[p], KEEPER)._replace(few=True, together=True) for p in range(3)]
    replies = await wide.store.runner.run_many(calls)
    assert [len(read_claim(reply).lateness_ms) for reply in replies] == [1, 1, 1]
    assert sources == [load(name, CLOCK).source for name in ("claims", "claim")]


async def test_behind_a_proxy_with_servers_that_do_not_know_the_script(wide: Lab) -> None:
    """What one server knows another one may not: those that miss it get its source as well."""
    send, knows = wide.store.servers.send, set[Any]()

    async def at_its_own(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        found: list[Any] = []
        for command in commands:
            if command[0] == "EVAL":
                knows.add(command[3])
            found += await send([command]) if command[3] in knows else [NoScriptError()]
        return found

    await wide.client.script_load(load("claim", CLOCK).source)
    wide.store.runner = ScriptRunner(at_its_own, clock=CLOCK)
    for p in range(3):
        await wide.add(message(wide.now + 10), partition=p)
    await wide.move(20)
    replies = await wide.store.runner.run_many([wide.store.claim_call(p, LEASES[p], KEEPER) for p in range(3)])
    assert [len(read_claim(reply).lateness_ms) for reply in replies] == [1, 1, 1]


@pytest.mark.parametrize("words", ["CROSSSLOT", "'EVALSHA' command keys must in same slot"])
async def test_behind_a_proxy_with_a_cluster_each_is_claimed_alone(wide: Lab, words: str) -> None:
    """As of services that show several servers as one, and refuse keys of several slots."""
    send, refused = wide.store.servers.send, 0

    async def behind_a_proxy(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        nonlocal refused
        found: list[Any] = []
        for command in commands:
            if command[2] > 1:
                refused += 1
                found.append(ClusterCrossSlotError() if words == "CROSSSLOT" else ResponseError(words))
            else:
                found += await send([command])
        return found

    wide.store.runner = ScriptRunner(behind_a_proxy, clock=CLOCK)
    for turn in range(2):
        for p in range(3):
            await wide.add(message(wide.now + 10), partition=p)
        await wide.move(20)
        leases = [b"%018d-%d" % (p, turn) for p in range(3)]
        calls = [wide.store.claim_call(p, leases[p], KEEPER)._replace(few=True, together=True) for p in range(3)]
        replies = await wide.store.runner.run_many(calls)
        assert [len(read_claim(reply).lateness_ms) for reply in replies] == [1, 1, 1]
    assert refused == 1, "it is not tried again"
