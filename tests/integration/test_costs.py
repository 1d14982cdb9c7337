"""Commands and webhooks that take several places of their process, on nodes with four of each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from delaybox import Client
from tests.command import Command
from tests.nodes import Node, node
from tests.receivers import Received, Receiver, receiver, reply
from tests.servers import RealServer
from tests.waiting import Gate, until

PLACES = 4


class Doer:
    """Carries tasks out and holds each until ``open``. ``events``: ('+' or '-', name), in order."""

    def __init__(self, schedule: Callable[..., str], events: Callable[[], list[tuple[str, str]]], gate: Any) -> None:
        self.schedule = schedule
        self.events = events
        self.open = gate

    def begun(self) -> list[str]:
        return [name for sign, name in self.events() if sign == "+"]

    def most(self, costs: dict[str, int]) -> int:
        """Places that were taken at once."""
        taken = found = 0
        for sign, name in self.events():
            taken += costs[name] if sign == "+" else -costs[name]
            found = max(found, taken)
        return found


def _flags(server: RealServer, places: int) -> tuple[str, ...]:
    place = ("--redis", server.url, "--set", f"storage.prefix=costs-{os.getpid()}", "--http-port", "0")
    settings = (
        f"workers.shell.concurrency={places}",
        "webhooks.enabled=true",
        "webhooks.allow=127.0.0.1",
        f"webhooks.concurrency={places}",
    )
    return *place, "--enable-shell", *(part for one in settings for part in ("--set", one))


@pytest.fixture(scope="module")
def on(server: RealServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(*_flags(server, PLACES), folder=tmp_path_factory.mktemp("costs")) as found:
        yield found


@pytest.fixture(scope="module")
def to() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def client(on: Node) -> Iterator[Client]:
    with Client(f"127.0.0.1:{on.grpc_port}") as found:
        yield found


@pytest.fixture(params=["shell", "http"])
def doer(request: pytest.FixtureRequest, on: Node, to: Receiver, tmp_path: Path) -> Iterator[Doer]:
    def schedule(name: str, cost: int, **more: Any) -> str:
        status, _, answer = on.call("POST", "/v1/tasks", {**what(name), "type": request.param, "cost": cost, **more})
        assert status == 201, answer
        return str(answer["id"])

    if request.param == "shell":
        log, gate = tmp_path / "log", tmp_path / "gate"
        log.touch()

        def command(name: str) -> dict[str, Any]:
            waits = f"while [ ! -e {gate} ]; do sleep 0.02; done"
            return {"payload": f"echo + {name} >> {log}; {waits}; echo - {name} >> {log}"}

        what = command

        def events() -> list[tuple[str, str]]:
            return [(sign, name) for sign, name in map(str.split, log.read_text().splitlines())]

        yield Doer(schedule, events, gate.touch)
        gate.touch()
        return
    answers, held = Gate(), list[tuple[str, str]]()

    async def answer(got: Received, writer: asyncio.StreamWriter) -> None:
        held.append(("+", got.body.decode()))
        await answers.passed()
        held.append(("-", got.body.decode()))
        writer.write(reply(200))
        await writer.drain()

    def webhook(name: str) -> dict[str, Any]:
        return {"url": to.url("/costs"), "payload": name}

    what = webhook

    # A host that has never answered gets half of the places.
    count = len(to.to("/known"))
    on.call("POST", "/v1/tasks", {"type": "http", "url": to.url("/known")})
    to.wait("/known", count + 1)
    to.answers["/costs"] = answer
    yield Doer(schedule, lambda: list(held), answers.open)
    answers.open()


def test_it_takes_the_places_that_it_costs_and_has_its_turn(on: Node, doer: Doer) -> None:
    costs = {f"a{n}": 1 for n in range(PLACES)} | {"large": PLACES} | {f"b{n}": 1 for n in range(6)} | {"half": 2}
    for name in list(costs)[:PLACES]:
        doer.schedule(name, 1)
    on.until(lambda: len(doer.begun()) == PLACES)
    large = doer.schedule("large", PLACES)
    # One place of the four is free at a time, and there is always a small one for it.
    on.until(lambda: on.call("GET", f"/v1/tasks/{large}")[2]["state"] in ("running", "ready"))
    for name, cost in list(costs.items())[PLACES + 1 :]:
        doer.schedule(name, cost)
    doer.open()
    on.until(lambda: len(doer.events()) == 2 * len(costs))
    assert doer.most(costs) == PLACES


def test_one_that_costs_more_than_any_process_has_waits_with_the_reason(
    on: Node, doer: Doer, client: Client, server: RealServer, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    doer.open()
    task = doer.schedule("toolarge", PLACES + 1, queue="large")
    kind = str(on.call("GET", f"/v1/tasks/{task}")[2]["type"])
    why = f"waits: no living node that carries out {kind} tasks has {PLACES + 1} places"
    on.until(lambda: on.call("GET", f"/v1/tasks/{task}")[2].get("reason") == why)
    assert client.get(task).reason == why
    listed = on.call("GET", "/v1/tasks?queue=large")[2]["tasks"]
    assert why in [one.get("reason") for one in listed]
    (queue,) = (one for one in on.call("GET", "/v1/queues/large")[2]["types"] if one["type"] == kind)
    assert queue["unserved"] == [f"{kind} (needs {PLACES + 1} places)"]
    cli = Command(monkeypatch, capsys)
    where = ("--server", f"http://127.0.0.1:{on.port}")
    assert why in cli("get", task, *where).out and why in cli("list", "--queue", "large", *where).out
    assert f"waits: nobody serves {kind} (needs {PLACES + 1} places)" in cli("queues", *where).out
    letters = {"shell": "SHELL_CMD", "http": "HTTP"}[kind]
    words = f"1 {letters} task in queue 'large' wait: no living node with {PLACES + 1} places carries them out"
    until(lambda: words in cli("doctor", *where).out)
    # The others of the queue do not wait for it.
    doer.schedule("small", 1, queue="large")
    on.until(lambda: "small" in doer.begun())
    assert "toolarge" not in doer.begun()
    with node(*_flags(server, PLACES + 1), folder=tmp_path):
        on.until(lambda: "toolarge" in doer.begun())


def test_a_cost_is_given_in_each_way(on: Node, to: Receiver, client: Client, monkeypatch: Any, capsys: Any) -> None:
    cli = Command(monkeypatch, capsys)
    where = ("--server", f"http://127.0.0.1:{on.port}", "--json", "--delay", "1h", "--cost", "3")
    made = {
        "shell": cli("schedule", "true", "--type", "shell", *where).json()["id"],
        "http": cli("schedule", "--type", "http", "--url", to.url(), *where).json()["id"],
    }
    more: dict[str, Any] = {"cost": 3, "delay": "1h"}
    pairs = [*made.items(), ("shell", client.shell("true", **more).id), ("http", client.webhook(to.url(), **more).id)]
    for kind, task in pairs:
        shown = on.call("GET", f"/v1/tasks/{task}")[2]
        assert (shown["type"], shown["cost"]) == (kind, 3)
        assert client.get(task).cost == 3
    for body in ({"type": "shell", "payload": "true"}, {"type": "http", "url": to.url()}):
        status, _, answer = on.call("POST", "/v1/tasks", {**body, "requires": ["gpu"]})
        assert (status, answer["field"]) == (400, "requires") and "which no worker runs" in answer["detail"]
        status, _, answer = on.call("POST", "/v1/tasks", {**body, "cost": 1_001})
        assert (status, answer["field"]) == (400, "cost")
    status, _, answer = on.call("POST", "/v1/tasks", {"payload": "x", "cost": 2})
    assert (status, answer["field"]) == (400, "cost") and "pub_sub" in answer["detail"]
