"""Bounds of docs/bounds.md on what a process remembers of what it met, each filled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from delaybox.api.grpc import scheduler
from delaybox.api.grpc.calls import Serialized
from delaybox.api.grpc.scheduler import Scheduler
from delaybox.core import queue, shares
from delaybox.core.delivery import Failed
from delaybox.core.history import HistoryRules
from delaybox.core.queue import LiveRules
from delaybox.core.shares import Shares, Waiting
from delaybox.core.task import NewTask, TaskType
from delaybox.engine import stored
from delaybox.engine.stored import StoredEverywhere, StoreProgress
from delaybox.roles.worker_host import WorkerHost
from delaybox.service import Service, failures
from delaybox.service.failures import FailureNotes
from delaybox.store import unforeseen
from delaybox.store.record import draft
from delaybox.store.unforeseen import Unforeseen
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import worker_pb2
from delaybox.wire.json.tasks import TaskRules
from delaybox.wire.proto import bulk, tasks
from delaybox.wire.proto.bulk import BatchReader
from tests.desk import NOW, delivery

RULES = HistoryRules(keep_ms=60_000)


def test_kinds_of_tasks_and_rules_of_queues_that_were_looked_up_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_MOST_KINDS", 3)
    monkeypatch.setattr(queue, "_MOST_KNOWN", 3)
    reader, rules = BatchReader(1_000), LiveRules()
    for n in range(10):
        new = pb.NewTask(payload=b"x", delay_ms=1_000, queue=f"q{n}")
        raw = pb.ScheduleBatchRequest(tasks=[new]).SerializeToString()
        for _ in range(2):
            (found,) = reader.tasks(raw, lambda asked: tasks.new_task(asked, TaskRules()))
            assert not isinstance(found, BaseException)
        rules.of(f"q{n}")
        assert 1 <= len(reader._kinds) <= 3 and 1 <= len(rules._known) <= 3


def test_queues_whose_start_is_remembered_are_those_that_wait_where_they_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shares, "_MOST_KNOWN", 5)
    turns = Shares(lambda _: 1.0)
    for n in range(100):
        lanes = {b"wq%d:f" % (n % 50): 1, b"wq%d:f" % ((n + 1) % 50): 1}
        waiting = {0: Waiting(0, 2, lanes)}
        (part,) = turns.plan(1, waiting, 10).values()
        turns.took(0, part.lanes)
        assert len(turns._starts) <= 5 + 2


def test_lanes_whose_tasks_come_with_little_notice_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unforeseen, "_MOST_LANES", 3)
    rates = Unforeseen()
    for n in range(20):
        rates.stored([draft(NewTask(type=TaskType.WORKER, name=f"f{n}"))], 1_800_000_000_000)
    assert len(rates._new) == 3
    assert len(rates.per_second(10)) == 3


def test_of_reports_of_progress_the_last_one_of_each_task_waits() -> None:
    host = object.__new__(WorkerHost)
    host._reported, host._idle = {}, False
    held = {n: SimpleNamespace(task_id=b"%d" % n) for n in range(3)}
    session: Any = SimpleNamespace(delivery=held.get)
    for n in range(100):
        report = pb.Progress(fraction=n / 100, message=f"{n} " + "x" * 10_000)
        host.progress(session, worker_pb2.TaskProgress(sequence=n % 5, progress=report))
    assert set(host._reported) == {b"0", b"1", b"2"}, "of tasks that the worker has"
    assert b"95 xxx" in host._reported[b"0"] and max(map(len, host._reported.values())) <= 2_100


def test_marks_of_outcomes_at_several_servers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_MOST_MARKS", 3)
    everywhere, part = StoredEverywhere(), StoreProgress()
    everywhere.add(part)
    marks = []
    for _ in range(10):
        part.reported()
        marks.append(everywhere.mark)
        part.begins()
    assert len(everywhere._marks) == 3 and not any(map(everywhere.is_stored, marks))
    part.ends(all_=True)
    assert all(map(everywhere.is_stored, marks)) and not everywhere._marks


async def test_batches_of_a_stream_that_are_stored_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, may_end = 0, asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(50):
            sent += 1
            yield b""

    async def slow(_request: bytes, _caller: object) -> Serialized:
        await may_end.wait()
        return Serialized(b"")

    calls: Any = Scheduler(Service(), TaskRules())
    monkeypatch.setattr(calls, "_of_stream", slow)
    answers = calls.schedule_stream(requests(), None)
    first = asyncio.ensure_future(anext(answers))
    for _ in range(100):
        await asyncio.sleep(0)
    assert sent == scheduler.BATCHES_UNDER_WAY + 1
    may_end.set()
    await first
    assert len([one async for one in answers]) == 49 and sent == 50


def test_failures_that_wait_for_the_store_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MOST_WAITING", 5)
    notes = FailureNotes(SimpleNamespace(partitions=8, tags=["{p:0}"] * 8), RULES, "n")  # type: ignore[arg-type]
    for _ in range(2):
        for _ in range(20):
            notes.note(delivery(), Failed("no"), NOW)
        assert sum(map(len, notes._waiting.values())) == 5
        (call,) = notes.calls()
        assert call.script == "remember_failures" and not notes.waiting, "then there is room again"
