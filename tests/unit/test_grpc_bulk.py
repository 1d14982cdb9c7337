"""Batches taken apart by hand give what the real parser gives, whoever wrote them."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from delaybox.core import ids
from delaybox.core.errors import DelayBoxError
from delaybox.core.task import NewTask
from delaybox.service.submit import Submitter
from delaybox.store.record import Draft, draft
from delaybox.wire.encoded import EncodedTask
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.in_trace import each_with_trace, with_trace
from delaybox.wire.json.tasks import TaskRules
from delaybox.wire.proto.bulk import BatchReader, frames, plain, stored
from delaybox.wire.proto.tasks import new_task

NO_STORE: Any = SimpleNamespace(shards=None)
SUBMITTER = Submitter(NO_STORE)
RULES = TaskRules(max_payload_bytes=2_000)
TRACE = {"traceparent": b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
NOW = time.time_ns() // 1_000_000

times = st.one_of(st.integers(0, 2**64 - 1), st.integers(NOW - 10, NOW + 10**10), st.integers(0, 200))
whens: Any = st.one_of(
    st.just({}), st.fixed_dictionaries({"due_ms": times}), st.fixed_dictionaries({"delay_ms": times})
)
kinds = st.fixed_dictionaries(
    {},
    optional={
        "type": st.integers(0, 5),
        "queue": st.sampled_from(["a", "default", "A", "é", "x" * 64, "x" * 300]),
        "priority": st.integers(0, 5),
        "name": st.sampled_from(["f", "f g", "n" * 128]),
        "labels": st.just({"a": "b"}),
        "headers": st.just({"a": b"b"}),
        "timeout_ms": st.just(5),
        "expire_after_ms": st.just(5),
        "keep_result_ms": st.just(5),
        "max_snooze_ms": st.just(5),
        "delivery": st.just(1),
        "idempotency_key": st.just("k"),
        "retry": st.just({"max_attempts": 2}),
    },
)
# What every item of a map has.
calls = st.fixed_dictionaries(
    {
        "type": st.just(3),
        "name": st.sampled_from(["f", "g"]),
        "keep_result_ms": st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 300), st.just(60_000)),
    },
    optional={"queue": st.sampled_from(["a", "default"]), "priority": st.integers(0, 3)},
)
payloads = st.one_of(
    st.binary(max_size=20), st.sampled_from([b"x" * n for n in (127, 128, 1_018, 1_022, 1_025, 2_001)])
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A serialized NewTask, at times one that no library would write like that."""
    known: Any = draw(st.one_of(kinds, calls))
    parts = [pb.NewTask(payload=draw(payloads)), pb.NewTask(**draw(whens)), pb.NewTask(**known)]
    raw = [part.SerializeToString() for part in parts]
    if draw(st.booleans()):
        raw = draw(st.permutations([*raw, *draw(st.lists(st.sampled_from(raw), max_size=2)), b"\xf8\x07\x01"]))
    return b"".join(raw)


def read(asked: pb.NewTask) -> NewTask:
    return new_task(asked, RULES)


def outcome(make: object) -> Draft | tuple[str, str]:
    try:
        return make()  # type: ignore[operator, no-any-return]
    except DelayBoxError as error:
        return (error.code, str(error))


@given(st.lists(messages(), min_size=1, max_size=4), st.booleans())
def test_the_quick_way_gives_what_the_slow_one_does(raws: list[bytes], traced: bool):
    trace = TRACE if traced else {}
    batch = b"".join(
        pb.ScheduleBatchRequest(tasks=[pb.NewTask()]).SerializeToString()[:1] + size(raw) + raw for raw in raws
    )
    reader = BatchReader(RULES.max_payload_bytes)
    for _ in range(2):  # the second time the kinds are known
        items = list(each_with_trace(reader.tasks(batch, read), trace))
        assert len(items) == len(raws)
        for raw, item in zip(raws, items, strict=True):
            slow = outcome(lambda raw=raw: draft(with_trace(read(pb.NewTask.FromString(raw)), trace)))
            fast = outcome(lambda item=item: SUBMITTER._draft_of(item))
            if isinstance(slow, Draft) and isinstance(fast, Draft) and not slow.record.endswith(b"\x1a\x00"):
                # An empty payload may be written or left out.
                fast.record = fast.record.removesuffix(b"\x1a\x00")
            assert fast == slow


@given(st.lists(messages(), min_size=1, max_size=4))
def test_messages_that_stand_ready_give_what_their_bytes_do(raws: list[bytes]):
    tasks = [pb.NewTask.FromString(raw) for raw in raws]
    batch = pb.ScheduleBatchRequest(tasks=tasks).SerializeToString()
    reader, ready = BatchReader(RULES.max_payload_bytes), BatchReader(RULES.max_payload_bytes)
    for _ in range(2):  # the second time the kinds are known
        by_bytes = [outcome(lambda item=item: SUBMITTER._draft_of(item)) for item in reader.tasks(batch, read)]
        assert [
            outcome(lambda item=item: SUBMITTER._draft_of(item)) for item in ready.messages(tasks, read)
        ] == by_bytes


def size(raw: bytes) -> bytes:
    out, value = bytearray(), len(raw)
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@given(st.binary(max_size=60))
def test_any_bytes_are_a_batch_or_are_not(raw: bytes):
    try:
        message: pb.ScheduleBatchRequest | None = pb.ScheduleBatchRequest.FromString(raw)
    except DecodeError:
        message = None
    try:
        whole, places = frames(raw)
    except DecodeError:
        assert message is None
        return
    for at, stop in places:
        plain(whole, at, stop, 1_000)
    if message is not None:
        assert [pb.NewTask.FromString(whole[at:stop]) for at, stop in places] == list(message.tasks)


def test_what_is_usual_is_read_the_quick_way():
    task = pb.NewTask(payload=b"x" * 200, due_ms=NOW, queue="mail", type=pb.TASK_TYPE_WORKER, name="f")
    batch = pb.ScheduleBatchRequest(tasks=[task]).SerializeToString()
    reader = BatchReader(1_000)
    (first,) = reader.tasks(batch, read)

    def never(_: pb.NewTask) -> NewTask:
        raise AssertionError("the kind is known")

    (second,) = reader.tasks(batch, never)
    assert isinstance(second, EncodedTask)
    assert (second.due48, len(second.body)) == (NOW, 203)
    assert SUBMITTER._draft_of(second) == SUBMITTER._draft_of(first)
    for message in (task, pb.NewTask(payload=b"x" * 200, delay_ms=5, queue="mail", type=pb.TASK_TYPE_WORKER, name="f")):
        (ready,) = reader.messages([message], never)
        assert isinstance(ready, EncodedTask) and ready.body == second.body


def test_a_shell_task_is_asked_about_each_time():
    asked: list[pb.NewTask] = []
    task = pb.NewTask(payload=b"date", type=pb.TASK_TYPE_SHELL_CMD)
    batch = pb.ScheduleBatchRequest(tasks=[task]).SerializeToString()
    reader = BatchReader(1_000)

    def ask(message: pb.NewTask) -> NewTask:
        asked.append(message)
        raise DelayBoxError("no")

    for _ in range(2):
        (answer,) = reader.tasks(batch, ask)
        assert isinstance(answer, DelayBoxError)
    assert len(asked) == 2


@given(st.binary(min_size=16, max_size=16), st.integers(1, 2**48 - 1), st.booleans())
def test_an_entry_by_hand_is_what_the_library_reads(task_id: bytes, due_ms: int, created: bool) -> None:
    entries = stored(task_id, due_ms, created=created) * 2
    result = pb.ScheduleResult(id=ids.render(task_id), due_ms=due_ms, created=created)
    assert pb.ScheduleBatchResponse.FromString(entries) == pb.ScheduleBatchResponse(results=[result, result])
