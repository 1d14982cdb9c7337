"""Webhooks through a whole node: every way in, the signed request that comes out, results, dead letters."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from delaybox import Client, NewTask, Retry, webhook
from delaybox.client.errors import TaskFailed
from delaybox.core.errors import InvalidTask
from tests.command import Command
from tests.nodes import JSON, Node, node
from tests.receivers import Received, Receiver, receiver, reply
from tests.servers import RealServer
from tests.waiting import PATIENCE_S, Gate

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
AT_ONCE = 8


@pytest.fixture(scope="module")
def to() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture(scope="module")
def on(server: RealServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that may call this machine."""
    folder, secret = tmp_path_factory.mktemp("node"), {"DELAYBOX_WEBHOOKS_SECRET": SECRET}
    with node(*_flags(server), "--set", "lease=2s", folder=folder, environ=secret) as found:
        yield found


def _flags(server: RealServer) -> tuple[str, ...]:
    """Of a node that may call this machine."""
    place = ("--redis", server.url, "--set", f"storage.prefix=webhooks-{os.getpid()}", "--http-port", "0")
    settings = ("webhooks.enabled=true", "webhooks.allow=127.0.0.1", "heartbeat=300ms")
    return *place, *(part for one in settings for part in ("--set", one))


@pytest.fixture
def client(on: Node) -> Iterator[Client]:
    with Client(f"127.0.0.1:{on.grpc_port}") as found:
        yield found


def v1(on: Node, **task: Any) -> tuple[int, Any]:
    status, _, answer = on.call("POST", "/v1/tasks", {"type": "http", **task})
    return status, answer


def ended(on: Node, task_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        status, _, task = on.call("GET", f"/v1/tasks/{task_id}")
        return task if status == 200 and task["state"] in ("succeeded", "failed") else None

    found: dict[str, Any] = on.until(look)
    return found


def test_off_by_default_with_words(server: RealServer, prefix: str, tmp_path: Path):
    flags = ("--redis", server.url, "--set", f"storage.prefix={prefix}", "--http-port", "0")
    with node(*flags, folder=tmp_path) as off:
        status, answer = v1(off, url="https://example.com/")
        assert status == 403 and answer["code"] == "type_disabled" and "webhooks.enabled: true" in answer["detail"]
        status, _, answer = off.call("POST", "/task", {"taskType": "HTTP"})
        assert status == 403 and "webhooks.enabled: true" in answer["error"]
        assert "webhook" not in off.output()


def test_over_rest(on: Node, to: Receiver):
    to.answers["/rest?k=secret-in-query"] = reply(201, b'{"made": 1}', x_id="9", content_type="application/json")
    status, answer = v1(
        on,
        url=to.url("/rest?k=secret-in-query"),
        method="PUT",
        payload_json={"order": 17},
        headers={"x-own": "yes"},
        delay="100ms",
        keep_result="1h",
    )
    assert status == 201 and answer["url"] == to.url("/rest?k=secret-in-query") and answer["method"] == "PUT"
    (got,) = to.wait("/rest?k=secret-in-query")
    assert got.method == "PUT" and json.loads(got.body) == {"order": 17}
    assert got.headers["content-type"] == "application/json" and got.headers["x-own"] == "yes"
    assert webhook.verify(got.body, got.headers, SECRET) == answer["id"]
    task = ended(on, answer["id"])
    assert task["state"] == "succeeded" and task["result"]["status"] == 201
    assert task["result"]["headers"]["x-id"] == "9" and json.loads(task["result"]["output"]) == {"made": 1}
    assert "secret-in-query" not in on.output()
    shown = rb'delaybox_webhook_requests_total\{answer="2xx",host="http://127.0.0.1:\d+"\}'
    on.until(lambda: re.search(shown, on.call("GET", "/metrics")[2]))
    needs = {need["kind"]: need for need in on.call("GET", "/v1/scaling")[2]["needs"]}
    assert needs["webhook"]["running"] == 1


def test_wrong_input_is_refused_with_field_and_mend(on: Node, to: Receiver):
    for task, field, words in (
        ({}, "url", "missing"),
        ({"url": "http://10.0.0.1/"}, "url", "webhooks.allow"),
        ({"url": "http://169.254.169.254/latest"}, "url", "link-local"),
        ({"url": "https://u:p@example.com/"}, "url", "authorization"),
        ({"url": "https://example.com/", "headers": {"x": "a\r\nb: c"}}, "headers.x", "line end"),
        ({"url": "https://example.com/", "headers": {"Webhook-Id": "1"}}, "headers.Webhook-Id", "by the node"),
        ({"url": "https://example.com/", "method": "GET", "payload": "x"}, "method", "no body"),
        ({"url": "https://example.com/", "retry_on": [500]}, "retry_on", "400 to 499"),
        ({"url": "https://example.com/", "name": "f"}, "name", "url says"),
        ({"url": "https://example.com/", "type": "pub_sub"}, "url", "type http"),
    ):
        status, answer = v1(on, **task)
        assert status == 400 and answer["field"] == field and words in answer["detail"], (task, answer)
        assert "u:p" not in answer["detail"]
    status, answer = v1(on, url="https://example.com/", payload="x" * (1 << 20 | 1))
    assert status == 413 or answer["code"] == "too_large"


def test_from_python(client: Client, to: Receiver):
    to.answers["/python"] = [reply(500), reply(200, b"pong")]
    handle = client.webhook(
        to.url("/python"), json={"a": [1, None]}, retry=Retry(initial="10ms", jitter=0), keep_result="1h", delay="50ms"
    )
    assert handle.result(timeout=60) == b"pong"
    first, second = to.wait("/python", 2)
    assert json.loads(first.body) == {"a": [1, None]} and first.headers["content-type"] == "application/json"
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == handle.id
    assert [one.headers["delaybox-attempt"] for one in (first, second)] == ["1", "2"]
    assert int(second.headers["delaybox-fencing"]) > int(first.headers["delaybox-fencing"])
    task = client.get(handle.id)
    assert (task.type, task.url, task.method) == ("http", to.url("/python"), "POST")
    assert task.result is not None and task.result.status == 200

    to.answers["/gone"] = reply(410)
    with pytest.raises(TaskFailed, match="410"):
        client.webhook(to.url("/gone"), data="text").result(timeout=60)
    assert to.to("/gone")[0].body == b"text" and len(to.to("/gone")) == 1
    with pytest.raises(InvalidTask, match=r"webhooks\.allow"):
        client.webhook("http://10.0.0.1/")
    with pytest.raises(InvalidTask, match="json and data"):
        client.webhook(to.url("/"), json=1, data=b"")


def test_callbacks_over_every_door(
    on: Node, client: Client, to: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    cli = Command(monkeypatch, capsys)
    monkeypatch.setenv("DELAYBOX_SERVER", f"http://127.0.0.1:{on.port}")
    to.answers["/first"], to.answers["/refuses"] = reply(200), reply(404)
    good, bad = to.url("/ended-well"), to.url("/failed")
    status, answer = v1(on, url=to.url("/first"), on_success=good, on_failure=bad)
    assert (status, answer["on_success"], answer["on_failure"]) == (201, good, bad)
    refused = client.webhook(to.url("/refuses"), on_success=good, on_failure=bad)
    assert cli("schedule", "--url", to.url("/first"), "--on-success", good).code == 0
    said = [json.loads(one.body) for one in to.wait("/ended-well", 2)]
    assert {one["state"] for one in said} == {"succeeded"} and answer["id"] in {one["task_id"] for one in said}
    (call,) = to.wait("/failed")
    failure = json.loads(call.body)
    assert (failure["type"], failure["task_id"], failure["attempts"]) == ("webhook.failed", refused.id, 1)
    assert "404" in failure["reason"]
    assert webhook.verify(call.body, call.headers, SECRET) != refused.id
    status, answer = v1(on, url=to.url("/first"), on_failure="http://10.0.0.1/")
    assert (status, answer["field"]) == (400, "on_failure") and "on_failure has the host" in answer["detail"]
    status, answer = v1(on, url=to.url("/first"), on_success=good, delivery="at_most_once")
    assert (status, answer["field"]) == (400, "on_success")


def test_hosts_are_shown(
    on: Node, client: Client, to: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    client.webhook(to.url("/shown"), keep_result="1h").result(timeout=60)
    run = Command(monkeypatch, capsys)
    monkeypatch.setenv("DELAYBOX_SERVER", f"http://127.0.0.1:{on.port}")

    def shown() -> Any:
        hosts = {one["host"]: one for one in run("webhook", "hosts", "--json").json()["hosts"]}
        return hosts.get(f"http://127.0.0.1:{to.port}")

    host = on.until(shown)
    assert host["answers"]["2xx"] >= 1 and host["took_ms"] > 0 and host["late_ms"] >= 0 and not host["left_alone"]
    assert f"http://127.0.0.1:{to.port}" in run("webhook", "hosts").out
    status, _, page = on.call("GET", "/dashboard/webhooks")
    assert status == 200 and f"http://127.0.0.1:{to.port}".encode() in page


def test_a_cloud_event_over_every_door(
    on: Node, client: Client, to: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    cli = Command(monkeypatch, capsys)
    monkeypatch.setenv("DELAYBOX_SERVER", f"http://127.0.0.1:{on.port}")
    asked = {"payload_json": {"order": 17}, "headers": {"ce-type": "com.example.order"}}
    status, answer = v1(on, url=to.url("/event"), cloudevents="structured", on_success=to.url("/event-call"), **asked)
    assert (status, answer["cloudevents"]) == (201, "structured")
    handle = client.webhook(to.url("/event-parts"), json=[1], cloudevents="binary")
    assert cli("schedule", "--url", to.url("/event-cli"), "x", "--cloudevents", "structured").code == 0
    event = json.loads(to.wait("/event")[0].body)
    assert (event["id"], event["type"], event["data"]) == (answer["id"], "com.example.order", {"order": 17})
    (parts,) = to.wait("/event-parts")
    assert (parts.headers["ce-id"], parts.headers["ce-specversion"], parts.body) == (handle.id, "1.0", b"[1]")
    assert json.loads(to.wait("/event-cli")[0].body)["data_base64"] == "eA=="
    (call,) = to.wait("/event-call")
    event = json.loads(call.body)
    assert event["type"] == "io.delaybox.webhook.succeeded" and event["data"]["task_id"] == answer["id"]
    assert webhook.verify(call.body, call.headers, SECRET) == event["id"]
    status, answer = v1(on, url=to.url("/event"), cloudevents="json")
    assert (status, answer["field"]) == (400, "cloudevents")
    with pytest.raises(InvalidTask, match="cloudevents"):
        client.webhook(to.url("/event"), cloudevents="json")


def test_the_trace_of_the_request_is_handed_on(on: Node, to: Receiver):
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "shop=1"}
    status, _, _ = on.call("POST", "/v1/tasks", {"type": "http", "url": to.url("/traced")}, headers={**JSON, **trace})
    (got,) = to.wait("/traced")
    assert status == 201 and got.headers["traceparent"].split("-")[1] == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_retry_after_is_not_charged(client: Client, to: Receiver):
    to.answers["/busy"] = [*[reply(429, retry_after="0")] * 3, reply(200)]
    handle = client.webhook(to.url("/busy"), retry=0)
    got = to.wait("/busy", 4)
    assert [one.headers["delaybox-attempt"] for one in got] == ["1"] * 4 and handle.id == got[0].headers["webhook-id"]


def test_large_bodies_do_not_wait_for_a_host_that_is_slow(client: Client, to: Receiver):
    released = Gate()

    async def hold(_: Received, writer: asyncio.StreamWriter) -> None:
        await released.passed()
        writer.write(reply(200))
        await writer.drain()

    to.answers["/hold-large"] = hold
    paths = ["/hold-large"] * 40 + ["/quick-large"] * 5
    tasks = [NewTask.webhook(to.url(path), data=b"x" * 2_000, delay="500ms", timeout="5m") for path in paths]
    try:
        assert client.schedule_many(tasks).created == 45
        to.wait("/quick-large", 5)
        to.wait("/hold-large", 40)
    finally:
        released.open()


def test_a_name_that_leads_here_becomes_a_dead_letter(on: Node, to: Receiver):
    # What the resolver makes of the name decides, and it is asked when the task is due.
    status, answer = v1(on, url="http://localhost.localdomain:80/dead", retry={"max_attempts": 1})
    assert status == 201
    task = ended(on, answer["id"])
    assert task["state"] == "failed" and ("not sent" in task["reason"] or "cannot be resolved" in task["reason"])


def test_from_the_command_line(
    on: Node, to: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = Command(monkeypatch, capsys)
    server = ("--server", f"http://127.0.0.1:{on.port}")
    done = run(
        *("schedule", "--url", to.url("/cli"), "--method", "PATCH", "--payload-json", '{"a":1}'),
        *("--keep-result", "1h", "--retry-on", "404", "--json", *server),
    )
    assert done.code == 0, done.err
    (got,) = to.wait("/cli")
    assert got.method == "PATCH" and got.body == b'{"a":1}'
    task = ended(on, done.json()["id"])
    assert task["retry_on"] == [404]
    shown = run("get", task["id"], *server)
    assert "PATCH" in shown.out and to.url("/cli") in shown.out and "status 200" in shown.out


def test_a_receiver_for_development_and_a_request_by_hand(
    to: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = Command(monkeypatch, capsys)
    shown = run("webhook", "send", to.url("/by-hand"), "--payload-json", '{"a": 1}', "--secret", SECRET, "--dry-run")
    head, _, body = shown.out.partition("\n\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    assert head.startswith("POST /by-hand HTTP/1.1\n") and headers["content-type"] == "application/json"
    assert webhook.verify(body.rstrip("\n"), headers, SECRET) == headers["webhook-id"]
    assert not to.to("/by-hand")
    assert run("webhook", "send", to.url("/by-hand"), "--payload", "x", "--secret", SECRET).out == "200  ok\n"
    assert run("webhook", "send", to.url("/here", "localhost"), "--payload", "x").out == "200  ok\n"
    (got,) = to.to("/by-hand")
    assert webhook.verify(got.body, got.headers, SECRET)
    to.answers["/by-hand-no"] = reply(404)
    assert run("webhook", "send", to.url("/by-hand-no")).code == 1
    assert "base64" in run("webhook", "send", to.url("/"), "--secret", "x").err
    wrong = run("webhook", "send", to.url("/"), "--timeout", "soon", "--dry-run")
    assert wrong.code == 2 and "--timeout" in wrong.err and not wrong.out
    wrong = run("webhook", "listen", "--port", "0", "--status", "503", "--retry-after", "soon")
    assert wrong.code == 2 and "give seconds" in wrong.err

    secret = {**os.environ, "DELAYBOX_WEBHOOKS_SECRET": SECRET}
    started = subprocess.Popen(
        [sys.executable, "-m", "delaybox", "webhook", "listen", "--port", "0", "--count", "2", "--status", "202"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=secret,
    )  # fmt: skip
    assert started.stderr is not None
    found = re.search(r"http://\S+:\d+", started.stderr.readline())
    assert found is not None
    url = f"{found[0]}/hook"
    assert run("webhook", "send", url, "--payload", "hello", "--secret", SECRET, "--json").json()["status"] == 202
    other = "whsec_" + "A" * 32
    refused = run("webhook", "send", url, "--payload", "hello", "--secret", other, "--json")
    assert (refused.code, refused.json()["status"]) == (1, 401)
    out, _ = started.communicate(timeout=PATIENCE_S)
    assert "verified" in out and "hello" in out and "no signature fits" in out


def test_a_killed_process_loses_nothing(on: Node, client: Client, to: Receiver):
    pid = _pid(on)
    ids = {client.webhook(to.url("/killed"), data=b"x" * 100).id for _ in range(200)}
    to.wait("/killed", 20)
    os.kill(pid, signal.SIGKILL)
    on.until(lambda: {one.headers["webhook-id"] for one in to.to("/killed")} == ids)
    again = len(to.to("/killed")) - len(ids)
    assert 0 <= again <= 200, "each was sent once, or again with the same id"
    assert _pid(on) != pid


def test_a_killed_node_loses_nothing(server: RealServer, on: Node, client: Client, to: Receiver, tmp_path: Path):
    """The whole node, killed while it sends: another one sends the rest, and what is sent again has its webhook-id."""
    killed, held = Gate(), []

    async def hold(got: Received, writer: asyncio.StreamWriter) -> None:
        """The first ones are answered, the next are under way when the node dies."""
        held.append(got.headers["webhook-id"])
        if len(held) > 20:
            await killed.passed()
        writer.write(reply(200))
        await writer.drain()

    to.answers["/node-killed"] = hold
    flags = (*_flags(server), "--set", "lease=3s", "--set", f"webhooks.perHost={AT_ONCE}")
    with node(*flags, folder=tmp_path, environ={"DELAYBOX_WEBHOOKS_SECRET": SECRET}) as first:
        other = _pid(on)
        os.kill(other, signal.SIGSTOP)  # so that only the first one sends
        try:
            task = NewTask.webhook(to.url("/node-killed"), data=b"x", delay="200ms", queue="killed")
            tasks = [task] * 60
            assert client.schedule_many(tasks).created == 60
            to.wait("/node-killed", 20 + AT_ONCE)
            # The ends of those that were answered are stored.
            on.until(lambda: _left(on, "killed") == 40)
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
        finally:
            os.kill(other, signal.SIGCONT)
            killed.open()
        on.until(lambda: len(set(held)) == 60)
    twice = {one for one in held if held.count(one) > 1}
    assert len(held) - 60 == len(twice) <= AT_ONCE, "more came twice than was in flight"


def _left(on: Node, queue: str) -> int:
    found = on.call("GET", f"/v1/queues/{queue}")[2]
    return int(found["pending"] + found["in_flight"])


def _pid(on: Node) -> int:
    """The node's one webhook process; one that was killed before is replaced after a pause."""
    on.until(lambda: len(_pids(on)) == 1)
    return _pids(on)[0]


def _pids(on: Node) -> list[int]:
    """The node's webhook processes that run, none that ended and was not yet waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == on.process.pid and b"delaybox.roles.webhook" in command:
            found.append(int(path.parent.name))
    return found
