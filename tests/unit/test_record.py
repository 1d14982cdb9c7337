"""Records and bodies as bytes. tests/integration/test_store_record.py holds Lua to the same layout."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delaybox.core import ids
from delaybox.core.delivery import Delivery
from delaybox.core.errors import InvalidTask
from delaybox.core.lane import NAMED
from delaybox.core.limits import MAX_DUE_MS
from delaybox.core.needs import WorkerNeeds
from delaybox.core.retry import DEFAULT_RETRY, RetryPolicy
from delaybox.core.task import DeliveryMode, NewTask, Priority, TaskType, UniqueWhile
from delaybox.core.webhook import Webhook
from delaybox.store.record import (
    STUB_OVER,
    UnreadableRecord,
    delivery_of,
    draft,
    extension_entries,
    read,
    read_dead,
)
from delaybox.wire import body as wire_body
from delaybox.wire import encoded

TASK_ID = (1_800_000_000_000).to_bytes(6, "big") + ids.tails(5, bytes(8))[0]

tasks = st.builds(
    NewTask,
    payload=st.binary(max_size=2_000),
    due_ms=st.none() | st.integers(0, MAX_DUE_MS),
    type=st.sampled_from(TaskType),
    queue=st.sampled_from(["default", "mail", "a" * 64]),
    priority=st.sampled_from(Priority),
    header=st.dictionaries(st.text(max_size=20), st.binary(max_size=20), max_size=3),
    name=st.from_regex(r"\A[A-Za-z0-9._-]{0,128}\Z"),
    idempotency_key=st.none() | st.text(min_size=1, max_size=64),
    retry=st.none() | st.just(RetryPolicy(max_attempts=7, initial_ms=10, factor=1.5, max_ms=99, jitter=0.25)),
    timeout_ms=st.integers(0, 10**9),
    expire_after_ms=st.sampled_from([0, 1, 60_000]),
    labels=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
)


@given(tasks)
def test_a_new_task_reads_back(task: NewTask) -> None:
    d = draft(task)
    r = read(TASK_ID, d.record)
    assert (r.type, r.queue, r.priority) == (task.type, task.queue, int(task.priority))
    assert (r.attempt, r.losses, r.deliveries, r.due_ms) == (0, 0, 0, 1_800_000_000_000)
    assert r.key == (task.idempotency_key.encode() if task.idempotency_key is not None else None)
    assert r.stub == (d.body is not None)
    assert r.look == (task.expire_after_ms > 0)
    body = d.body if d.body is not None else r.body
    assert r.stub == (len(body) > STUB_OVER)
    message = wire_body.decode(body)
    assert (message.payload, dict(message.header)) == (task.payload, dict(task.header))
    assert (r.name, message.name) == ((task.name, "") if task.type in NAMED else ("", task.name))
    assert dict(message.labels) == dict(task.labels) and message.timeout_ms == task.timeout_ms
    assert wire_body.retry_of(message, DEFAULT_RETRY) == (task.retry or DEFAULT_RETRY)
    assert d.due48 == (task.due_ms or 0)


def test_a_delay_is_marked_in_the_template() -> None:
    assert draft(NewTask(delay_ms=1_500, due_ms=7)).due48 == ids.RELATIVE | 1_500


@given(st.binary(max_size=40))
def test_reading_anything_raises_nothing_else(raw: bytes) -> None:
    try:
        read(TASK_ID, raw)
    except UnreadableRecord:
        return


@st.composite
def leased(draw: st.DrawFn) -> bytes:
    """A record in the full shape, as claims leave it, or the beginning of one."""
    kind, flags = draw(st.sampled_from([0x11, 0x21])), draw(st.integers(0, 31))
    lane = draw(st.sampled_from([b"pdefault", b"wdefault:f", b"h", b""]))
    raw = struct.pack(">BBHBIHIB", kind, flags, 3, draw(st.integers(0, 255)), 70_000, 419, 7, len(lane)) + lane
    if flags & 8:
        raw += draw(st.sampled_from([b"\0\3key", b"\0\0"]))
    if kind == 0x21:
        raw += draw(st.sampled_from([b"\0\0", b"\0\3\5\0\0", b"\0\6\7\0\3a\0b"]))
    raw += draw(st.binary(max_size=4))
    return raw[: draw(st.integers(0, len(raw)))] if draw(st.booleans()) else raw


@given(leased())
def test_the_delivery_of_a_leased_record_is_what_the_record_says(raw: bytes) -> None:
    try:
        r = read(TASK_ID, raw)
    except UnreadableRecord:
        with pytest.raises((UnreadableRecord, IndexError)):
            delivery_of(TASK_ID, raw, 3, b"lease", 9)
        return
    if not r.lane and raw[0] == 0x11:
        return
    assert delivery_of(TASK_ID, raw, 3, b"lease", 9) == Delivery(
        task_id=TASK_ID, partition=3, lease_id=b"lease", token=r.deliveries, attempt=r.attempt, losses=r.blamed,
        due_ms=r.due_ms, lane=r.lane, stub=r.stub, body=r.body, look=r.look, once=r.once, priority=r.priority,
        fired_ms=9, limit_keys=r.limit_keys, extended=bool(r.extension),
        lent=bool(r.extension) and extension_entries(r.extension).keys().isdisjoint({4, 15, 16, 20}),
    )  # fmt: skip


@given(st.binary(max_size=40))
def test_reading_any_dead_letter_raises_nothing_else(raw: bytes) -> None:
    try:
        read_dead(TASK_ID, raw)
    except UnreadableRecord:
        return


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 100_000])
def test_the_short_cut_for_plain_payloads_is_what_protobuf_writes(size: int) -> None:
    payload = bytes(size)
    mine = wire_body.encode(NewTask(payload=payload))
    assert wire_body.decode(mine).payload == payload
    assert mine == wire_body.decode(mine).SerializeToString()


@given(
    st.dictionaries(st.text(max_size=200), st.binary(max_size=300), min_size=1, max_size=4),
    st.sampled_from([b"", b"x", bytes(20_000)]),
)
def test_the_short_cut_for_headers_says_what_protobuf_reads(header: dict[str, bytes], payload: bytes) -> None:
    mine = wire_body.encode(NewTask(payload=payload, header=header))
    message = wire_body.decode(mine)
    assert (dict(message.header), message.payload) == (header, payload)
    assert len(mine) == message.ByteSize()


def test_published_is_the_body_with_its_id() -> None:
    message = wire_body.decode(wire_body.published(ids.render(TASK_ID), wire_body.encode(NewTask(payload=b"x"))))
    assert (message.taskUuid, message.payload) == (ids.render(TASK_ID), b"x")


BASE: dict[str, Any] = {"payload": b"a", "due_ms": 5, "header": {"k": b"v"}, "labels": {"l": "m"}}


IN_EVERY_RECORD = {"payload", "due_ms", "delay_ms", "type", "queue", "priority"}
"""Fields whose values stand in a record without an extension, and in a body that is a payload alone."""
BY_OTHERS = {"reject_past", "queue_unstated", "on_conflict", "max_wait_ms", "fairness_weight"}
"""Fields that whoever stores the task goes by, or that say something about a key that another field has."""
OTHER_VALUES: dict[str, Any] = {
    "header": {"k": b"v"}, "name": "n", "idempotency_key": "k", "retry": RetryPolicy(), "timeout_ms": 1,
    "expire_after_ms": 1, "labels": {"l": "m"}, "keep_result_ms": 1, "max_snooze_ms": 1,
    "unique_while": UniqueWhile.RUNNING, "delivery": DeliveryMode.AT_MOST_ONCE, "group": "g", "fairness_key": "f",
    "needs": WorkerNeeds(cost=2), "zone": "Europe/Berlin", "webhook": Webhook("https://example.org/"),
}  # fmt: skip


def test_a_task_is_plain_only_where_nothing_else_of_it_is_to_be_kept() -> None:
    """A new field of a task must be asked for in `is_plain`, or records would lack it."""
    assert encoded.is_plain(NewTask(payload=b"x", due_ms=5))
    assert set(NewTask.__struct_fields__) == {*IN_EVERY_RECORD, *BY_OTHERS, *OTHER_VALUES}
    for name, value in OTHER_VALUES.items():
        assert not encoded.is_plain(NewTask(payload=b"x", due_ms=5, **{name: value})), name
    for named in NAMED:
        assert encoded.is_plain(NewTask(type=named, name="n")), "it stands in the lane"


@pytest.mark.parametrize(
    "change",
    [
        {"payload": b"b"}, {"due_ms": 6}, {"delay_ms": 5}, {"header": {"k": b"w"}}, {"header": {"kv": b""}},
        {"labels": {"l": "n"}}, {"queue": "q"}, {"type": TaskType.HTTP}, {"priority": Priority.LOW}, {"name": "n"},
        {"header": {}, "labels": {"k": "v", "l": "m"}},
        {"timeout_ms": 1}, {"expire_after_ms": 1}, {"retry": RetryPolicy(max_attempts=2)},
    ],
)  # fmt: skip
def test_another_task_has_another_fingerprint(change: dict[str, Any]) -> None:
    assert wire_body.fingerprint(NewTask(**{**BASE, **change})) != wire_body.fingerprint(NewTask(**BASE))


def test_the_same_task_has_the_same_fingerprint() -> None:
    one = NewTask(**{**BASE, "header": {"a": b"1", "b": b"2"}, "idempotency_key": "x"})
    two = NewTask(**{**BASE, "header": {"b": b"2", "a": b"1"}, "idempotency_key": "y"})
    assert wire_body.fingerprint(one) == wire_body.fingerprint(two)
    assert len(wire_body.fingerprint(one)) == 8


def test_fingerprints_are_part_of_the_stored_format() -> None:
    """Kept keys are compared with them after an upgrade."""
    assert wire_body.fingerprint(NewTask(payload=b"pay", due_ms=1_800_000_000_000)).hex() == "f244ea6a150edd60"


@pytest.mark.parametrize(
    "bad",
    [
        {"due_ms": 10**14 + 1},
        {"due_ms": 2**47},
        {"due_ms": 2**47 + 5},
        {"due_ms": 2**48},
        {"delay_ms": -1},
        {"delay_ms": 10**14 + 1},
        {"delay_ms": 2**47},
        {"delay_ms": 2**48 + 5},
    ],
)
def test_a_time_that_no_id_can_carry_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidTask, match="out of range"):
        draft(NewTask(**bad))


def test_a_time_before_1970_is_past() -> None:
    assert draft(NewTask(due_ms=-5)).due48 == 0
