"""Forms of the dashboard: what comes of one that meets a store that is away, and changes of many dead letters."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.api.dashboard.pages import queues
from delaybox.api.dashboard.settings import DashboardSettings
from delaybox.core.delivery import Delivery, Failed, Report
from delaybox.core.query import TaskQuery
from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, TaskState, TaskType
from delaybox.service import Selection, Service
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.engines import running
from tests.engines import until as until_true
from tests.rest import rest_process
from tests.servers import RealServer
from tests.shared import a_prefix
from tests.visitor import Visitor

PAGES = DashboardSettings(secret="a secret of the tests " * 2)


@pytest.fixture
async def visitor(server: RealServer, prefix: str) -> AsyncIterator[Visitor]:
    """Without tokens everybody may do everything."""
    async with rest_process(server=server.settings, prefix=prefix, partitions=2, dashboard=PAGES) as process:
        yield Visitor(process.port)


@pytest.fixture
async def service(visitor: Visitor, client: Redis, prefix: str) -> Service:
    return Service(await Store.open(Servers(client), prefix=prefix))


class Fails:
    """Fails for good."""

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        report(batch, Failed("no", retryable=False))


def fields_of(page: str) -> dict[str, str]:
    """The rules in the form of a queue's page, as a browser would send them."""
    found = re.findall(r'<input [^>]*name="((?:was-)?[a-z_]+)" value="([^"]*)"', page)
    return {name: html.unescape(value) for name, value in found if name != "form"}


async def dead(service: Service, store: Store, *tasks: NewTask) -> None:
    """Dead letters."""
    before = (await service.counts()).dead
    await service.submit_many(tasks)
    async with running(store, {TaskType.PUB_SUB: Fails()}, channel=""):

        async def all_dead() -> bool:
            return (await service.counts()).dead == before + len(tasks)

        await until_true(all_dead)


async def test_a_form_that_meets_no_store_says_so_and_leads_back_to_its_page(make_server: Any) -> None:
    own = make_server("--appendonly", "yes")
    one = "/dashboard/tasks/00000000-0000-8000-8000-000000000000"
    async with rest_process(server=own.settings, prefix=a_prefix(), partitions=1, dashboard=PAGES) as process:
        visitor = Visitor(process.port)
        form = await asyncio.to_thread(visitor.form_of, "/dashboard/schedule")
        own.kill()
        for path, back in (
            (f"{one}/run", one),
            ("/dashboard/queues/mail/pause", "/dashboard/queues/mail"),
            ("/dashboard/many/cancel", "/dashboard/tasks?queue=mail&group=x&label=a%3Db"),
            ("/dashboard/dead/replay", "/dashboard/dead"),
        ):
            given = {"form": form, "queue": "mail", "label": "a=b", "group": "x", "sure": "yes"}
            status, _, text = await asyncio.to_thread(visitor.post, path, given)
            found = re.search(r'data-away="([^"]*)"', text)
            assert status == 503 and found and html.unescape(found[1]) == back, path
            assert "Whether your form was carried out is not known" in text
        given = {"form": form, "delay": "2h", "payload": "typed with <care>", "labels": "a=b"}
        status, _, text = await asyncio.to_thread(visitor.post, "/dashboard/schedule", given)
        assert status == 503 and "typed with &lt;care&gt;" in text and 'value="2h"' in text
        assert "send it again" in text and "two such tasks" in text
        given = {
            "form": form,
            "was-rate": "=5/s",
            "rate": "9/s",
            "was-weight": "=",
            "weight": "2",
            "was-burst": "=3",
            "burst": "3",
        }
        status, _, text = await asyncio.to_thread(visitor.post, "/dashboard/queues/mail/rules", given)
        assert status == 503 and "send it again when the store is back" in text and "data-away" not in text
        own.start()
        again = {"form": form, **fields_of(text)}
        assert (again["was-rate"], again["rate"], again["weight"]) == ("=5/s", "9/s", "2")
        status, _, _ = await asyncio.to_thread(visitor.post, "/dashboard/queues/mail/rules", again)
        _, _, text = await asyncio.to_thread(visitor.get, "/dashboard/queues/mail")
        shown = fields_of(text)
        assert (status, shown["rate"], shown["weight"], shown["burst"]) == (303, "9/s", "2.0", ""), "as it was sent"
        own.kill()
        # What can be asked for again shows itself when the store is back.
        status, _, text = await asyncio.to_thread(visitor.get, "/dashboard/dead")
        assert status == 503 and 'data-away=""' in text
        own.start()


async def test_a_form_of_rules_that_did_not_fit_sets_all_that_it_says_when_it_is_corrected(visitor: Visitor) -> None:
    form = await asyncio.to_thread(visitor.form_of, "/dashboard/queues/mail")
    _, _, text = await asyncio.to_thread(visitor.get, "/dashboard/queues/mail")
    given = {"form": form, **fields_of(text), "weight": "2", "rate": "often", "timeout": "30s"}
    status, _, text = await asyncio.to_thread(visitor.post, "/dashboard/queues/mail/rules", given)
    assert status == 400 and "often" in text
    corrected = {"form": form, **fields_of(text), "rate": "5/s"}
    status, _, _ = await asyncio.to_thread(visitor.post, "/dashboard/queues/mail/rules", corrected)
    _, _, text = await asyncio.to_thread(visitor.get, "/dashboard/queues/mail")
    shown = fields_of(text)
    assert (status, shown["rate"], shown["weight"], shown["timeout"]) == (303, "5/s", "2.0", "30s")


async def test_a_task_is_moved_to_a_moment(visitor: Visitor, service: Service) -> None:
    made = await service.submit(NewTask(delay_ms=3_600_000, group="batch"))
    form = await asyncio.to_thread(visitor.form_of, f"/dashboard/tasks/{made.task_id}")
    given = {"form": form, "at": "2031-03-01T08:00:00.000Z"}
    status, _, _ = await asyncio.to_thread(visitor.post, f"/dashboard/tasks/{made.task_id}/move", given)
    assert (status, (await service.get(made.task_id)).due_ms) == (303, 1_930_118_400_000)
    given = {"form": form, "group": "batch", "at": "2031-03-01T09:00", "sure": "yes"}
    _, _, text = await asyncio.to_thread(visitor.change_many, "/dashboard/many/move", given)
    assert "1 task was moved" in text and (await service.get(made.task_id)).due_ms == 1_930_122_000_000


async def test_tasks_of_a_minute_are_listed_as_they_are_due(visitor: Visitor, service: Service) -> None:
    start = (await service._opened.store.ping() // 60_000 + 600) * 60_000
    made = [await service.submit(NewTask(due_ms=start + n * 100)) for n in (400, 3, 77, 250, 12, 190)]
    _, _, text = await asyncio.to_thread(visitor.get, "/dashboard/tasks")
    listed = re.findall(r'class="id" href="/dashboard/tasks/([^"]*)"', text)
    assert listed == [one.task_id for one in sorted(made, key=lambda one: one.due_ms)]


def test_an_address_with_a_slash_at_its_end_leads_to_the_page(visitor: Visitor) -> None:
    for path in ("/dashboard/", "/dashboard/queues/", "/dashboard/queues/mail/"):
        status, headers, _ = visitor.get(path)
        assert (status, headers.get("location")) == (303, path.removesuffix("/")), path
    assert visitor.get("/dashboard/nothing")[0] == 404


async def test_dead_letters_are_replayed_and_discarded_by_filter_after_a_dry_run(
    visitor: Visitor, service: Service, client: Redis, prefix: str
) -> None:
    store = await Store.open(Servers(client), prefix=prefix)
    await dead(service, store, *(NewTask(queue="mail" if n < 4 else "other", labels={"n": str(n)}) for n in range(6)))
    path = "/dashboard/tasks?state=failed&queue=mail"
    _, _, text = await asyncio.to_thread(visitor.get, path)
    assert "Replay …" in text and "Discard …" in text and "Run now …" not in text
    form = {"form": await asyncio.to_thread(visitor.form_of, path), "state": "failed", "queue": "mail"}
    _, _, text = await asyncio.to_thread(visitor.change_many, "/dashboard/many/replay", {**form, "label": "n=2"})
    assert "1 task would be brought back" in text and (await service.counts()).dead == 6
    given = {**form, "label": "n=2", "sure": "yes"}
    _, _, text = await asyncio.to_thread(visitor.change_many, "/dashboard/many/replay", given)
    assert "1 task was brought back" in text and (await service.counts()).dead == 5
    _, _, text = await asyncio.to_thread(visitor.change_many, "/dashboard/many/discard", form)
    assert "3 tasks would be deleted for good" in text and (await service.counts()).dead == 5
    _, _, text = await asyncio.to_thread(visitor.change_many, "/dashboard/many/discard", {**form, "sure": "yes"})
    assert "3 tasks were deleted for good" in text
    left = await service.dead_letters(TaskQuery())
    assert sorted(task.queue for task in left.items) == ["other", "other"]
    given = {**form, "state": "ready"}
    status, _, text = await asyncio.to_thread(visitor.post, "/dashboard/many/discard", given)
    assert status == 400 and "not that of dead letters" in text


async def test_a_walk_through_dead_letters_goes_on_where_the_step_before_ended(
    service: Service, client: Redis, prefix: str
) -> None:
    store = await Store.open(Servers(client), prefix=prefix)
    await dead(service, store, *(NewTask(queue="mail" if n % 50 == 0 else "other") for n in range(300)))
    wanted = TaskQuery(queue="mail", state=TaskState.FAILED)
    for change in (service.bulk.replay, service.bulk.discard):
        counted, cursor, steps = 0, "", 0
        while not steps or cursor:
            found = await change(Selection(wanted=wanted, dry_run=True, in_time_s=1e-9, cursor=cursor))
            counted, cursor, steps = counted + found.matched, found.cursor, steps + 1
            assert steps < 10, "each step begins anew"
        assert counted == 6 and steps > 1
    assert (await service.bulk.discard(Selection(wanted=wanted, in_time_s=10.0))).changed == 6
    assert (await service.counts()).dead == 294


async def test_a_label_with_a_comma_is_found_by_its_link(visitor: Visitor, service: Service) -> None:
    value = "Berlin, \\Mitte, c=d "
    made = await service.submit(NewTask(delay_ms=3_600_000, labels={"place": value}))
    await service.submit(NewTask(delay_ms=3_600_000, labels={"place": "Berlin"}))
    _, _, text = await asyncio.to_thread(visitor.get, f"/dashboard/tasks/{made.task_id}")
    found = re.search(r'href="(/dashboard/tasks\?label=[^"]*)"', text)
    assert found
    status, _, text = await asyncio.to_thread(visitor.get, html.unescape(found[1]))
    assert status == 200
    assert re.findall(r'class="id" href="/dashboard/tasks/([^"]*)"', text) == [made.task_id]


async def test_of_very_many_queues_those_with_the_most_work_are_listed(visitor: Visitor, service: Service) -> None:
    for number in range(queues.MOST + 5):
        await service.rules.set(f"idle-{number}", QueueRules(weight=2.0))
    await service.submit_many([NewTask(queue="zz-busy"), NewTask(queue="zz-later", delay_ms=3_600_000)])

    def listed(query: str = "") -> tuple[list[str], str]:
        text = visitor.get(f"/dashboard/queues{query}")[2]
        return re.findall(r'<td><a href="/dashboard/queues/([^"]*)"', text), text

    found, text = await asyncio.to_thread(listed)
    assert len(found) == queues.MOST and {"zz-busy", "zz-later"} <= set(found)
    assert f"The {queues.MOST} with the most work of {queues.MOST + 7}" in text
    found, _ = await asyncio.to_thread(listed, "?name=idle-20")
    assert found == [f"idle-{n}" for n in (20, 200, 201, 202, 203, 204)]
    found, text = await asyncio.to_thread(listed, "?name=new-one")
    assert not found and 'href="/dashboard/queues/new-one"' in text and "to give it rules" in text


async def test_a_type_that_there_is_not_is_named_and_no_error_of_the_node(visitor: Visitor) -> None:
    status, _, page = await asyncio.to_thread(visitor.get, "/dashboard/schedule?type=x")
    assert status == 200 and "type &#39;x&#39; is not a task type; there are" in page
    given = {"form": await asyncio.to_thread(visitor.form_of, "/dashboard/schedule"), "delay": "1h", "type": "x"}
    status, _, page = await asyncio.to_thread(visitor.post, "/dashboard/schedule", given)
    assert status == 400 and "type &#39;x&#39; is not a task type; there are" in page
