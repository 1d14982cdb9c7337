"""Bounds of docs/bounds.md on what one process holds, each filled: what is past it is refused, cut or forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from delaybox.api.grpc import guard as grpc_guard
from delaybox.api.grpc.guard import Guard
from delaybox.api.tokens import Tokens
from delaybox.core.errors import Overloaded
from delaybox.core.scopes import Access
from delaybox.engine import calls
from delaybox.engine.calls import WorkerCalls
from delaybox.targets import http_client
from delaybox.targets.http_client import HttpClient
from delaybox.worker import logs, metrics_port
from delaybox.worker.metrics_port import MetricsPort
from tests.waiting import until


def test_further_callers_of_a_workers_port_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port, "_MOST_CALLERS", 3)
    port = MetricsPort("127.0.0.1", 0, lambda path, _: (200, metrics_port.TEXT, path.encode()))
    port.start()
    address = "127.0.0.1", int(port.address.rpartition(":")[2])
    try:
        with contextlib.ExitStack() as stack:
            silent = [stack.enter_context(socket.create_connection(address, 30)) for _ in range(3)]
            until(lambda: len(port._callers) == 3)
            further = stack.enter_context(socket.create_connection(address, 30))
            assert further.recv(1) == b"", "it is closed without an answer"
            silent[0].close()
            until(lambda: len(port._callers) == 2)
            after = stack.enter_context(socket.create_connection(address, 30))
            after.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert after.recv(12) == b"HTTP/1.1 200"
    finally:
        port.stop()


async def test_idle_connections_and_names_of_hosts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_MOST_IDLE", 3)
    monkeypatch.setattr(http_client, "_NAMES_KEPT", 3)
    closed: list[int] = []

    class Open:
        open = True
        idle_since = 0.0

        def __init__(self, number: int) -> None:
            self.number = number

        def close(self) -> None:
            closed.append(self.number)

    async def resolve(host: str) -> list[str]:
        return [host]

    client = HttpClient(SimpleNamespace(), resolve=resolve)  # type: ignore[arg-type]
    for n in range(5):
        client._keep(("https", f"h{n}", 443, "192.0.2.1"), Open(n))  # type: ignore[arg-type]
        await client._ask(f"h{n}", float(n))
    assert closed == [0, 1] and client._idle_count == 3, "those that were kept first go first"
    assert list(client._names) == ["h2", "h3", "h4"]


def test_calls_of_grpc_and_what_they_hold_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_guard, "HELD_LIMIT", 100)
    monkeypatch.setattr(grpc_guard, "MAX_CALLS", 2)
    guard = Guard(Tokens(()), limit=1_000, message_s=1.0, know=lambda peer: None)
    with guard.hold(60):
        with pytest.raises(Overloaded), guard.hold(41):
            pass
        with guard.hold(40):
            pass
    with guard.hold(100):
        pass
    context: Any = SimpleNamespace(
        time_remaining=lambda: None, invocation_metadata=lambda: None, peer=lambda: "ipv4:192.0.2.1:1"
    )
    with guard.admitted(context, Access.READ):
        with guard.admitted(context, Access.READ), pytest.raises(Overloaded), guard.admitted(context, Access.READ):
            pass
        with guard.admitted(context, Access.READ):
            pass


def test_a_message_that_a_cpu_function_logs_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_MOST_BYTES", 100)
    sent: list[Mapping[str, Any]] = []
    try:
        raise ValueError("x" * 1_000)
    except ValueError as error:
        traced = (type(error), error, error.__traceback__)
    record = logging.LogRecord("f", logging.ERROR, "f.py", 1, "a" * 1_000, (), traced)
    record.note = "b" * 1_000
    logs.Forward(sent.append).handle(record)
    (found,) = sent
    assert all(len(found[name]) <= 101 for name in ("msg", "exc_text", "note")), found


async def test_lanes_that_were_announced_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[str] = []

    async def publish(_: object, __: str, message: str) -> None:
        published.append(message)

    monkeypatch.setattr(calls, "publish", publish)
    monkeypatch.setattr(calls, "_ANNOUNCED_MOST", 10)

    def claimed(_: int) -> bool:
        return False

    mine = WorkerCalls(
        SimpleNamespace(prefix="p"), SimpleNamespace(alone=False), "me", lambda: 0, claimed, lambda _: 0  # type: ignore[arg-type]
    )  # fmt: skip
    lanes: Sequence[bytes] = [b"w%d" % n for n in range(12)]
    for lane in lanes[:11]:
        mine.announce([lane])
        mine.announce([lane])
    assert len(mine._announced) == 11
    mine.announce([lanes[11]])
    assert list(mine._announced) == [lanes[11]], "all are forgotten, and announced again"
    await asyncio.sleep(0)
    assert published == [lane.decode() for lane in lanes], "each once a second"
    mine.stop()
