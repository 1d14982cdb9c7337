"""Which tasks are later than they allow."""

from __future__ import annotations

import pytest

from delaybox.engine.expire_after import is_expired
from tests.desk import delivery


@pytest.mark.parametrize(
    ("due_ms", "first_due_ms", "expired"),
    [(1_000, 0, False), (999, 0, True), (1_900, 999, True), (1_900, 1_000, False), (3_000, 0, False)],
)
def test_a_task_is_late_by_its_first_due_time_however_often_it_was_put_off(
    due_ms: int, first_due_ms: int, expired: bool
) -> None:
    task = delivery(expire_after_ms=1_000)
    task.due_ms, task.first_due_ms = due_ms, first_due_ms
    assert is_expired(task, 2_000) is expired


def test_a_task_that_names_no_such_time_and_one_that_cannot_be_read_are_not() -> None:
    task = delivery()
    assert not is_expired(task, 1e15)
    task.body = b"\xff\xff"
    assert not is_expired(task, 1e15)
