"""Webhooks to a host that nobody serves yet: they wait in the store, say why, and are sent as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from delaybox import Client, NewTask
from delaybox.client import TaskState
from delaybox.core.limits import DEFAULT_PAGE
from delaybox.targets.http_hosts import FAILURES
from tests.nodes import Node, node
from tests.ports import free_port
from tests.receivers import Receiver
from tests.servers import RealServer

COUNT = 40


@pytest.fixture
def on(server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Node]:
    place = ("--redis", server.url, "--set", f"storage.prefix={prefix}", "--http-port", "0")
    settings = ("webhooks.enabled=true", "webhooks.allow=127.0.0.1")
    with node(*place, *(part for one in settings for part in ("--set", one)), folder=tmp_path) as found:
        yield found


def test_they_wait_say_why_and_come_when_it_answers(on: Node) -> None:
    assert COUNT < DEFAULT_PAGE
    port = free_port()
    url = f"http://127.0.0.1:{port}/hook"
    with Client(f"127.0.0.1:{on.grpc_port}") as client:
        lost = [client.webhook(url, retry=0) for _ in range(FAILURES)]
        on.until(lambda: all(client.get(one.id).state is TaskState.FAILED for one in lost))
        # None is lost for want of a connection, those that are sent once at most included.
        ways = ("at_least_once", "at_most_once")
        tasks = [NewTask.webhook(url, data=b"x", delivery=ways[number % 2]) for number in range(COUNT)]
        assert client.schedule_many(tasks).created == COUNT

        def waiting() -> list[dict[str, Any]]:
            """Those that were put off, for longer than the longest pause."""
            _, _, answer = on.call("GET", "/v1/tasks?type=http&state=scheduled")
            late_ms = (time.time() + 20) * 1_000
            return [one for one in answer["tasks"] if one["deliveries"] and one["due_ms"] > late_ms]

        shown = on.until(lambda: found if len(found := waiting()) >= COUNT - FAILURES else None)
        assert all(f"http://127.0.0.1:{port} did not answer" in one["reason"] for one in shown), "lists say it, too"
        _, _, moved = on.call("GET", f"/v1/tasks/{shown[0]['id']}")
        assert f"http://127.0.0.1:{port} did not answer" in moved["reason"] and "no attempt" in moved["reason"]
        client.cancel(shown[1]["id"])
        due = client.reschedule(moved["id"], delay="1h").due
        receiver = Receiver(port=port)
        receiver.start()
        try:
            receiver.wait("/hook", COUNT - 2)
        finally:
            receiver.stop()
        assert len({one.headers["webhook-id"] for one in receiver.requests}) == len(receiver.requests) == COUNT - 2
        assert client.get(moved["id"]).due == due
