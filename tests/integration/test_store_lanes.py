"""claim.lua for takers that serve some lanes of a type only, and for guests, which keep no time."""

from __future__ import annotations

from typing import Any

import pytest

from delaybox.core.lane import lane_of
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.store import keys
from tests.lab import Lab, leased

SEND = lane_of(TaskType.WORKER, "mail", "send")


def call(name: str = "send", queue: str = "mail", **parts: Any) -> NewTask:
    return NewTask(type=TaskType.WORKER, queue=queue, name=name, **parts)


def shell(name: str = "", queue: str = "default") -> NewTask:
    return NewTask(type=TaskType.SHELL_CMD, queue=queue, name=name)


@pytest.mark.parametrize("guest", [False, True])
@pytest.mark.parametrize("ready", [False, True])
async def test_only_named_lanes_are_taken(lab: Lab, guest: bool, ready: bool) -> None:
    mine, *others = await lab.add(call(), call("other"), call(queue="default"), shell())
    if ready:
        await lab.claim(slots=0)
    assert set(leased(await lab.claim(types="w", lanes=(SEND,), guest=guest))) == {mine}
    assert set(leased(await lab.claim())) == set(others)
    assert await lab.problems() == []


async def test_any_queue_is_said_with_a_star(lab: Lab) -> None:
    a, b, payload, other = await lab.add(shell("backup"), shell("backup", "night"), shell(), shell("report"))
    assert set(leased(await lab.claim(types="s", lanes=(b"s*:backup",)))) == {a, b}
    assert set(leased(await lab.claim(types="s", lanes=(b"s*",)))) == {payload}
    assert set(leased(await lab.claim())) == {other}


async def test_types_without_a_lane_are_not_limited(lab: Lab) -> None:
    mine, published, *_ = await lab.add(call(), NewTask(), call("other"))
    assert set(leased(await lab.claim(types="pw", lanes=(SEND,)))) == {mine, published}


async def test_a_guest_leaves_what_is_not_its_own_where_it_lies(lab: Lab) -> None:
    published, mine = await lab.add(NewTask(), call())
    claimed = await lab.claim(types="w", lanes=(SEND,), guest=True)
    assert set(leased(claimed)) == {mine} and claimed.promoted == 0
    assert set(await lab.near()) == {published + b"p"}
    # What it left is due: it looks again before long, for behind that more of its own may stand.
    assert claimed.next_due_ms == lab.now


async def test_a_guest_that_is_full_is_told_that_there_may_be_more(lab: Lab) -> None:
    await lab.add(*(call() for _ in range(5)))
    first = await lab.claim(types="w", lanes=(SEND,), guest=True, slots=3)
    assert len(leased(first)) == 3 and first.more
    rest = await lab.claim(types="w", lanes=(SEND,), guest=True, slots=3)
    assert len(leased(rest)) == 2 and not rest.more


async def test_a_guest_takes_ready_and_near_together(lab: Lab) -> None:
    ready = await lab.add(*(call() for _ in range(3)))
    await lab.claim(slots=0)
    near = await lab.add(*(call() for _ in range(3)))
    assert set(leased(await lab.claim(types="w", lanes=(SEND,), guest=True))) == {*ready, *near}
    assert await lab.names("active:*") == [] and await lab.near() == {}


async def test_a_guest_takes_critical_first(lab: Lab) -> None:
    normal, critical = await lab.add(call(), call(priority=Priority.CRITICAL))
    assert list(leased(await lab.claim(types="w", lanes=(SEND,), guest=True, slots=1))) == [critical]
    assert list(leased(await lab.claim(types="w", lanes=(SEND,), guest=True, slots=1))) == [normal]


async def test_lanes_that_nobody_serves_do_not_hide_one_that_is(lab: Lab) -> None:
    unserved = await lab.add(*(call(f"f{i}") for i in range(300)))
    await lab.claim(slots=0)
    (mine,) = await lab.add(call())
    await lab.claim(slots=0)
    assert await lab.client.zcard(f"{lab.tag}:active:w") == 301
    for _ in range(301):
        got = leased(await lab.claim(types="w", lanes=(SEND,)))
        if got:
            break
        await lab.move(1)
    assert set(got) == {mine}
    assert set(leased(await lab.claim())) | set(leased(await lab.claim())) <= set(unserved)


async def test_what_nobody_serves_waits_as_ready_and_is_no_backlog(lab: Lab) -> None:
    await lab.add(call("unserved"))
    await lab.claim(slots=0)
    (published,) = await lab.add(NewTask())
    claimed = await lab.claim(types="pw", lanes=(SEND,))
    assert set(leased(claimed)) == {published}
    # Straight from near: nothing that is served was ready.
    assert claimed.promoted == 0 and not claimed.more
    assert await lab.ready("wmail:unserved") != []


async def test_a_hint_of_a_guest_that_names_nothing_goes(lab: Lab) -> None:
    (mine,) = await lab.add(call())
    await lab.client.delete(keys.bucket(lab.tag, lab.now // 1_000), keys.buckets(lab.tag))
    claimed = await lab.claim(types="w", lanes=(SEND,), guest=True)
    assert claimed.leased == [] and claimed.dropped == 1
    assert await lab.near() == {}
    assert mine


async def test_making_ready_what_is_not_served_is_progress(lab: Lab) -> None:
    """Or the owner would pause before it comes to what stands behind a herd of others' tasks."""
    await lab.add(*(call() for _ in range(200)))
    await lab.move(1)
    await lab.add(NewTask())
    first = await lab.claim(types="", channel="c", items=150)
    assert (first.promoted, first.lateness_ms, first.next_due_ms) == (150, [], lab.now - 1)
    second = await lab.claim(types="", channel="c", items=150)
    assert second.promoted == 50 and len(second.lateness_ms) == 1
