"""Dead letters on the dashboard: read with each attempt's traceback, replayed and discarded by group."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator, Sequence
from unittest.mock import Mock
from urllib.parse import urlencode

import pytest
from redis.asyncio import Redis

from delaybox.api.dashboard.pages import dead as pages
from delaybox.api.dashboard.settings import DashboardSettings
from delaybox.core import ids
from delaybox.core.delivery import Delivery, Failed, Report
from delaybox.core.history import HistoryRules
from delaybox.core.task import NewTask, TaskType
from delaybox.service import Service, dead
from delaybox.store import dead_groups, failures
from delaybox.store.servers import Servers
from delaybox.store.store import ClaimLimits, Store, Verdict
from tests.engines import running
from tests.engines import until as until_true
from tests.rest import rest_process
from tests.servers import RealServer
from tests.visitor import Parts, Visitor

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><!--"


@pytest.fixture
async def visitor(server: RealServer, prefix: str) -> AsyncIterator[Visitor]:
    """Without tokens everybody may do everything."""
    settings = DashboardSettings(secret="a secret of the tests " * 2)
    async with rest_process(server=server.settings, prefix=prefix, partitions=2, dashboard=settings) as process:
        yield Visitor(process.port)


class Fails:
    """Fails for good, in the words of whoever wrote the payload."""

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        for d in batch:
            why = EVIL if b"evil" in d.body else f"template {d.priority} is missing"
            report([d], Failed(why, retryable=False, traceback=f"\x1b[2J{EVIL}\u202e\n"))


async def test_dead_letters_are_read_replayed_and_discarded_by_group(
    visitor: Visitor, client: Redis, prefix: str
) -> None:
    store = await Store.open(Servers(client), prefix=prefix)
    service = Service(store)
    made = [await service.submit(NewTask(payload=payload)) for payload in (b"evil", b"evil", b"a", b"b", b"c")]
    async with running(store, {TaskType.PUB_SUB: Fails()}, history=HistoryRules(keep_ms=60_000), channel=""):

        async def explained() -> bool:
            return all([len(await failures.of(store, ids.parse(one.task_id))) == 1 for one in made])

        await until_true(explained)
    _, _, text = await asyncio.to_thread(visitor.get, f"/dashboard/tasks/{made[0].task_id}")
    assert "Why its attempts failed" in text and "\x1b" not in text and "\u202e" not in text
    assert not Parts(text).found
    form = await asyncio.to_thread(visitor.form_of, "/dashboard/dead")
    _, _, text = await asyncio.to_thread(visitor.get, "/dashboard/dead")
    groups = dict.fromkeys(html.unescape(one) for one in re.findall(r'name="group" value="([^"]*)"', text))
    evil, missing = sorted(groups, key=lambda group: "template" in group)
    assert not Parts(text).found
    status, _, _ = await asyncio.to_thread(visitor.post, "/dashboard/dead/replay", {"form": form, "group": missing})
    assert (status, (await service.counts()).dead, (await service.counts()).pending) == (303, 2, 3)
    status, _, _ = await asyncio.to_thread(visitor.post, "/dashboard/dead/discard", {"form": form, "group": evil})
    assert (status, (await service.counts()).dead) == (303, 0)
    moved = made[2].task_id
    given = {"form": form, "delay": "2h"}
    status, _, _ = await asyncio.to_thread(visitor.post, f"/dashboard/tasks/{moved}/move", given)
    assert (status, (await service.get(moved)).state.value) == (303, "scheduled")


async def test_an_action_takes_the_group_s_older_dead_letters_too(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups are counted among the newest ones; those that are older are of them as well."""
    monkeypatch.setattr(dead_groups, "MOST", 4)
    monkeypatch.setattr(dead_groups, "_AT_ONCE", 3)
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    service = Service(store)
    made = [await service.submit(NewTask(type=TaskType.WORKER, name="f")) for _ in range(40)]
    for p in range(2):
        held = (await store.claim(p, bytes([p]) * 20, ClaimLimits(slots=100, types="w"))).leased[0::2]
        await store.fail(p, bytes([p]) * 20, [Verdict(one, None, f"order {n}: no") for n, one in enumerate(held)])
    groups = await service.dead.groups()
    assert (groups.seen, groups.total, len(groups.groups)) == (4, 40, 1)
    monkeypatch.setattr(dead, "_IN_TIME_S", -1.0)
    some = await service.dead.replay(groups.groups[0].key)
    assert 0 < some.changed < len(made) and some.rest == 1
    monkeypatch.setattr(dead, "_IN_TIME_S", 60.0)
    rest = await service.dead.discard(groups.groups[0].key)
    assert (rest.changed + some.changed, rest.rest) == (40, 0)
    counts = await service.counts()
    assert (counts.dead, counts.pending) == (0, some.changed)


async def test_an_action_whose_time_is_over_goes_on_behind_others_dead_letters(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are of another group, the same action again and again reaches the last of its own."""
    monkeypatch.setattr(dead, "_IN_TIME_S", -1.0)
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    service = Service(store)
    for n in range(20):
        await service.submit(NewTask(type=TaskType.WORKER, name="f", idempotency_key=str(n)))
    for p, reason in enumerate(("another group", "ours")):
        held = (await store.claim(p, bytes([p]) * 20, ClaimLimits(slots=100, types="w"))).leased[0::2]
        await store.fail(p, bytes([p]) * 20, [Verdict(one, None, reason) for one in held])
    groups = {group.reason: group for group in (await service.dead.groups()).groups}
    ours = groups["ours"]
    assert await service.dead.replay(ours.key) == (0, 1)
    assert await Service(store).dead.replay(ours.key, 1) == (ours.count, 0), "another process goes on"
    assert await service.dead.replay(ours.key, 7_000) == (0, 0)
    assert [group.reason for group in (await service.dead.groups()).groups] == ["another group"]


def _at(action: str, group: str, rest: int) -> str:
    return urlencode({"action": action, "group": group, "rest": rest})


async def test_the_page_says_where_an_action_goes_on_so_any_node_can(
    visitor: Visitor, client: Redis, prefix: str
) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    service = Service(store)
    for n in range(40):
        await service.submit(NewTask(type=TaskType.WORKER, name="f", idempotency_key=str(n)))
    for p, reasons in enumerate((("another",), ("another", 'it\'s "ours" & <b>'))):
        held = (await store.claim(p, bytes([p]) * 20, ClaimLimits(slots=100, types="w"))).leased[0::2]
        await store.fail(
            p, bytes([p]) * 20, [Verdict(one, None, reasons[n % len(reasons)]) for n, one in enumerate(held)]
        )
    (ours,) = [group for group in (await service.dead.groups()).groups if "ours" in group.reason]
    form = await asyncio.to_thread(visitor.form_of, "/dashboard/dead")
    given = {"form": form, "group": ours.key}
    _, _, text = await asyncio.to_thread(visitor.get, f"/dashboard/dead?{_at('discard', ours.key, 1)}")
    assert not Parts(text).found
    rest = re.findall(
        r'dead/(\w+)"(?:(?!</form>).)*name="group" value="([^"]*)">(?:(?!</form>).)*name="rest" value="(\d+)"', text
    )
    assert [(what, html.unescape(key), at) for what, key, at in rest] == [("discard", ours.key, "1")]
    for at, left in (("2", {"another", ours.reason}), ("1", {"another"})):
        status, headers, _ = await asyncio.to_thread(visitor.post, "/dashboard/dead/discard", given | {"rest": at})
        assert (status, headers["location"]) == (303, "/dashboard/dead")
        assert {group.reason for group in (await service.dead.groups()).groups} == left
    for junk in ("x", "-1", "9" * 9):
        status, _, _ = await asyncio.to_thread(visitor.post, "/dashboard/dead/discard", given | {"rest": junk})
        assert status == 400


@pytest.mark.parametrize(
    ("done", "begun_at", "words"),
    [
        ((2, 0), 0, "2 tasks were deleted."),
        ((0, 0), 0, "The group is gone already: none of it was deleted."),
        ((0, 0), 3, "No more of the group was found."),
        ((0, 5), 3, "No more of the group was found yet. Time was over"),
        (
            (1, 3),
            0,
            "1 task was deleted. Time was over before all dead letters were looked at: do it again for the rest.",
        ),
        (
            (0, 3),
            0,
            "None of the group was found yet. Time was over before all dead letters were looked at: do it again",
        ),
    ],
)
def test_what_an_action_says(done: tuple[int, int], begun_at: int, words: str) -> None:
    assert pages._report(dead.GroupChange(*done), "deleted", begun_at).startswith(words)


def test_an_action_leads_to_where_it_goes_on() -> None:
    frames, visit = Mock(), Mock(form={"group": "g:&"})
    shown = pages.DeadPages(frames, Mock())
    shown._done(visit, "replay", dead.GroupChange(3, 0), "brought back")
    shown._done(visit, "replay", dead.GroupChange(3, 7), "brought back")
    assert [one.args[1] for one in frames.done.mock_calls] == ["/dead", f"/dead?{_at('replay', 'g:&', 7)}"]
