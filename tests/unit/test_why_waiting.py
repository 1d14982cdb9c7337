"""Why a webhook waits that was handed out and handed back."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from delaybox.core import ids
from delaybox.core.task import FailedAttempt, Priority, TaskState, TaskType, TaskView
from delaybox.core.webhook import Webhook
from delaybox.service.why_waiting import put_off

VIEW = TaskView(
    task_id=ids.render(bytes(16)),
    state=TaskState.SCHEDULED,
    due_ms=1,
    type=TaskType.HTTP,
    queue="default",
    priority=Priority.NORMAL,
    payload=b"",
    header={},
    webhook=Webhook("https://hooks.example.com:8443/secret?key=1"),
    deliveries=1,
)


def failed(delivery: int) -> FailedAttempt:
    return FailedAttempt(attempt=1, fired_ms=1, failed_ms=2, delivery=delivery)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"deliveries": 3, "attempt": 1, "failures": (failed(2),)},
        {"deliveries": 5, "attempt": 1, "losses": 3},
        {"deliveries": 7, "failures": (failed(6),)},
    ],
)
def test_one_that_was_put_off_says_so_and_names_its_host_alone(change: dict[str, Any]) -> None:
    reason = put_off(replace(VIEW, **change)).reason
    assert "https://hooks.example.com:8443 did not answer" in reason and "no attempt" in reason
    assert "secret" not in reason


@pytest.mark.parametrize(
    "change",
    [
        {"deliveries": 0},
        {"state": TaskState.READY},
        {"state": TaskState.RUNNING},
        {"type": TaskType.WORKER, "webhook": None},
        {"reason": "another"},
        # The last time it failed, also after it was brought back and counts anew.
        {"deliveries": 2, "attempt": 2},
        {"deliveries": 9, "attempt": 1, "failures": (failed(8), failed(9))},
        # Of very many failures not all are remembered.
        {"deliveries": 3, "attempt": 3, "failures": (failed(1),)},
    ],
)
def test_any_other_is_shown_as_it_is(change: dict[str, Any]) -> None:
    view = replace(VIEW, **change)
    assert put_off(view) is view
