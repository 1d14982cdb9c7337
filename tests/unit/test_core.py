"""Ids, lanes, partitions and retries: pure rules, some of them part of the stored format."""

from __future__ import annotations

import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delaybox.core import ids
from delaybox.core.errors import InvalidTask
from delaybox.core.lane import NAMED, Lane, check_name, lane_of, split
from delaybox.core.limits import MAX_DUE_MS, MAX_PARTITIONS
from delaybox.core.partition import of_key
from delaybox.core.retry import DEFAULT_RETRY, NO_RETRY, RetryPolicy
from delaybox.core.task import TaskType


@given(
    due=st.integers(0, MAX_DUE_MS),
    partition=st.integers(0, MAX_PARTITIONS - 1),
    noise=st.binary(min_size=8, max_size=8),
)
def test_an_id_carries_due_time_and_partition(due: int, partition: int, noise: bytes) -> None:
    (tail,) = ids.tails(partition, noise)
    raw = due.to_bytes(6, "big") + tail
    assert len(raw) == ids.ID_BYTES
    assert (ids.due_ms(raw), ids.partition(raw)) == (due, partition)
    text = ids.render(raw)
    assert ids.parse(text) == ids.parse(text.upper()) == raw
    seen = uuid.UUID(text)
    assert seen.version == 8 and seen.variant == uuid.RFC_4122


@given(a=st.integers(0, MAX_DUE_MS), b=st.integers(0, MAX_DUE_MS), noise=st.binary(min_size=16, max_size=16))
def test_ids_sort_by_due_time(a: int, b: int, noise: bytes) -> None:
    first, second = ids.tails(0, noise)
    if a < b:
        assert a.to_bytes(6, "big") + first < b.to_bytes(6, "big") + second


@given(st.binary(min_size=80, max_size=80))
def test_ids_of_one_batch_ascend(noise: bytes) -> None:
    tails = ids.tails(7, noise)
    assert tails == sorted(tails) and len(tails) == 10


def test_a_delay_in_a_template_cannot_be_a_due_time() -> None:
    assert MAX_DUE_MS < ids.RELATIVE < 2**48
    # A delay past the last due time still leaves room below 48 bits once the clock is added.
    assert ids.RELATIVE | 10**13 < 2**48


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "not-a-uuid", "0" * 31, str(uuid.UUID(int=0)), str(uuid.UUID(int=1, version=4)),
        "01a2b3c4-d5e6-8001-9f00-1122334455 6", "01a2b3c4-d5e6-8001-9f00-11223344556_",
    ],
)  # fmt: skip
def test_what_is_no_id_is_refused_in_words(text: str) -> None:
    with pytest.raises(InvalidTask, match="UUID") as caught:
        ids.parse(text)
    assert caught.value.field == "id" and repr(text) in str(caught.value)


@given(
    st.sampled_from(list(TaskType)),
    st.from_regex(r"\A[a-z0-9._-]{1,64}\Z"),
    st.from_regex(r"\A[A-Za-z0-9._-]{0,128}\Z"),
)
def test_a_lane_is_type_queue_and_for_some_types_name(task_type: TaskType, queue: str, name: str) -> None:
    lane = lane_of(task_type, queue, name)
    assert split(lane) == Lane(task_type, queue, name if task_type in NAMED else "")
    assert len(lane) < 256


@pytest.mark.parametrize(
    ("task_type", "name", "words"),
    [
        (TaskType.WORKER, "", "name is missing"),
        (TaskType.WORKER, "a:b", "is not a name"),
        (TaskType.WORKER, "x" * 129, "is not a name"),
        (TaskType.SHELL_CMD, "two words", "is not a name"),
        (TaskType.PUB_SUB, "f", "says nothing to a pub_sub task"),
    ],
)
def test_a_wrong_name_is_refused_in_words(task_type: TaskType, name: str, words: str) -> None:
    with pytest.raises(InvalidTask, match=words) as caught:
        check_name(task_type, name)
    assert caught.value.field == "name"


def test_the_default_queue_costs_nothing() -> None:
    assert lane_of(TaskType.PUB_SUB, "default") == b"p"
    assert lane_of(TaskType.WORKER, "mail") == b"wmail"


def test_the_partition_of_a_key_is_part_of_the_stored_format() -> None:
    assert [of_key(k, 16) for k in (b"", b"a", b"order-1", b"\xff" * 256)] == [5, 5, 3, 13]
    assert [of_key(b"order-1", 2**i) for i in range(13)] == [of_key(b"order-1", 4096) % 2**i for i in range(13)]


def test_partitions_are_filled_evenly() -> None:
    counts = [0] * 16
    for i in range(16_000):
        counts[of_key(f"key-{i}".encode(), 16)] += 1
    assert min(counts) > 850 and max(counts) < 1_150


def test_retries_grow_to_their_ceiling() -> None:
    policy = RetryPolicy(initial_ms=100, factor=2, max_ms=1_000, jitter=0)
    assert [policy.delay_ms(n, 0.5) for n in range(1, 7)] == [100, 200, 400, 800, 1_000, 1_000]
    assert policy.delay_ms(10**6, 0.5) == 1_000, "no overflow"


def test_full_jitter_spreads_from_nothing_to_the_ceiling() -> None:
    assert DEFAULT_RETRY.delay_ms(3, 0.0) == 0
    assert DEFAULT_RETRY.delay_ms(3, 0.5) == 2_000
    draw = random.Random(1)
    delays = [DEFAULT_RETRY.delay_ms(3, draw.random()) for _ in range(1_000)]
    assert min(delays) < 100 and 3_900 < max(delays) < 4_000


def test_half_jitter_keeps_half() -> None:
    policy = RetryPolicy(initial_ms=1_000, jitter=0.5)
    assert (policy.delay_ms(1, 0.0), policy.delay_ms(1, 0.999)) == (500, 999)


def test_no_retry_is_one_attempt() -> None:
    assert NO_RETRY.max_attempts == 1 and DEFAULT_RETRY.max_attempts == 5
