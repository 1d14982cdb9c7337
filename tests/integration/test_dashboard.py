"""The dashboard as somebody hostile meets it, and as a program does: a real process, without a browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from redis.asyncio import Redis

from delaybox.api.dashboard.sessions import Brake
from delaybox.api.dashboard.settings import DashboardSettings
from delaybox.core.query import BulkResult, TaskQuery
from delaybox.core.scopes import Access, Token
from delaybox.core.task import NewTask, TaskType
from delaybox.service import Selection, Service
from delaybox.store import label_index
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.children import Served
from tests.nodes import Node
from tests.rest import rest_process
from tests.servers import RealServer
from tests.shared import a_prefix, empty, kept
from tests.visitor import Parts, Visitor
from tests.waiting import PATIENCE_S, until_async

TOKENS = {
    "all": ("token-for-everything", tuple(Access)),
    "read": ("token-that-only-reads", (Access.READ,)),
    "schedule": ("token-that-schedules", (Access.SCHEDULE,)),
}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><!--"


@pytest.fixture(scope="module")
def shared(server: RealServer) -> Iterator[tuple[Served, str]]:
    prefix = a_prefix()
    process = rest_process(
        server=server.settings,
        prefix=prefix,
        partitions=2,
        tokens=tuple(Token.of(token, scopes) for token, scopes in TOKENS.values()),
        dashboard=DashboardSettings(secret="a secret of the tests " * 2),
    )
    with kept(process) as found:
        yield found, prefix


@pytest.fixture
async def service(shared: tuple[Served, str], client: Redis) -> Service:
    await empty(client, shared[1])
    return Service(await Store.open(Servers(client), prefix=shared[1]))


@pytest.fixture
def visitor(shared: tuple[Served, str]) -> Visitor:
    return Visitor(shared[0].port)


@pytest.fixture
def entered(visitor: Visitor) -> Visitor:
    status, headers, _ = visitor.log_in(TOKENS["all"][0])
    assert (status, headers["location"]) == (303, "/dashboard/queues")
    return visitor


def refused(answer: tuple[int, dict[str, str], str], status: int = 403) -> bool:
    return answer[0] == status


def test_browsers_land_on_the_page_and_programs_get_what_they_got(visitor: Visitor) -> None:
    status, headers, _ = visitor.get("/")
    assert (status, headers["location"]) == (303, "/dashboard")
    status, headers, text = Visitor(visitor.port).get("/", Accept="*/*")
    assert (status, headers["content-type"]) == (404, "application/problem+json"), text
    status, headers, _ = visitor.get("/dashboard")
    assert (status, headers["location"]) == (303, "/dashboard/login?next=/dashboard")
    assert visitor.get("/dashboard", Accept="application/json")[0] == 401
    bearer = f"Bearer {TOKENS['read'][0]}"
    assert visitor.get("/dashboard", Authorization=bearer)[0] == 200
    assert visitor.get("/dashboard/nowhere")[0] == 404


def test_a_login_makes_a_cookie_that_scripts_and_other_sites_do_not_get(visitor: Visitor) -> None:
    before = visitor.form_of("/dashboard/login")
    assert visitor.log_in("token-for-everythin")[0] == 401
    status, _, _ = visitor.log_in(f" {TOKENS['all'][0]} ")
    assert status == 303
    cookie = visitor.set[-1]
    assert cookie.startswith(f"delaybox-{visitor.port}=")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Secure" not in cookie
    assert TOKENS["all"][0] not in cookie
    assert before != visitor.form_of("/dashboard/schedule"), "a session from before the login is not the one after"
    assert visitor.get("/dashboard/login?next=/dashboard/dead")[1]["location"] == "/dashboard/dead"
    for there in (
        "https://evil.example",
        "//evil.example",
        "/dashboard//evil.example",
        "/dashboard/\\evil",
        "/v1/tasks",
    ):
        assert visitor.get(f"/dashboard/login?next={quote(there)}")[1]["location"] == "/dashboard"
    assert visitor.post("/dashboard/logout", {"form": visitor.form_of("/dashboard")})[0] == 303
    assert visitor.get("/dashboard")[0] == 303


def test_behind_a_proxy_with_tls_the_cookie_stays_on_tls(shared: tuple[Served, str]) -> None:
    visitor = Visitor(shared[0].port)
    form = visitor.form_of("/dashboard/login")
    origin = f"https://127.0.0.1:{visitor.port}"
    visitor.post("/dashboard/login", {"form": form, "token": TOKENS["all"][0]}, Origin=origin)
    assert visitor.set[-1].endswith("; Secure")


def test_whoever_guesses_tokens_is_slowed_down(server: RealServer) -> None:
    settings: dict[str, Any] = {
        "server": server.settings, "prefix": a_prefix(), "partitions": 1, "tokens": (Token.of(*TOKENS["all"]),),
        "dashboard": DashboardSettings(secret="x" * 40),
    }  # fmt: skip
    with kept(rest_process(**settings)) as process:
        visitor = Visitor(process.port)
        form = visitor.form_of("/dashboard/login")
        answers: list[int] = []
        # On a busy machine a wait may be over before the next try, but the waits grow.
        while 429 not in answers and len(answers) < 30:
            answers.append(visitor.post("/dashboard/login", {"form": form, "token": f"guess-{len(answers)}"})[0])
        assert answers[: Brake.FREE] == [401] * Brake.FREE and answers[-1] == 429
        # The right one is not looked at either, or the wait would keep nobody from guessing.
        status, headers, text = visitor.post("/dashboard/login", {"form": form, "token": TOKENS["all"][0]})
        assert status == 303 or (int(headers["retry-after"]) >= 1 and "try again in" in text)


async def test_a_form_from_elsewhere_changes_nothing(entered: Visitor, service: Service) -> None:
    made = await service.submit(NewTask(payload=b"x", delay_ms=3_600_000))
    path = f"/dashboard/tasks/{made.task_id}/cancel"
    form = await asyncio.to_thread(entered.form_of, f"/dashboard/tasks/{made.task_id}")
    other = await asyncio.to_thread(Visitor(entered.port).form_of, "/dashboard/login")

    def attempts() -> None:
        for given in ({}, {"form": ""}, {"form": "x" * 32}, {"form": other}):
            assert refused(entered.post(path, given)), given
        for origin in (
            "http://evil.example",
            "null",
            f"http://localhost:{entered.port + 1}",
            f"http://127.0.0.1:{entered.port}.evil.example",
        ):
            assert refused(entered.post(path, {"form": form}, Origin=origin)), origin
        assert refused(entered.post(path, {"form": form}, Content_Type="text/plain"), 415)
        assert refused(entered.ask("GET", f"{path}?form={form}"), 405)
        status, headers, _ = Visitor(entered.port).post(path, {"form": form})
        assert (status, headers["location"]) == (303, "/dashboard/login?next=/dashboard"), "without the cookie"

    await asyncio.to_thread(attempts)
    assert (await service.get(made.task_id)).state.value == "scheduled"
    status, headers, _ = await asyncio.to_thread(entered.post, path, {"form": form})
    assert (status, headers["location"]) == (303, f"/dashboard/tasks/{made.task_id}")


async def test_scopes_decide_what_is_shown_and_done(service: Service, shared: tuple[Served, str]) -> None:
    made = await service.submit(NewTask(payload=b"x", delay_ms=3_600_000))
    reader = Visitor(shared[0].port)

    def read() -> None:
        reader.log_in(TOKENS["read"][0])
        page = reader.get(f"/dashboard/tasks/{made.task_id}")[2]
        assert "Run now" not in page and "Cancel" not in page and "Schedule" not in page
        session = reader.cookies[f"delaybox-{reader.port}"]
        assert session
        form = reader.form_of("/dashboard")
        for path in (
            f"/tasks/{made.task_id}/run",
            f"/tasks/{made.task_id}/cancel",
            "/queues/mail/pause",
            "/dead/replay",
            "/many/cancel",
        ):
            answer = reader.post(f"/dashboard{path}", {"form": form})
            assert answer[0] == 403 and "lacks the scope" in answer[2], path
        scheduler = Visitor(shared[0].port)
        scheduler.log_in(TOKENS["schedule"][0])
        for path in (
            "",
            "/tasks",
            f"/tasks/{made.task_id}",
            "/dead",
            "/nodes",
            "/webhooks",
            "/live",
            "/forecast",
            f"/tasks/{made.task_id}/payload",
        ):
            assert refused(scheduler.get(f"/dashboard{path}")), path
        form = scheduler.form_of("/dashboard/schedule")
        status, _, text = scheduler.post("/dashboard/schedule", {"form": form, "delay": "1h", "payload": "mine"})
        assert status == 200 and "The task is scheduled." in text and "Its id is" in text
        # Without the scope read a task that cannot be changed is not shown along with the reason.
        status, _, text = scheduler.post(f"/dashboard/tasks/{made.task_id}/move", {"form": form, "delay": "x"})
        assert status == 400 and "payload" not in text.lower()

    await asyncio.to_thread(read)
    assert (await service.get(made.task_id)).state.value == "scheduled"


async def test_nothing_that_callers_send_runs_in_a_page(entered: Visitor, service: Service) -> None:
    header = {"x": EVIL.encode(), "esc": b"\x1b[2J\x1b]0;pwned\x07", "raw": b"\xff\xfe"}
    payloads = [
        EVIL.encode(),
        f'{{"a": "{EVIL[:24]}"}}'.encode(),
        b"\xff\xfe\x00<script>",
        b"\x1b[31mred",
        b"<" * (1 << 20),
    ]
    ids = []
    for payload in payloads:
        new = NewTask(
            payload=payload,
            delay_ms=3_600_000,
            header=header,
            labels={"a": EVIL[:60]},
            name="f<b>" if payload == EVIL.encode() else "g",
            type=TaskType.WORKER,
        )
        ids.append((await service.submit(new)).task_id)

    def look() -> None:
        pages = [f"/dashboard/tasks/{one}{how}" for one in ids for how in ("", "?as=text", "?as=json", "?as=hex")]
        pages += ["/dashboard/tasks", "/dashboard/queues", "/dashboard", "/dashboard/nodes", "/dashboard/dead"]
        pages += [
            f"/dashboard/tasks?{urlencode({'label': 'a=' + EVIL[:60]})}",
            f"/dashboard/tasks?{urlencode({'queue': EVIL})}",
        ]
        pages += [f"/dashboard/schedule?{urlencode({'payload': EVIL, 'name': EVIL, 'type': EVIL, 'labels': EVIL})}"]
        pages += [
            f"/dashboard/tasks?id={quote(EVIL)}",
            f"/dashboard/tasks/{quote(EVIL, safe='')}",
            f"/dashboard/queues/{quote(EVIL, safe='')}",
        ]
        for page in pages:
            status, headers, text = entered.get(page)
            assert status in (200, 303, 400, 404), (page, status)
            if status == 303:
                assert headers["location"].startswith("/dashboard/tasks/")
                continue
            assert not Parts(text).found, (page, Parts(text).found)
            assert "\x1b" not in text and "\x07" not in text and "<script>alert" not in text
            assert len(text) < 900_000, page
            policy = headers["content-security-policy"]
            assert "script-src 'self'" in policy and "unsafe" not in policy and "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy and headers["x-frame-options"] == "DENY"
        status, headers, _ = entered.ask("GET", f"/dashboard/tasks/{ids[3]}/payload")
        assert (status, headers["content-type"]) == (200, "application/octet-stream")
        assert (
            headers["content-disposition"].startswith("attachment") and headers["x-content-type-options"] == "nosniff"
        )

    await asyncio.to_thread(look)


async def test_a_form_that_came_too_late_says_so(entered: Visitor, service: Service) -> None:
    made = await service.submit(NewTask(payload=b"x", delay_ms=3_600_000))
    form = await asyncio.to_thread(entered.form_of, f"/dashboard/tasks/{made.task_id}")
    await service.cancel(made.task_id)
    for action in ("run", "move", "cancel", "replay", "discard"):
        status, _, text = await asyncio.to_thread(
            entered.post, f"/dashboard/tasks/{made.task_id}/{action}", {"form": form, "delay": "5m"}
        )
        assert status == 409 and "Nothing was changed" in text, (action, status)


async def test_what_is_empty_says_so(entered: Visitor, service: Service) -> None:
    for path, words in (
        ("/dead", "No task has failed for good."),
        ("/tasks?state=failed", "No task matches."),
        ("/queues", "No queue holds anything"),
        ("/nodes", "No worker is connected"),
        ("/webhooks", "has sent no webhook"),
        ("/ended", "No end is remembered"),
    ):
        status, _, text = await asyncio.to_thread(entered.get, f"/dashboard{path}")
        assert status == 200 and words in text, path


async def test_tasks_are_found_by_key_and_when_they_have_ended(entered: Visitor, service: Service) -> None:
    made = await service.submit(NewTask(delay_ms=3_600_000, idempotency_key="order-17", labels={"a": "b"}))
    status, headers, _ = await asyncio.to_thread(entered.get, "/dashboard/tasks?id=order-17")
    assert (status, headers["location"]) == (303, f"/dashboard/tasks/{made.task_id}")
    status, _, text = await asyncio.to_thread(entered.get, "/dashboard/tasks?id=order-18")
    assert status == 404 and "order-18" in text
    status, _, text = await asyncio.to_thread(entered.get, "/dashboard/tasks?state=scheduled&label=a%3Db&group=none")
    assert status == 200 and "No task matches." in text
    for query, words in (
        ("", "No end is remembered"),
        ("?state=failed&queue=mail", "No end"),
        ("?state=ready", "no end;"),
    ):
        status, _, text = await asyncio.to_thread(entered.get, f"/dashboard/ended{query}")
        assert status == (400 if "ready" in query else 200) and words in text, query


async def test_a_label_is_looked_up_by_its_index_where_it_has_one(
    entered: Visitor, service: Service, shared: tuple[Served, str], client: Redis
) -> None:
    await service.submit(NewTask(delay_ms=3_600_000, labels={"customer": "7"}))
    path = "/dashboard/tasks?label=customer%3D7"
    _, _, text = await asyncio.to_thread(entered.get, path)
    assert "customer" in text and "looked through" in text
    store = await Store.open(Servers(client), prefix=shared[1])
    await label_index.declare(store, ["customer"])
    for p in range(store.partitions):
        await label_index.completed(store, p, frozenset({"customer"}))
    await service.submit(NewTask(delay_ms=3_600_000, labels={"customer": "8"}))
    status, _, text = await asyncio.to_thread(entered.get, path)
    # By the index alone: a task from before, which no owner has indexed here, is not among what it finds.
    assert status == 200 and "looked through" not in text and "No task matches" in text


async def test_many_are_changed_after_a_dry_run(entered: Visitor, service: Service) -> None:
    for number in range(6):
        await service.submit(NewTask(delay_ms=3_600_000, queue="mail" if number < 4 else "other"))
    form = {"form": await asyncio.to_thread(entered.form_of, "/dashboard/tasks?queue=mail"), "queue": "mail"}
    _, _, text = await asyncio.to_thread(entered.change_many, "/dashboard/many/cancel", form)
    assert "4 tasks would be cancelled" in text
    assert (await service.counts()).pending == 6
    _, _, text = await asyncio.to_thread(entered.change_many, "/dashboard/many/cancel", {**form, "sure": "yes"})
    assert "4 tasks were cancelled" in text
    assert (await service.counts()).pending == 2
    status, _, text = await asyncio.to_thread(entered.post, "/dashboard/many/move", {**form, "delay": "soon"})
    assert status == 400 and "soon" in text
    for wrong in ({"matched": "-1"}, {"cursor": "WzEsMl0"}, {"cursor": "x" * 5_000}, {"sample": EVIL}):
        status, _, text = await asyncio.to_thread(entered.post, "/dashboard/many/cancel", {**form, **wrong})
        assert status == 400 and EVIL not in text, wrong


async def test_a_change_of_many_goes_on_where_the_step_before_ended(entered: Visitor, service: Service) -> None:
    for number in range(6):
        await service.submit(NewTask(delay_ms=3_600_000 + number * 60_000, queue="mail"))
    wanted = TaskQuery(queue="mail")
    step, one_trip = BulkResult(), 1e-9
    while not step.matched:
        step = await service.bulk.cancel(Selection(wanted=wanted, dry_run=True, in_time_s=one_trip, cursor=step.cursor))
    assert step.cursor and step.matched < 6
    form = {"form": await asyncio.to_thread(entered.form_of, "/dashboard/tasks?queue=mail"), "queue": "mail"}
    further = {**form, "cursor": step.cursor, "matched": str(step.matched), "sample": step.sample[0]}
    _, _, text = await asyncio.to_thread(entered.change_many, "/dashboard/many/cancel", further)
    assert "6 tasks would be cancelled" in text and step.sample[0] in text
    sure = {**further, "sure": "yes", "changed": str(step.matched)}
    _, _, text = await asyncio.to_thread(entered.change_many, "/dashboard/many/cancel", sure)
    assert "6 tasks were cancelled" in text
    assert (await service.counts()).pending == step.matched


async def test_rules_are_set_as_the_form_has_them(entered: Visitor, service: Service) -> None:
    form = {"form": await asyncio.to_thread(entered.form_of, "/dashboard/queues/mail")}

    async def send(path: str, **fields: str) -> tuple[int, str]:
        status, _, text = await asyncio.to_thread(entered.post, f"/dashboard/queues/mail{path}", form | fields)
        return status, text

    retry = '{"max_attempts": 3}'
    given = {
        "timeout": "30s",
        "was-timeout": "=",
        "retry": retry,
        "was-retry": "=",
        "keep_result": "",
        "was-keep_result": "=",
    }
    assert (await send("/rules", **given))[0] == 303
    own = (await service.rules.of("mail")).own
    assert own.timeout_ms == 30_000 and own.retry is not None and own.retry.max_attempts == 3
    assert (await send("/rules", **{"was-timeout": "=30s", "weight": "1.5", "was-weight": "="}))[0] == 303
    assert (await service.rules.of("mail")).own.weight == 1.5
    assert (await service.rules.of("mail")).own.timeout_ms is None
    for field, text, words in (
        ("timeout", "soon", "is not a duration"),
        ("timeout", "0", "would end every attempt"),
        ("retry", "{", "retry is no JSON"),
        ("retry", '{"tries": 1}', "is not a field of retry"),
        ("rate", "5", "rate &#39;5&#39; is no rate; give a number of tasks, a slash and an interval"),
        ("concurrency", "1e3", "concurrency &#39;1e3&#39; is no number; give one"),
        ("weight", "-1", "weight -1 is out of range"),
    ):
        status, page = await send("/rules", **{field: text, f"was-{field}": "="})
        assert status == 400 and 'role="alert"' in page and words in page, (field, text)
    assert (await send("/pause"))[0] == 303 and (await service.rules.of("mail")).effect.paused
    listed = await asyncio.to_thread(entered.get, "/dashboard/queues")
    assert "paused" in listed[2]
    assert (await send("/resume"))[0] == 303 and not (await service.rules.of("mail")).effect.paused
    assert (await send("/unset"))[0] == 303 and (await service.rules.every()) == []


async def test_live_numbers_come_once_a_second_and_the_same_to_all(entered: Visitor, service: Service) -> None:
    await service.submit(NewTask(delay_ms=3_600_000))

    def opened() -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", entered.port, timeout=PATIENCE_S)
        cookie = "; ".join(f"{name}={value}" for name, value in entered.cookies.items())
        connection.request("GET", "/dashboard/live", headers={"Accept": "text/event-stream", "Cookie": cookie})
        return connection

    def frame(answer: HTTPResponse) -> str:
        while not (line := answer.readline().decode()).startswith("data: {"):
            pass
        return line

    def both() -> None:
        connections = [opened(), opened()]
        answers = [connection.getresponse() for connection in connections]
        assert {answer.getheader("content-type") for answer in answers} == {"text/event-stream"}
        found: list[set[str]] = [set(), set()]
        while not found[0] & found[1]:  # one of them may have begun seconds before the other
            assert len(found[0]) < 60, "encoded once for all"
            for got, answer in zip(found, answers, strict=True):
                got.add(frame(answer))
        assert all('"pending":1' in line for line in found[0])
        for connection in connections:
            connection.close()

    status, _, text = await asyncio.to_thread(entered.ask, "HEAD", "/dashboard/live")
    assert (status, text) == (200, "")
    await asyncio.to_thread(both)


async def test_the_forecast_comes_for_any_part_of_the_future(entered: Visitor, service: Service) -> None:
    for minutes in (1, 30, 30):
        await service.submit(NewTask(delay_ms=minutes * 60_000 + 30_000))

    def ask(query: str) -> tuple[int, Any]:
        status, _, text = entered.get(f"/dashboard/forecast?{query}", Accept="application/json")
        return status, json.loads(text)

    for span, due in (("3h", 3), ("24h", 3), ("1y", 3)):
        status, found = await asyncio.to_thread(ask, f"span={span}")
        assert (status, sum(found["due"]), found["estimated"]) == (200, due, False)
    for query in ("span=9y", "from=1&to=2", "from=x", "to=99999999999999999"):
        assert (await asyncio.to_thread(ask, query))[0] == 400, query


async def test_a_read_only_dashboard_changes_nothing(server: RealServer, client: Redis) -> None:
    prefix = a_prefix()
    settings = DashboardSettings(secret="x" * 40, read_only=True)
    async with rest_process(server=server.settings, prefix=prefix, partitions=1, dashboard=settings) as process:
        service = Service(await Store.open(Servers(client), prefix=prefix))
        made = await service.submit(NewTask(delay_ms=3_600_000))
        visitor = Visitor(process.port)
        page = (await asyncio.to_thread(visitor.get, f"/dashboard/tasks/{made.task_id}"))[2]
        assert "read only" in page and "Cancel" not in page
        form = await asyncio.to_thread(visitor.form_of, "/dashboard/schedule")
        for path in (f"/tasks/{made.task_id}/cancel", "/schedule", "/many/cancel", "/queues/mail/pause"):
            status, _, text = await asyncio.to_thread(visitor.post, f"/dashboard{path}", {"form": form, "sure": "1"})
            assert status == 403 and "only shows" in text, path
        assert (await service.get(made.task_id)).state.value == "scheduled"


async def test_pages_say_that_the_store_is_away_and_come_back(make_server: Any) -> None:
    own = make_server("--appendonly", "yes")
    settings = DashboardSettings(secret="x" * 40)
    async with rest_process(server=own.settings, prefix=a_prefix(), partitions=1, dashboard=settings) as process:
        visitor = Visitor(process.port)
        assert (await asyncio.to_thread(visitor.get, "/dashboard"))[0] == 200
        own.kill()
        one = "/tasks/00000000-0000-8000-8000-000000000000"
        paths = ("", "/store", "/queues", "/queues/mail", "/tasks", one, "/ended", "/dead", "/nodes")
        for path in paths:
            status, _, text = await asyncio.to_thread(visitor.get, f"/dashboard{path}")
            assert status == 503 and "The store does not answer" in text and "data-away" in text, path
        own.start()
        await until_async(lambda: visitor.get("/dashboard")[0] == 200)


async def test_a_node_without_the_role_api_can_show_it_on_a_port_of_its_own(server: RealServer, tmp_path: Path) -> None:
    flags = (
        "--redis",
        server.url,
        "--roles",
        "clock",
        "--set",
        "dashboard.port=0",
        "--set",
        "dashboard.read_only=true",
    )
    node = Node(*flags, folder=tmp_path, environ={"DELAYBOX_STORAGE_PREFIX": a_prefix()})
    try:
        found = await asyncio.to_thread(node.wait_for, r"the dashboard is on http://127\.0\.0\.1:(\d+)")
        visitor = Visitor(int(found[1]))
        status, _, text = await asyncio.to_thread(visitor.get, "/dashboard/nodes")
        assert status == 200 and "read only" in text
        assert (await asyncio.to_thread(visitor.get, "/livez"))[0] == 200
        assert (await asyncio.to_thread(visitor.get, "/v1/tasks"))[0] == 404
        assert (await asyncio.to_thread(visitor.get, "/"))[1]["location"] == "/dashboard"
    finally:
        await asyncio.to_thread(node.stop)
