"""The worker SDK: functions that DelayBox calls at their time."""

from __future__ import annotations

from delaybox.worker import forks  # noqa: F401 - before anything that imports gRPC

# isort: split
from delaybox.client.models import Retry
from delaybox.worker.context import CancelSignal, Context, current
from delaybox.worker.failures import Reject, RetryLater, Stopped
from delaybox.worker.functions import TaskFunction
from delaybox.worker.logs import TaskFilter, add_task_fields
from delaybox.worker.runner import Runner
from delaybox.worker.worker import Worker

__all__ = [
    "CancelSignal",
    "Context",
    "Reject",
    "Retry",
    "RetryLater",
    "Runner",
    "Stopped",
    "TaskFilter",
    "TaskFunction",
    "Worker",
    "add_task_fields",
    "current",
]
