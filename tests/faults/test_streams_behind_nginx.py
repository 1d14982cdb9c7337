"""Readers of open streams behind nginx, as deploy/nginx sets it up, while nodes are stopped in turn: each stream ends
in time and cleanly, its reader goes on at another node and gets every event once, and no other request fails.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

import pytest

from delaybox import Client
from delaybox.processes.grace import STOP_S
from tests.browser import Browser, driver
from tests.faults.harness.scale import scaled
from tests.nodes import Node
from tests.ports import free_port
from tests.proxy_nginx import needs_nginx, nginx
from tests.servers import RealServer
from tests.waiting import PATIENCE_S, Log, until

pytestmark = [pytest.mark.faults, needs_nginx, pytest.mark.timeout(scaled(300, 1_800))]

QUEUE = "streams"
STOPS = scaled(2, 6)
STARTING_S = 3.0
"""What a busy machine may add to the time in which a node stops: this test's own processes share its cores."""


class OneOfSeveral(Node):
    """A node behind nginx, which can be started again on its ports."""

    def __init__(self, server: RealServer, folder: Path, rest: int = 0, grpc: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        ports = ("--http-port", str(rest or free_port()), "--grpc-port", str(grpc or free_port()))
        super().__init__("--redis", server.url, *ports, "--set", "processes.rest=2", folder=folder)
        self._server = server

    def again(self) -> OneOfSeveral:
        return OneOfSeveral(self._server, self.folder, self.port, self.grpc_port)

    def is_used(self) -> bool:
        """Whether callers came to it since its start. Who posts and gets in turn may find each at a node of its own."""
        return bool(
            re.search(rb"^delaybox_http_requests_total\{[^}]*/v1/tasks", self.call("GET", "/metrics")[2], re.MULTILINE)
        )


class Site(NamedTuple):
    """Nodes on one store, and nginx in front of them."""

    nodes: list[OneOfSeveral]
    rest: int
    grpc: int
    callers: list[Callers]

    def answers(self) -> list[Counter[str]]:
        """What those who call have been answered."""
        return [one.answers for one in self.callers]

    def readers(self) -> int:
        """How many read events at the nodes."""
        texts = [node.call("GET", "/metrics")[2].decode() for node in self.nodes]
        found = [re.search(r"^delaybox_event_readers (\S+)$", text, re.MULTILINE) for text in texts]
        return int(sum(float(one[1]) for one in found if one is not None))

    def restarted(self, n: int) -> float:
        """Stops a node and starts it on the same ports; returns when it is used again. For how long it stopped."""
        old = self.nodes[n]
        began = time.monotonic()
        assert old.stop() == 0, old.output()
        took = time.monotonic() - began
        assert "Traceback" not in old.output(), old.output()
        self.nodes[n] = old.again()
        self.nodes[n].ready()
        # nginx leaves a node that refused alone for a while (fail_timeout), so the next one waits.
        until(self.nodes[n].is_used, lambda: f"{self.answers()}\n{self.nodes[n].output()}")
        return took


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("streams")
    server = RealServer(["--appendonly", "yes", "--maxmemory-policy", "noeviction"])
    server.start()
    nodes = [OneOfSeveral(server, folder / str(n)) for n in range(2)]
    try:
        for node in nodes:
            node.ready()
        with nginx(folder / "nginx", [n.port for n in nodes], [n.grpc_port for n in nodes]) as (rest, grpc):
            yield Site(nodes, rest, grpc, [])
    finally:
        for node in nodes:
            node.stop()
        server.close()


class Callers:
    """Requests to the same address as the streams, at a steady rate over kept connections: each must succeed."""

    def __init__(self, port: int, per_s: float) -> None:
        self.made: list[str] = []
        self.answers: Counter[str] = Counter()
        self._port, self._each_s = port, 1 / per_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _call(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        body = json.dumps({"delay": "1h", "payload": "x", "queue": QUEUE})
        while not self._over.wait(self._each_s):
            try:
                connection.request("POST", "/v1/tasks", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
                self.answers[f"POST {answer.status}"] += 1
                if answer.status == 201:
                    self.made.append(json.loads(text)["id"])
                    connection.request("GET", f"/v1/tasks/{self.made[-1]}")
                    answer = connection.getresponse()
                    answer.read()
                    self.answers[f"GET {answer.status}"] += 1
            except (OSError, HTTPException) as error:
                self.answers[repr(error)] += 1
                connection.close()
        connection.close()


class EventSource:
    """What a browser's EventSource does: it connects again with the last id where a stream ends, and gives up for good
    at any answer but 200. ``wrong``: why it gave up, or a stream was cut off."""

    def __init__(self, port: int, path: str) -> None:
        self.events: list[tuple[str, str]] = []
        """Id and data of each."""
        self.opened = 0
        self.wrong: list[str] = []
        self._port, self._path = port, path
        self._last = ""
        self._retry_s = 3.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        until(lambda: self.opened or self.wrong)

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set() and not self.wrong:
            connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
            try:
                headers = {"Last-Event-ID": self._last} if self._last else {}
                connection.request("GET", self._path, headers=headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    self.wrong.append(f"{answer.status} {answer.read()!r}")
                    return
                data = ""
                while line := answer.readline():
                    if self._over.is_set():
                        return
                    name, _, value = line.decode().rstrip("\n").partition(": ")
                    if name == "retry":
                        self._retry_s = int(value) / 1000
                    elif name == "id":
                        self._last = value
                    elif name == "data":
                        data = value
                    elif not name and not value:
                        self.opened += 1
                        if data:
                            self.events.append((self._last, data))
                        data = ""
            except (OSError, HTTPException) as error:
                self.wrong.append(f"a stream was cut off: {error!r}")
            finally:
                connection.close()
            self._over.wait(self._retry_s)


class GrpcReader:
    """`Client.events`, by which a stream over gRPC is read."""

    def __init__(self, port: int) -> None:
        self.ids: list[str] = []
        self.missed: list[str] = []
        self._client = Client(f"127.0.0.1:{port}")
        self._feed = self._client.events(queue=QUEUE, kinds=["scheduled"])
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # closed
            for event in self._feed:
                (self.missed if event.kind == "missed" else self.ids).append(event.task_id)

    def close(self) -> None:
        self._client.close()
        self._thread.join()


def subjects(events: list[str]) -> list[str]:
    """The tasks of CloudEvents; none may say that some are missed."""
    found = [json.loads(data) for data in events]
    assert not [one for one in found if one["type"].endswith("missed")]
    return [one["subject"] for one in found]


def whole(made: list[str], look: Callable[[], list[str]]) -> None:
    """Returns when a reader has seen each task, which must be once."""
    until(lambda: len(look()) >= len(made), lambda: f"{len(look())} of {len(made)} events came")
    assert sorted(look()) == sorted(made)


def test_streams_go_on_at_another_node_and_no_request_fails(site: Site, tmp_path: Path) -> None:
    feed = EventSource(site.rest, f"/v1/events?queue={QUEUE}&kind=scheduled")
    page = EventSource(site.rest, "/dashboard/live")
    log = Log(tmp_path / "followed.log")
    command = [sys.executable, "-m", "delaybox", "events", "--follow", "--queue", QUEUE, "--json"]
    following = subprocess.Popen(
        [*command, "--server", f"http://127.0.0.1:{site.rest}"], stdout=log.fd, stderr=log.fd, stdin=subprocess.DEVNULL
    )
    log.started()
    grpc = GrpcReader(site.grpc)
    callers: Callers | None = None
    try:
        until(lambda: site.readers() == 3, log.text)
        callers = Callers(site.rest, per_s=scaled(40, 200))
        site.callers[:] = [callers]
        stops = [site.restarted(n % 2) for n in range(STOPS)]
        opened = page.opened
        until(lambda: page.opened > opened or page.wrong)
        callers.stop()
        assert max(stops) < STOP_S + STARTING_S, stops
        assert not feed.wrong and not page.wrong, (feed.wrong, page.wrong)
        assert set(callers.answers) == {"POST 201", "GET 200"}, callers.answers
        whole(callers.made, lambda: subjects([data for _, data in feed.events]))
        whole(callers.made, lambda: subjects([line for line in log.text().split("\n")[:-1] if line.startswith("{")]))
        whole(callers.made, lambda: grpc.ids)
        assert not grpc.missed
    finally:
        if callers is not None:
            callers.stop()
        following.kill()
        following.wait()
        for reader in (feed, page, grpc):
            reader.close()


FOLLOWS = """
window.seen = [];
const source = new EventSource("/v1/events?kind=scheduled&queue=" + arguments[0]);
source.onmessage = (event) => window.seen.push(JSON.parse(event.data).subject);
source.onopen = arguments[1];
"""


def test_a_browser_goes_on_at_another_node(site: Site) -> None:
    with driver() as make:
        browser: Browser = make()
        browser.go(f"http://127.0.0.1:{site.rest}/dashboard")
        browser.run_async(FOLLOWS, QUEUE)
        callers = Callers(site.rest, per_s=20)
        site.callers[:] = [callers]
        try:
            for n in range(2):
                site.restarted(n)
            callers.stop()
            whole(callers.made, lambda: list(browser.run("return window.seen")))
            assert set(callers.answers) == {"POST 201", "GET 200"}, callers.answers
            # The page's own numbers as well.
            browser.run("document.querySelector('#beat').textContent = 'old'")
            until(lambda: browser.run("return document.querySelector('#beat').textContent") == "live")
        finally:
            callers.stop()


def test_a_page_goes_on_after_no_node_was_there(site: Site) -> None:
    """nginx answers 502 then, for which a browser gives up its stream."""
    with driver() as make:
        browser: Browser = make()
        browser.go(f"http://127.0.0.1:{site.rest}/dashboard")
        beat = partial(browser.run, "return document.querySelector('#beat').textContent")
        until(lambda: beat() == "live")
        for node in site.nodes:
            assert node.stop() == 0, node.output()
        until(lambda: beat() == "connecting")
        until(lambda: browser.run("return fetch('/ping').then((answer) => answer.status)") == 502)
        for n, node in enumerate(site.nodes):
            site.nodes[n] = node.again()
            site.nodes[n].ready()
        until(lambda: beat() == "live")
