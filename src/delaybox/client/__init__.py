"""The Python client: `Client`, and `AsyncClient` for asyncio.

One core without I/O (steps, retries, streams, mapping: generators of effects; calls, tasks, models, errors, endpoints:
plain values) and two shells that carry its effects out (threads, loop). Needs none of the node's parts.
"""

from __future__ import annotations

from delaybox.client.async_client import AsyncClient, AsyncHandle
from delaybox.client.client import Client, Handle
from delaybox.client.errors import (
    CallTimeout,
    NotFinished,
    OutcomeUnknown,
    Refused,
    ResultGone,
    TaskCancelled,
    TaskFailed,
    Unreachable,
)
from delaybox.client.failed_attempts import FailedAttempt
from delaybox.client.feed import EventFilter, FeedEvent
from delaybox.client.fleet import ScalingNeed, ScalingTerm
from delaybox.client.models import (
    BulkDone,
    EndedTask,
    Event,
    ForecastStep,
    Priority,
    Progress,
    Queue,
    QueueRules,
    Result,
    Retry,
    Scheduled,
    Task,
    TaskState,
    TaskType,
)
from delaybox.client.new_tasks import CODECS, CallOptions, Filter, NewTask, Options, RulesToSet
from delaybox.core.errors import (
    DelayBoxError,
    IdempotencyConflict,
    InvalidTask,
    KeyCancelled,
    NotDecodable,
    NotEncodable,
    Overloaded,
    PastDue,
    StoreUnavailable,
    TaskFinished,
    TaskNotFound,
    TaskRunning,
)
from delaybox.wire.call import Call, Codecs

__all__ = [
    "CODECS",
    "AsyncClient",
    "AsyncHandle",
    "BulkDone",
    "Call",
    "CallOptions",
    "CallTimeout",
    "Client",
    "Codecs",
    "DelayBoxError",
    "EndedTask",
    "Event",
    "EventFilter",
    "FailedAttempt",
    "FeedEvent",
    "Filter",
    "ForecastStep",
    "Handle",
    "HistoryFilter",
    "IdempotencyConflict",
    "InvalidTask",
    "KeyCancelled",
    "NewTask",
    "NotDecodable",
    "NotEncodable",
    "NotFinished",
    "Options",
    "OutcomeUnknown",
    "Overloaded",
    "PastDue",
    "Priority",
    "Progress",
    "Queue",
    "QueueRules",
    "Refused",
    "Result",
    "ResultGone",
    "Retry",
    "RulesToSet",
    "ScalingNeed",
    "ScalingTerm",
    "Scheduled",
    "StoreUnavailable",
    "Task",
    "TaskCancelled",
    "TaskFailed",
    "TaskFinished",
    "TaskNotFound",
    "TaskRunning",
    "TaskState",
    "TaskType",
    "Unreachable",
]
