"""Scripts of which most calls need only a part: that part is a script of its own (ADR 0075), and what it cannot answer
it leaves untouched for the whole one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from delaybox.core import ids
from delaybox.core.delivery import Delivery
from delaybox.core.limit_keys import KeyLimit
from delaybox.core.needs import WorkerNeeds
from delaybox.core.queue import QueueRules
from delaybox.core.task import DeliveryMode, NewTask, Priority, TaskType, UniqueWhile
from delaybox.core.webhook import Webhook
from delaybox.engine.settler import as_needed
from delaybox.service.rules import Rules
from delaybox.store import keys
from delaybox.store.loader import ScriptCall, ScriptRunner, load
from delaybox.store.record import LABELS, delivery_of, draft, with_entry
from delaybox.store.replies import Batch, Verdict
from delaybox.store.settling import fail_calls, release_calls
from delaybox.store.snooze import Snooze, snooze_calls
from tests.integration.test_store_permits import Bench
from tests.integration.test_store_permits import call as mail
from tests.lab import CLOCK, Lab, leased

LEASE = b"l" * 20
USUAL = [NewTask(), NewTask(idempotency_key="k"), NewTask(payload=bytes(2_000))]
"""Plain, and with something that lies apart: a key, a body."""
EXTENDED = NewTask(group="g", fairness_key="f")

Send = Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]]


class Sent(ScriptRunner):
    """Notes how often a script is sent, '+' behind a whole one, '~' behind what also gives permits back. ``lose``: the
    answer to the next whole one is lost."""

    def __init__(self, lab: Lab, script: str) -> None:
        self._names = {
            load(script, CLOCK, usual=part).sha: script + mark for part, mark in ((2, "~"), (0, "+"), (1, ""))
        }
        self.names: list[str] = []
        self.lose = False
        self._genuine = lab.store.servers.send
        super().__init__(self._noted, clock=CLOCK)
        lab.store.runner = self

    async def _noted(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        names = [self._names[command[1]] for command in commands if command[1] in self._names]
        self.names += names
        replies = await self._genuine(commands)
        if self.lose and any(name.endswith("+") for name in names) and not isinstance(replies[0], BaseException):
            self.lose = False
            raise RedisTimeoutError("the answer is lost")
        return replies


def ack(lab: Lab, ids: list[bytes]) -> list[ScriptCall]:
    return [lab.store.ack_call(0, LEASE, ids)]


def complete(lab: Lab, ids: list[bytes]) -> list[ScriptCall]:
    return [lab.store.complete_call(0, LEASE, [(task_id, 60_000, b"result") for task_id in ids])]


def fail(lab: Lab, ids: list[bytes]) -> list[ScriptCall]:
    return fail_calls(lab.store, 0, LEASE, [Verdict(task_id, 1_000, "no") for task_id in ids], dead_cap=1_000)


def release(lab: Lab, ids: list[bytes]) -> list[ScriptCall]:
    return release_calls(lab.store, 0, LEASE, ids, delay_ms=1_000)


def put_off(lab: Lab, ids: list[bytes]) -> list[ScriptCall]:
    return snooze_calls(lab.store, 0, LEASE, [Snooze(i, 1_000, 60_000, "later") for i in ids], dead_cap=1_000)


ENDS: dict[str, Callable[[Lab, list[bytes]], list[ScriptCall]]] = {
    "ack": ack, "complete": complete, "fail": fail, "release": release, "snooze": put_off,
}  # fmt: skip
"""The call by which each script ends tasks of the lease."""


async def end(lab: Lab, script: str, ids: list[bytes], *, told: bool = False) -> list[bytes]:
    """What it calls stale. ``told``: whether the whole script is asked for."""
    (call,) = ENDS[script](lab, ids)
    reply = await lab.store.runner.run(call._replace(whole=told))
    return [part for part in reply if isinstance(part, bytes)]


def deliveries(flat: list[Any]) -> list[Delivery]:
    """What a claim leased."""
    return [delivery_of(i, raw, 0, LEASE, 0) for i, raw in zip(flat[::2], flat[1::2], strict=True)]


async def content(lab: Lab) -> dict[bytes, Any]:
    return {name: await lab.client.dump(name) for name in await lab.names("*")}


@pytest.mark.parametrize("script", sorted(ENDS))
async def test_most_tasks_need_only_the_usual_part(lab: Lab, script: str) -> None:
    sent = Sent(lab, script)
    await lab.add(*USUAL)
    ids = list(leased(await lab.claim(LEASE)))
    assert await end(lab, script, [*ids, b"x" * 16]) == [b"x" * 16]
    assert sent.names == [script]


@pytest.mark.parametrize("script", sorted(ENDS))
async def test_what_it_cannot_answer_the_usual_part_does_not_touch(lab: Lab, script: str) -> None:
    await lab.add(*USUAL, EXTENDED)
    ids = list(leased(await lab.claim(LEASE)))
    (call,) = ENDS[script](lab, ids)
    before = await content(lab)
    reply = await lab.client.eval(load(script, CLOCK, usual=True).source, 1, call.tag, *call.args)
    assert reply == b"WHOLE" and await content(lab) == before


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("script", sorted(ENDS))
async def test_the_whole_is_sent_where_it_is_needed(lab: Lab, script: str, told: bool) -> None:
    """At once where the caller says so."""
    sent = Sent(lab, script)
    await lab.add(*USUAL, EXTENDED)
    found = leased(await lab.claim(LEASE))
    assert [bool(record.extension) for record in found.values()].count(True) == 1
    assert await end(lab, script, [*found, b"x" * 16], told=told) == [b"x" * 16]
    want = [f"{script}+"] if told else [script, f"{script}+"]
    assert list(dict.fromkeys(name for name in sent.names if name.startswith(script))) == want
    assert sorted(await end(lab, script, list(found), told=told)) == sorted(found), "each is ended once"


@pytest.mark.parametrize("script", sorted(ENDS))
async def test_the_whole_is_sent_again_when_its_answer_is_lost(lab: Lab, script: str) -> None:
    sent = Sent(lab, script)
    await lab.add(EXTENDED)
    (task_id,) = leased(await lab.claim(LEASE))
    await lab.client.script_load(load(script, CLOCK).source)
    sent.lose = True
    assert await end(lab, script, [task_id]) == [task_id], "it was carried out the first time"
    assert not sent.lose
    counts = (await lab.store.counts())[0]
    assert counts.in_flight == 0


async def test_a_delivery_says_whether_its_end_needs_the_whole(lab: Lab) -> None:
    """So what has a permit, a group or callbacks costs no second round trip."""
    await lab.add(*USUAL, EXTENDED, NewTask(type=TaskType.WORKER, name="f", group="g"))
    found = deliveries((await lab.claim(LEASE)).leased)
    assert sorted(d.extended for d in found) == [False, False, False, True, True]


@pytest.mark.parametrize("by_key", [False, True])
@pytest.mark.parametrize("script", ["ack", "complete"])
async def test_what_has_permits_needs_no_more_than_gives_them_back(lab: Lab, script: str, by_key: bool) -> None:
    """Whatever else it has that ends with its record: a key, a body, a fairness key, a cost."""
    bench, sent = Bench(lab), Sent(lab, script)
    if by_key:
        await bench.set(keys=(KeyLimit(by="label:c", concurrency=4),))
    else:
        await bench.set(concurrency=4)
    more: list[dict[str, Any]] = [
        {"idempotency_key": "k"},
        {"fairness_key": "f", "payload": bytes(2_000)},
        {"needs": WorkerNeeds(cost=2)},
    ]
    await lab.add(*(mail(labels={"c": "x"}, **one) for one in (*more, {}, {})))
    claimed = await lab.claim(LEASE, types="w")
    assert not claimed.leased
    await bench.dealer._settle({0: dict.fromkeys(p for n in claimed.waits for p in bench.dealer._pools(n))}, [])
    claimed = await lab.claim(LEASE, types="w")
    found = leased(claimed)
    assert len(found) == 4 and all(record.permit for record in found.values())
    (one,) = ENDS[script](lab, list(found))
    (one,) = as_needed((one,), deliveries(claimed.leased))
    assert await lab.store.runner.run(one) == []
    assert sent.names == [f"{script}~"]
    assert not await lab.names("used:*") and (await lab.store.counts())[0].in_flight == 0
    assert await lab.ttl_of("k") and not await lab.names("body:*")
    assert len(leased(await lab.claim(types="w"))) == 1, "what waited was let go"


async def test_permits_of_what_is_handed_out_once_stay_for_a_while(lab: Lab) -> None:
    bench, sent = Bench(lab), Sent(lab, "ack")
    await bench.set(concurrency=1)
    await lab.add(mail(delivery=DeliveryMode.AT_MOST_ONCE), mail())
    await lab.claim(types="w")
    await bench.settle()
    claimed = await lab.claim(LEASE, types="w")
    (call,) = as_needed(ack(lab, list(leased(claimed))), deliveries(claimed.leased))
    await lab.store.runner.run(call)
    ((_, until_ms),) = await lab.client.zrange(keys.used(lab.tag, b"cmail"), 0, -1, withscores=True)
    assert sent.names == ["ack~"] and lab.now < until_ms < lab.now + 10**10
    assert leased(await lab.claim(types="w")) == {}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("why", ["a group", "a lock", "a callback", "sets of labels"])
@pytest.mark.parametrize("script", ["ack", "complete"])
async def test_what_stands_elsewhere_as_well_needs_the_whole(lab: Lab, script: str, why: str, told: bool) -> None:
    kinds = {
        "a group": NewTask(group="g"),
        "a lock": NewTask(idempotency_key="k", unique_while=UniqueWhile.RUNNING),
        "a callback": NewTask(type=TaskType.HTTP, webhook=Webhook("https://a.b", on_success="https://a.c")),
        "sets of labels": NewTask(),
    }
    sent = Sent(lab, script)
    (task_id,) = await lab.add(kinds[why])
    if why == "sets of labels":
        home = keys.bucket(lab.tag, lab.now // 1_000)
        raw = await lab.client.hget(home, task_id)
        await lab.client.hset(home, task_id, with_entry(raw, LABELS, b"\0\3mark"))
        await lab.client.sadd(f"{lab.tag}:label:3", task_id + b"mark")
    flat = (await lab.claim(LEASE)).leased
    (call,) = ENDS[script](lab, [task_id])
    (best,) = as_needed((call,), deliveries(flat))
    assert await lab.store.runner.run(best if told else call._replace(lent=True)) == []
    assert sent.names == ([f"{script}+"] if told else [f"{script}~", f"{script}+"])
    assert not await lab.names("groups") and not await lab.names("label:*") and await lab.ttl_of("k") == -2
    assert len(leased(await lab.claim())) == (why == "a callback")


async def test_a_look_that_reaps_nothing_needs_only_the_usual_part(lab: Lab) -> None:
    """As nearly all are: a node looks twice a second."""
    sent = Sent(lab, "reap")
    await lab.add(*USUAL)
    await lab.lease(LEASE)
    how = {"lease_ms": 15_000, "losses_cap": 3, "every_ms": 500}
    first = await lab.store.reap(0, **how)
    assert first.grace_ms > lab.now and first.leases == 0 and sent.names == ["reap"]
    await lab.move(500)
    assert (await lab.store.reap(0, **how)).grace_ms == 0 and sent.names == ["reap"] * 2


async def test_tasks_due_soon_need_only_the_usual_part_of_an_index(lab: Lab) -> None:
    """Of every priority and type, moved ones among them, and one that is due already."""
    sent = Sent(lab, "index")
    kinds = [
        NewTask(priority=p, type=t, name="f" * (t.value in "ws"), delay_ms=900) for p in Priority for t in TaskType
    ]
    ids = [*await lab.add(*kinds), *await lab.add(NewTask(delay_ms=910), NewTask(delay_ms=920))]
    await lab.store.reschedule(ids[-1], due_ms=lab.now + 950)
    want = [await lab.near(number, letter) for number in range(4) for letter in ("", "w", "h")]
    await lab.client.delete(*keys.nears(lab.tag))
    await lab.move(910)
    assert await lab.store.index(0, lab.now // 1_000, b"0") == (b"0", len(ids), 0)
    assert [await lab.near(number, letter) for number in range(4) for letter in ("", "w", "h")] == want
    assert sent.names == ["index"]


@pytest.mark.parametrize("odd", ["extended", "elsewhere", "moved away", "ready", "ruled"])
async def test_others_need_the_whole_index(lab: Lab, odd: str) -> None:
    sent = Sent(lab, "index")
    (task_id,) = await lab.add(EXTENDED if odd == "extended" else NewTask(delay_ms=900))
    bucket = lab.now // 1_000
    if odd == "elsewhere":
        # A pointer to a task that was moved once more: it is dropped.
        await lab.client.hset(keys.bucket(lab.tag, bucket + 5), task_id, b"")
        bucket += 5
    elif odd == "moved away":
        await lab.store.reschedule(task_id, due_ms=lab.now + 3_600_000)
    elif odd == "ready":
        await lab.move(1_000)
        await lab.claim(slots=0)
    elif odd == "ruled":
        await Rules(lab.store).set("mail", QueueRules(concurrency=1))
    before = await content(lab)
    assert await lab.store.index(0, bucket, b"0") == (b"0", 1, 0)
    assert list(dict.fromkeys(sent.names)) == ["index", "index+"]
    if odd == "elsewhere":
        assert await lab.client.hlen(keys.bucket(lab.tag, bucket)) == 0
    else:
        assert await content(lab) == before


async def test_tasks_with_a_fairness_key_are_stored_by_the_whole_script(lab: Lab) -> None:
    """At once, as all whose record has an extension: the caller sees that. Labels, keys and large bodies are usual."""
    sent = Sent(lab, "schedule")
    await lab.add(*USUAL, NewTask(group="g", labels={"a": "b"}))
    assert set(sent.names) == {"schedule+"}
    sent.names.clear()
    await lab.add(*USUAL, NewTask(labels={"a": "b"}))
    assert sent.names == ["schedule"]
    sent.names.clear()
    batch = Batch(0, [draft(NewTask()), draft(NewTask(fairness_key="f", delay_ms=1_000))])
    call = lab.store.schedule_call(batch, ids.tails(0, bytes(16)))
    before = await content(lab)
    reply = await lab.client.eval(load("schedule", CLOCK, usual=True).source, 1, call.tag, *call.args)
    assert call.whole and reply == b"WHOLE" and await content(lab) == before
    assert await lab.store.runner.run(call._replace(whole=False)) == [lab.now]
    assert sent.names == ["schedule", "schedule+"]
    assert await lab.client.hget(keys.clock(lab.tag), "fair") is not None
