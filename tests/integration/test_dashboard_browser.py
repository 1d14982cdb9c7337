"""The dashboard in a real browser, as a person uses it: a whole node, a worker, Chromium."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from delaybox import Client
from delaybox.api.dashboard.settings import DashboardSettings
from tests.browser import TAB, Browser, driver
from tests.nodes import Node, node
from tests.rest import rest_process
from tests.servers import RealServer
from tests.shared import a_prefix, kept
from tests.waiting import PATIENCE_S, until

APP = """
import asyncio
from pathlib import Path
from delaybox import Worker

worker = Worker("shop")


@worker.task(name="mail.send", queue="mail", retries=0, keep_result="1h")
def send(to):
    if not Path("mended").exists():
        raise ValueError(f"no template for {to}: <b>is it deployed?</b>")
    return f"sent to {to}"


@worker.task(name="mail.hold", queue="mail", retries=0)
async def hold():
    await asyncio.Event().wait()
"""
TOKEN = "token-for-the-browser"
PAGES = (
    "",
    "/queues",
    "/queues/mail",
    "/tasks",
    "/tasks?state=failed",
    "/ended",
    "/dead",
    "/nodes",
    "/webhooks",
    "/schedule",
)


class World:
    """The node, its worker's folder, and a client."""

    def __init__(self, running: Node, folder: Path, client: Client) -> None:
        self.node = running
        self.folder = folder
        self.client = client

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.node.port}/dashboard"


@pytest.fixture(scope="module")
def make() -> Iterator[object]:
    with driver() as opened:
        yield opened


@pytest.fixture(scope="module")
def world(make: object, server: RealServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / "app.py").write_text(APP)
    environ = {"DELAYBOX_STORAGE_PREFIX": a_prefix(), "DELAYBOX_AUTH_TOKENS": TOKEN}
    with node("--redis", server.url, "--http-port", "0", folder=folder, environ=environ) as running:
        servers = f"127.0.0.1:{running.grpc_port}"
        given = {**os.environ, "DELAYBOX_GRPC_SERVERS": servers, "DELAYBOX_TOKEN": TOKEN}
        worker = subprocess.Popen(
            [sys.executable, "-m", "delaybox", "worker", "app:worker"], cwd=folder, env=given, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            running.until(lambda: running.call("GET", "/v1/workers", headers=bearer)[2]["count"])
            with Client(servers, token=TOKEN) as client:
                yield World(running, folder, client)
        finally:
            worker.terminate()
            worker.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def window(make: object, world: World) -> Browser:
    """A window that is logged in."""
    assert callable(make)
    browser: Browser = make()
    browser.go(f"{world.base}/tasks")
    browser.see("This node asks for a token")
    fits(browser, "/login")
    browser.fill("token", TOKEN)
    browser.click("Log in", "main button")
    browser.see("Function or command")
    return browser


@pytest.fixture
def page(window: Browser) -> Iterator[Browser]:
    window.complaints()
    yield window
    assert not window.complaints(), "the console complains: a script failed, or the policy stopped something"


def test_a_failed_task_is_found_read_replayed_and_succeeds(page: Browser, world: World) -> None:
    # Whichever test was first has mended it.
    (world.folder / "mended").unlink(missing_ok=True)
    handle = world.client.schedule("mail.send", {"to": "ann@example.org"}, queue="mail", labels={"customer": "c-17"})
    until(lambda: handle.get().state == "failed", world.node.output)
    page.go(world.base)
    page.click("failed for good")
    page.see("By reason")
    page.see("1 ×")
    page.go(f"{world.base}/tasks")
    page.choose("state", "failed")
    page.fill("label", "customer=c-17")
    page.fill("name", "mail.send")
    page.click("Find", "main button")
    page.click(handle.id, "main a.id")

    def explained() -> bool:
        """Why an attempt failed is written down a moment after it."""
        page.go(f"{world.base}/tasks/{handle.id}")
        return "Why its attempts failed" in page.text

    until(explained, lambda: page.text)
    page.see("no template for ann@example.org: <b>is it deployed?</b>")
    (world.folder / "mended").touch()
    page.click("Replay", "main button")
    page.see("It was brought back")

    def succeeded() -> bool:
        page.go(f"{world.base}/tasks/{handle.id}")
        return "Succeeded" in page.text

    until(succeeded, lambda: page.text)
    page.see('"sent to ann@example.org"')
    page.go(f"{world.base}/ended?state=succeeded&name=mail.send")
    page.one("main a.id", handle.id)


def test_a_queue_is_paused_and_goes_on(page: Browser, world: World) -> None:
    page.go(f"{world.base}/queues/mail")
    page.click("Pause", "main button")
    page.see("Queue mail is paused.")
    page.see("it is drained")
    handle = world.client.schedule("mail.send", {"to": "bob@example.org"}, queue="mail")
    page.go(f"{world.base}/queues")
    page.see("paused")
    page.go(f"{world.base}/tasks/{handle.id}")
    page.see("queue 'mail' is paused")
    page.go(f"{world.base}/queues/mail")
    page.click("Resume", "main button")
    page.see("Queue mail goes on.")
    (world.folder / "mended").touch()
    assert handle.result(timeout=60) == "sent to bob@example.org"


def test_one_task_is_run_now_moved_cancelled_and_stopped(page: Browser, world: World) -> None:
    held = world.client.schedule("mail.hold", {}, queue="mail", delay="1h")
    page.go(f"{world.base}/tasks/{held.id}")
    page.fill("delay", "2h")
    page.click("Move", "main button")
    page.see("It is due at")
    assert (held.get().due - datetime.now(UTC)).total_seconds() > 7_000
    page.click("Run now", "main button")
    page.see("It is due now.")

    def runs() -> bool:
        page.go(f"{world.base}/tasks/{held.id}")
        return "Stop it" in page.text

    until(runs, lambda: page.text)
    page.click("Stop it", "main button")
    page.see("was asked to stop it.")
    until(lambda: held.get().state == "cancelled", world.node.output)
    other = world.client.publish(b"x", delay="1h")
    page.go(f"{world.base}/tasks/{other.id}")
    page.click("Cancel", "main button")
    until(lambda: other.get().state == "cancelled", lambda: page.text)


def test_a_task_page_follows_its_task(page: Browser, world: World) -> None:
    held = world.client.schedule("mail.hold", {}, queue="mail", delay="1h")
    page.go(f"{world.base}/tasks/{held.id}")
    page.fill("delay", "3h")
    held.run_now()
    # What somebody types is not taken from under the hands; then the page is the task's again, without being asked.
    until(lambda: held.get().state == "running", world.node.output)
    assert page.run("return document.querySelector('[name=delay]').value") == "3h"
    page.one("main [name=delay]").clear()
    page.run("document.activeElement.blur()")
    page.see("Stop it")
    held.cancel(running=True)
    page.see("Cancelled")
    page.miss("Stop it")


def test_a_part_that_renews_itself_stays_where_it_was_moved_to(page: Browser, world: World) -> None:
    page.size(900, 844)
    try:
        page.go(f"{world.base}/nodes")
        page.run(
            "document.styleSheets[0].insertRule('.scroll { max-width: 20rem }');"
            "const part = document.querySelector('#living'); part.dataset.old = 'yes';"
            "const link = part.querySelector('a'); link.focus();"
            "part.querySelector('[aria-label=Processes]').scrollLeft = 40"
        )
        until(lambda: page.run("return document.querySelector('#living').dataset.old || 'replaced'") == "replaced")
        assert page.run("return document.querySelector('[aria-label=Processes]').scrollLeft") == 40
        assert page.run("return document.activeElement.tagName") == "A"
    finally:
        page.size(1280, 900)


def test_a_double_click_schedules_one_task(page: Browser, world: World) -> None:
    page.go(f"{world.base}/schedule")
    page.fill("queue", "twice")
    page.fill("delay", "2h")
    # The answer comes so late that a second click meets the same page.
    page.devtools(
        "Network.emulateNetworkConditions", offline=False, latency=800, downloadThroughput=-1, uploadThroughput=-1
    )
    try:
        page.run(
            "const form = document.querySelector('#schedule'); form.requestSubmit();"
            "setTimeout(() => form.requestSubmit(), 100)"
        )
        page.see("The task is scheduled.")
    finally:
        page.devtools(
            "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
    assert sum(1 for _ in world.client.list(queue="twice")) == 1


def test_a_step_of_a_change_that_fails_is_shown_and_sent_again(page: Browser, world: World) -> None:
    page.go(f"{world.base}/tasks")
    put = (
        "const token = document.querySelector('[name=form]').value;"
        "const at = document.createElement('div'); document.querySelector('main').append(at);"
        "at.innerHTML = `<section id=many><form hx-post='/dashboard/many/cancel' hx-trigger='load delay:50ms, again'"
        " hx-target='#many' hx-select='#many' hx-swap=outerHTML><input name=form value='${arguments[0] || token}'>"
        "<input name=queue value=nobody></form></section>`;"
        "htmx.process(at)"
    )
    page.devtools("Network.enable")
    page.devtools("Network.setBlockedURLs", urls=["*/many/*"])
    try:
        page.run(put, "")
        page.see("The node does not answer")
    finally:
        page.devtools("Network.setBlockedURLs", urls=[])
    page.see("0 tasks would be cancelled")
    page.go(f"{world.base}/tasks")
    page.run(put, "forged")
    page.see("This step failed: this form is from another session")
    page.complaints()


def test_who_is_logged_out_is_led_to_the_form_for_a_token(make: object, world: World) -> None:
    assert callable(make)
    live: Browser = make()
    live.go(f"{world.base}/login")
    live.fill("token", TOKEN)
    live.click("Log in", "main button")
    live.see("live")
    live.devtools("Network.clearBrowserCookies")
    # As when another tab was in front for a while.
    live.run(
        "for (const hidden of [true, false]) {"
        " Object.defineProperty(document, 'hidden', {get: () => hidden, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')) }"
    )
    live.see("This node asks for a token")


def test_every_page_shows_that_the_store_is_away_and_comes_back(
    make: object, make_server: Callable[..., RealServer]
) -> None:
    assert callable(make)
    own = make_server("--appendonly", "yes")
    settings = DashboardSettings(secret="x" * 40)
    with kept(rest_process(server=own.settings, prefix=a_prefix(), partitions=1, dashboard=settings)) as process:
        base = f"http://127.0.0.1:{process.port}/dashboard"
        live: Browser = make()
        live.go(base)
        # No part of this page renews itself.
        still: Browser = make()
        still.go(f"{base}/schedule")
        own.kill()
        for window in (live, still):
            window.see("The store does not answer this node")
        live.go(f"{base}/tasks")
        live.see("This page tries again by itself")
        still.fill("payload", "typed while it was away")
        still.click("Schedule", "main button.first")
        still.see("The form below is as you sent it")
        assert "typed while it was away" in still.run("return document.querySelector('#f-payload').value")
        form = still.run("return document.querySelector('#schedule [name=form]').value")
        still.run(
            "const form = document.createElement('form'); form.method = 'post';"
            "form.action = '/dashboard/queues/q/pause';"
            "form.innerHTML = `<input name=form value='${arguments[0]}'>`; document.body.append(form); form.submit()",
            form,
        )
        still.see("Whether your form was carried out is not known")
        own.start()
        live.see("No task matches.")
        still.see("The store is back")
        still.click("look what has become of it")
        still.see("Queue q")


def test_tasks_are_cancelled_by_filter_after_a_dry_run(page: Browser, world: World) -> None:
    for number in range(5):
        world.client.publish(b"x", delay="1h", queue="old", labels={"batch": f"b-{number % 2}"})
    page.go(f"{world.base}/tasks?queue=old")
    page.fill("label", "batch=b-0")
    page.click("Find", "main button")
    page.click("Cancel …", "main button")
    page.see("3 tasks would be cancelled")
    page.click("Cancel 3 tasks", "main button")
    page.see("3 tasks were cancelled")
    assert sum(1 for _ in world.client.list(queue="old")) == 2


def test_the_forecast_changes_after_a_batch(page: Browser, world: World) -> None:
    page.go(world.base)
    page.click("24 hours", "main button")
    page.see("The coming 24 hours")

    def total() -> int:
        """-1 while the picture is not there yet."""
        words = str(page.run("return document.querySelector('#forecast-words').textContent"))
        if "Nothing is due" in words:
            return 0
        return int(words.split(" due;")[0].replace(",", "")) if " due;" in words else -1

    before = until(lambda: total() + 1, lambda: page.text) - 1
    for _ in range(40):
        world.client.publish(b"x", delay="5h", queue="later")
    # By itself, and not because the page is asked for again.
    until(lambda: total() == before + 40, lambda: page.text)
    until(lambda: page.run("return document.querySelector('[data-now=pending]').textContent") != "0")
    page.see("live")


def test_a_task_is_scheduled_with_the_lines_that_would_do_the_same(page: Browser, world: World) -> None:
    page.go(f"{world.base}/schedule")
    page.choose("type", "worker")
    page.fill("name", "mail.send")
    page.fill("queue", "mail")
    page.fill("payload", '{"to": "eve@example.org"}')
    page.see("client.schedule(")
    page.fill("delay", "nonsense")
    page.click("Schedule", "main button.first")
    page.see("nonsense")
    page.fill("delay", "2h")
    page.click("Schedule", "main button.first")
    page.see("The task is scheduled.")
    page.see("eve@example.org")
    page.click("Run now", "main button")
    page.see("It is due now.")


def test_times_are_the_viewers_with_utc_beside(page: Browser, world: World) -> None:
    page.devtools("Emulation.setTimezoneOverride", timezoneId="Asia/Kolkata")
    try:
        handle = world.client.publish(b"x", at="2031-03-01T10:00:00Z")
        page.go(f"{world.base}/tasks/{handle.id}")
        page.see("2031-03-01 15:30:00")
        page.see("10:00:00 UTC")
        page.go(f"{world.base}/tasks?due_from=2031-03-01T09:00:00Z&due_to=2031-03-01T11:00:00Z")
        page.see(handle.id)
        assert page.run("return document.querySelector('[name=due_from]').value").startswith("2031-03-01T14:30")
        page.click("Find", "main button")
        page.see(handle.id)
        assert "due_from=2031-03-01T09" in page.address
        handle.cancel()
    finally:
        page.devtools("Emulation.setTimezoneOverride", timezoneId="")


@pytest.mark.parametrize(("phone", "dark"), [(False, False), (True, True)])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    page: Browser, world: World, dark: bool, phone: bool
) -> None:
    page.size(390 if phone else 1280, 844, phone=phone)
    page.dark(dark)
    try:
        # One with a traceback, so that the pages have something to show.
        (world.folder / "mended").unlink(missing_ok=True)
        failed = world.client.schedule("mail.send", {"to": "axe@example.org"}, queue="mail")
        until(lambda: failed.get().traceback, world.node.output)
        for path in (*PAGES, f"/tasks/{failed.id}"):
            page.go(f"{world.base}{path}")
            fits(page, path)
        page.see("axe@example.org")
        world.client.publish(b"x", delay="1h", queue="counted")
        page.go(f"{world.base}/tasks?queue=counted")
        page.click("Cancel …", "main button")
        page.see("would be cancelled")
        assert page.run("return document.querySelector('nav [aria-current]').textContent") == "Tasks"
        fits(page, "/many/cancel")
        # As long as a busy store is looked through.
        words = "Cancel all that match, without counting the others"
        page.run("document.querySelector('#many .actions button').textContent = arguments[0]", words)
        fits(page, "/many/cancel, looking on")
    finally:
        page.size(1280, 900)
        page.dark(False)


def fits(page: Browser, path: str) -> None:
    """axe-core finds nothing, and nothing is wider than the screen."""
    assert page.axe() == [], path
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.run(wide) <= 0, path
    # On a phone a row is a paragraph, so that no part of it has to be looked for.
    sideways = """return innerWidth > 820 ? [] : [...document.querySelectorAll('.scroll')]
        .filter(one => one.scrollWidth > one.clientWidth).map(one => one.ariaLabel)"""
    assert page.run(sideways) == [], path


def test_everything_can_be_reached_by_keyboard(page: Browser, world: World) -> None:
    page.go(f"{world.base}/queues")
    page.one("body")
    reached = []
    for _ in range(12):
        page.press(TAB)
        reached.append(str(page.run("return document.activeElement.textContent.trim()")))
    for words in ("Skip to the content", "Now", "Queues", "Schedule", "Log out"):
        assert any(words in one for one in reached), (words, reached)


def test_the_page_cannot_be_shown_in_a_frame(window: Browser, world: World, tmp_path: Path) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(f"<!doctype html><title>x</title><iframe id=f src='{world.base}/login'></iframe>")
    window.go(frame.as_uri())
    assert until(lambda: [one for one in window.complaints() if "frame-ancestors" in one], lambda: window.text)
