"""Results stay bytes on their way from a worker to the store and to whoever waits; bodies are decoded once."""

from __future__ import annotations

from typing import Any

import pytest

from delaybox.core.delivery import Delivery, Done, Failed, Snoozed
from delaybox.core.queue import LiveRules
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import CANCELLED, TaskResult, TaskState
from delaybox.engine.verdicts import Verdicts
from delaybox.wire import body as wire_body
from delaybox.wire import result as wire_result
from delaybox.wire.gen import scheduler_pb2, task_pb2
from delaybox.wire.proto import views
from delaybox.wire.standing import Standing

ID = bytes(range(16))


@pytest.mark.parametrize("content_type", ["", "text/plain; charset=utf-8"])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 70_000])
@pytest.mark.parametrize("duration_ms", [0, 3, 1 << 53])
def test_what_is_written_by_hand_is_what_the_library_writes(size: int, duration_ms: int, content_type: str) -> None:
    output = b"\x00" * size
    expected = task_pb2.Result(
        ok=True, finished_ms=1_764_000_000_000, duration_ms=duration_ms, output=output, content_type=content_type
    )
    made = wire_result.success(output, content_type, finished_ms=1_764_000_000_000, duration_ms=duration_ms)
    assert made == expected.SerializeToString()


def test_a_stored_result_comes_to_whoever_waits_byte_for_byte() -> None:
    # In an order in which the library would not write them, and with a field of a later version.
    stored = b"\x2a\x02hi" + b"\x08\x01" + b"\xf8\x7f\x05"
    kept = wire_result.found(stored)
    assert (kept.state, kept.stored) == (TaskState.SUCCEEDED, stored)
    (answer,) = views.events([(ID, Standing(kept.state, 5, 2, kept.reason, kept.stored))])
    assert stored in answer
    (event,) = scheduler_pb2.WatchResponse.FromString(answer).events
    assert (event.id, event.state, event.attempt) == (
        "00010203-0405-0607-0809-0a0b0c0d0e0f", scheduler_pb2.TASK_STATE_SUCCEEDED, 2
    )  # fmt: skip
    assert (event.result.ok, event.result.output) == (True, b"hi")


def test_what_a_stored_result_means() -> None:
    def found(**fields: Any) -> tuple[TaskState, str]:
        kept = wire_result.found(wire_result.encode(TaskResult(finished_ms=1, **fields)))
        return kept.state, kept.reason

    assert found(ok=True) == (TaskState.SUCCEEDED, "")
    assert found(ok=False, reason="no") == (TaskState.FAILED, "no")
    assert found(ok=False, reason=CANCELLED) == (TaskState.CANCELLED, CANCELLED)
    # One that is damaged must not make the answer on other tasks unreadable.
    assert wire_result.found(b"\x2a\x7fcut") == wire_result.found(b"")


def test_answers_hold_a_megabyte_and_a_thousand_events_at_most() -> None:
    large = Standing(TaskState.SUCCEEDED, result=wire_result.success(b"x" * 400_000, "", finished_ms=1, duration_ms=1))
    assert [len(parsed(raw)) for raw in views.events([(ID, large)] * 7)] == [3, 3, 1]
    small = Standing(TaskState.RUNNING, reason="r", progress=b"\xff")
    assert [len(parsed(raw)) for raw in views.events([(ID, small)] * 2_500)] == [1_000, 1_000, 500]


def parsed(raw: bytes) -> list[scheduler_pb2.TaskEvent]:
    return list(scheduler_pb2.WatchResponse.FromString(raw).events)


@pytest.mark.parametrize(
    "outcome",
    [
        Failed("no", result=TaskResult(ok=False, finished_ms=1), keep_ms=1),
        Snoozed("later", None, result=TaskResult(ok=False, finished_ms=1), keep_ms=1),
        Done(TaskResult(ok=True, finished_ms=1), keep_ms=1),
    ],
)
def test_the_body_is_decoded_once_for_an_end_and_not_at_all_for_a_payload_alone(
    outcome: Failed | Snoozed | Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    decode = wire_body.decode

    def counted(body: bytes) -> task_pb2.Task:
        read.append(body)
        return decode(body)

    monkeypatch.setattr(wire_body, "decode", counted)
    judged = Verdicts(LiveRules(), RetryPolicy())

    def keeps_ms(body: bytes) -> int:
        d = Delivery(ID, 0, b"lease", 1, 0, 0, 5, b"wdefault:f", False, body)
        if isinstance(outcome, Failed):
            return judged.of_failure(d, outcome).keep_ms
        if isinstance(outcome, Snoozed):
            return judged.of_snooze(d, outcome).keep_ms
        return judged.of_success(d, outcome)[1]

    asks = task_pb2.Task(payload=b"[]", keep_result_ms=3_600_000).SerializeToString()
    assert keeps_ms(asks) == 3_600_000 and read == [asks]
    assert keeps_ms(wire_body.of_payload(b"[]")) == 60_000 and read == [asks]
    assert keeps_ms(b"\xff") == 60_000 and read == [asks, b"\xff"]
