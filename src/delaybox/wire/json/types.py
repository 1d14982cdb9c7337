"""The bodies of ``/v1``: these types parse them, render them, and make the OpenAPI document.

``extra_json_schema`` states what the readers check with messages of their own; msgspec itself checks only the kinds.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from delaybox.core.limits import (
    GROUP,
    LABEL,
    MAX_ATTEMPTS,
    MAX_BATCH,
    MAX_DELAY_MS,
    MAX_DUE_MS,
    MAX_FACTOR,
    MAX_HEADER_BYTES,
    MAX_KEY_BYTES,
    MAX_LABEL_VALUE,
    MAX_LABELS,
    MAX_NAME,
    MIN_DUE_MS,
    QUEUE,
)
from delaybox.core.localtime import MAX_ZONE
from delaybox.core.task import DELIVERY_MODES
from delaybox.wire.json.failure_types import FailedAttempt
from delaybox.wire.json.key_types import OnConflictIn, UniqueWhileIn
from delaybox.wire.json.share_types import Cost, FairnessKey, FairnessWeight, Group, Prefers, Requires
from delaybox.wire.json.webhook_types import CloudEvents, OnFailure, OnSuccess, RetryOn, WebhookMethod, WebhookUrl

TYPES: Final = ("pub_sub", "shell", "http", "worker")
PRIORITIES: Final = ("low", "normal", "high", "critical")
STATES: Final = ("scheduled", "ready", "running", "succeeded", "failed", "cancelled")
QUEUE_PATTERN: Final = f"^{QUEUE.pattern}$"
LABEL_PATTERN: Final = f"^{LABEL.pattern}$"
GROUP_PATTERN: Final = f"^{GROUP.pattern}$"
ID_PATTERN: Final = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-8[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"
_EXAMPLE_ID: Final = "01a2b3c4-d5e6-8001-9f00-112233445566"
_EXAMPLE_DUE: Final = "2030-01-31T08:00:00.000Z"

Id = Annotated[str, Meta(description="the task's id", examples=[_EXAMPLE_ID], extra_json_schema={"format": "uuid"})]
Moment = Annotated[str, Meta(examples=[_EXAMPLE_DUE], extra_json_schema={"format": "date-time"})]
"""RFC 3339, UTC, with milliseconds."""
Millis = Annotated[int, Meta(description="Unix ms", extra_json_schema={"minimum": 0})]
Count = Annotated[int, Meta(extra_json_schema={"minimum": 0})]

_MOMENT: dict[str, Any] = {
    "x-is": {
        "anyOf": [
            {"type": "string", "format": "date-time"},
            {"type": "integer", "minimum": MIN_DUE_MS, "maximum": MAX_DUE_MS},
            {"type": "null"},
        ]
    }
}
"""``x-is`` replaces the Python type in the document."""


def _span(least: int) -> dict[str, Any]:
    kinds = [
        {"type": "string", "format": "delaybox-duration"},
        {"type": "integer", "minimum": least, "maximum": MAX_DELAY_MS},
        {"type": "null"},
    ]
    return {"x-is": {"anyOf": kinds}}


def _whole(least: int, most: int) -> dict[str, Any]:
    return {"x-is": {"type": ["integer", "null"], "minimum": least, "maximum": most}}


Number = str | int | float | None
"""A moment or duration; a float only where it is a whole number (1.7e12), which the readers check."""


EVEN_WEIGHT: Final = 1.0
"""This very object is left out of answers: msgspec compares defaults by identity."""


class LocalTime(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What a clock shows in a time zone. Where clocks go forward, a time that does not exist lies behind the gap; where
    they go back, the first of two is taken, or with `fold` 1 the second."""

    local: Annotated[str, Meta(description="without an offset", examples=["2027-03-28T02:30"])]
    zone: Annotated[
        str,
        Meta(
            description="a name of the IANA database; kept with the task and shown",
            examples=["Europe/Berlin"],
            extra_json_schema={"maxLength": MAX_ZONE},
        ),
    ]
    fold: Annotated[
        int | float | None,
        Meta(description="1: the second of two such times", extra_json_schema=_whole(0, 1)),
    ] = None


At = Annotated[
    Number | LocalTime,
    Meta(
        description="when: RFC 3339 with an offset, Unix ms, or a local time; past: at once. Excludes `delay`; "
        "neither: at once",
        examples=["2030-01-31T09:00:00+01:00", 1896076800000, {"local": "2030-01-31T09:00", "zone": "Europe/Berlin"}],
        extra_json_schema={
            "x-is": {
                "anyOf": [*_MOMENT["x-is"]["anyOf"][:2], {"$ref": "#/components/schemas/LocalTime"}, {"type": "null"}]
            }
        },
    ),
]
Delay = Annotated[
    Number,
    Meta(
        description="how long from now, by the store's clock: ms, `15m`, `1h30m`, or ISO 8601 such as `PT15M`",
        examples=["15m", 1500, "PT1H30M"],
        extra_json_schema=_span(0),
    ),
]


DueFrom = Annotated[Number, Meta(description="due at or after", extra_json_schema=_MOMENT)]
DueTo = Annotated[Number, Meta(description="due before", extra_json_schema=_MOMENT)]


def duration(text: str, example: str, least: int = 1) -> Meta:
    return Meta(description=f"{text}; ms or as `delay`", examples=[example], extra_json_schema=_span(least))


PriorityIn = Annotated[
    str | None, Meta(description='"normal" unless given', extra_json_schema={"enum": [*PRIORITIES, None]})
]
Payload = Annotated[str | None, Meta(description="the payload as text; at most 1 MiB as UTF-8", examples=["hello"])]
PayloadJson = Annotated[
    Raw | UnsetType,
    Meta(description="the payload as JSON, kept as it is written; null is no payload", examples=[{"order": 17}]),
]
PayloadBase64 = Annotated[
    str | None,
    Meta(
        description="the payload as standard base64, padded",
        examples=["aGVsbG8="],
        extra_json_schema={"contentEncoding": "base64", "format": "delaybox-base64"},
    ),
]
Labels = Annotated[
    dict[str, str] | None,
    Meta(
        description=f"for filters: at most {MAX_LABELS} pairs, values of at most {MAX_LABEL_VALUE} characters",
        examples=[{"customer": "c-17"}],
        extra_json_schema={
            "maxProperties": MAX_LABELS,
            "propertyNames": {"pattern": LABEL_PATTERN},
            "anyOf": [
                {"type": "object", "additionalProperties": {"type": "string", "maxLength": MAX_LABEL_VALUE}},
                {"type": "null"},
            ],
        },
    ),
]


class Backoff(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """How long to wait between attempts: `initial`, then `factor` times as long each time, at most `max`."""

    initial: Annotated[Number, duration("wait after the first failure; 1 s unless given", "1s")] = None
    factor: Annotated[
        float | None,
        Meta(description="2 unless given", extra_json_schema={"minimum": 1, "maximum": MAX_FACTOR}),
    ] = None
    max: Annotated[Number, duration("longest wait; 1 h unless given", "1h")] = None
    jitter: Annotated[
        float | None,
        Meta(
            description="share of each wait that is drawn at random: 0 none, 1 all; 1 unless given",
            extra_json_schema={"minimum": 0, "maximum": 1},
        ),
    ] = None


class Retry(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What happens when an attempt fails."""

    max_attempts: Annotated[
        int | float | None,
        Meta(
            description="attempts in all, the first included; 5 unless given",
            extra_json_schema=_whole(1, MAX_ATTEMPTS),
        ),
    ] = None
    backoff: Backoff | None = None


class TaskRequest(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A task to schedule. `null` is the same as leaving a field out."""

    type: Annotated[
        str | None,
        Meta(
            description=(
                '"pub_sub" unless given. "shell" needs a node with shell commands enabled, "http" (calls `url`) one '
                'with webhooks enabled; "worker" calls the function `name` of a connected worker'
            ),
            extra_json_schema={"enum": [*TYPES, None]},
        ),
    ] = None
    queue: Annotated[
        str | None, Meta(description='"default" unless given', extra_json_schema={"pattern": QUEUE_PATTERN})
    ] = None
    priority: PriorityIn = None
    at: At = None
    delay: Delay = None
    payload: Payload = None
    payload_json: PayloadJson = UNSET
    payload_base64: PayloadBase64 = None
    headers: Annotated[
        dict[str, str] | None,
        Meta(
            description=f"travels with the task; at most {MAX_HEADER_BYTES >> 10} KiB. Reserved names, which "
            "are refused: taskType, executionTimestamp, delay, queue, priority, idempotencyKey, and these as ce_ "
            "attributes",
            examples=[{"trace": "4bf9"}],
        ),
    ] = None
    name: Annotated[
        str | None,
        Meta(
            description="function (worker, required) or named command (shell)",
            extra_json_schema={"maxLength": MAX_NAME},
        ),
    ] = None
    url: WebhookUrl = None
    method: WebhookMethod = None
    retry_on: RetryOn = None
    on_success: OnSuccess = None
    on_failure: OnFailure = None
    cloudevents: CloudEvents = None
    retry: Retry | None = None
    timeout: Annotated[Number, duration("longest time of one attempt", "30s")] = None
    expire_after: Annotated[
        Number, duration('late by more than this: not run but dead-lettered as "expired"', "10m")
    ] = None
    idempotency_key: Annotated[
        str | None,
        Meta(
            description="the same key and task again: 200 with the first one's id; remembered for the task's life and "
            "24 h more. The header Idempotency-Key does the same",
            examples=["order-17-timeout"],
            extra_json_schema={"minLength": 1, "maxLength": MAX_KEY_BYTES},
        ),
    ] = None
    labels: Labels = None
    keep_result: Annotated[Number, duration("how long its result is kept, 0 for not at all", "1d", 0)] = None
    max_snooze: Annotated[
        Number, duration("for how long in all its own code may put it off (RetryLater), from the first time", "7d")
    ] = None
    on_conflict: OnConflictIn = None
    max_wait: Annotated[
        Number, duration("with replace: for how long such requests may put the task off, from the first on", "5m")
    ] = None
    unique_while: UniqueWhileIn = None
    delivery: Annotated[
        str | None,
        Meta(
            description="at_most_once: acked before it is handed out. Never carried out twice, and not tried again "
            "when it fails or is lost, so perhaps not at all. Unless given at_least_once",
            extra_json_schema={"enum": list(DELIVERY_MODES)},
        ),
    ] = None
    fairness_key: FairnessKey = None
    fairness_weight: FairnessWeight = None
    cost: Cost = None
    requires: Requires = None
    prefers: Prefers = None
    group: Group = None
    reject_past: Annotated[bool | None, Meta(description="true: a past `at` is 422 and not run at once")] = None


class BatchRequest(Struct, forbid_unknown_fields=True):
    """Up to 10,000 tasks, 16 MiB."""

    tasks: Annotated[
        list[Raw],
        Meta(
            description="each is a TaskRequest; each gets its own answer, in the same order",
            extra_json_schema={
                "x-is": {
                    "type": "array",
                    "items": {"$ref": "#/components/schemas/TaskRequest"},
                    "minItems": 1,
                    "maxItems": MAX_BATCH,
                }
            },
        ),
    ]


class ChangeRequest(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What to change of a pending task; what is left out stays."""

    at: At = None
    delay: Delay = None
    priority: PriorityIn = None
    payload: Payload = None
    payload_json: PayloadJson = UNSET
    payload_base64: PayloadBase64 = None
    labels: Labels = None


class Result(Struct, omit_defaults=True, gc=False):
    """What a finished task left."""

    ok: bool
    finished: Moment
    finished_ms: Millis
    duration_ms: Count
    exit_code: Annotated[int | None, Meta(description="of a command")] = None
    status: Annotated[int, Meta(description="of the answer to a webhook")] = 0
    headers: Annotated[dict[str, str], Meta(description="of that answer")] = {}
    output: Annotated[
        str, Meta(description="what a command printed, or the body of the answer to a webhook, as text")
    ] = ""
    output_base64: Annotated[str, Meta(description="the same when it is not UTF-8")] = ""
    truncated: Annotated[bool, Meta(description="true: the output was cut")] = False
    reason: str = ""


class Progress(Struct, omit_defaults=True, gc=False):
    """How far a running task is, as its worker reported last."""

    fraction: Annotated[
        float | None, Meta(description="0 to 1; null: not stated", extra_json_schema={"minimum": 0, "maximum": 1})
    ]
    message: str = ""


class Task(Struct, omit_defaults=True, gc=False):
    """A task. Fields that are empty are left out."""

    id: Id
    type: Annotated[str, Meta(extra_json_schema={"enum": list(TYPES)})]
    state: Annotated[
        str | None,
        Meta(description="null: it has ended and left no record", extra_json_schema={"enum": [*STATES, None]}),
    ]
    due: Annotated[Moment, Meta(description="RFC 3339, UTC")]
    due_ms: Millis
    queue: str
    priority: Annotated[str, Meta(extra_json_schema={"enum": list(PRIORITIES)})]
    payload: Annotated[str, Meta(description="the payload when it is text")] = ""
    payload_base64: Annotated[str, Meta(description="the payload when it is not UTF-8")] = ""
    headers: dict[str, str] = {}
    name: str = ""
    url: Annotated[str, Meta(description="of an http task")] = ""
    method: str = ""
    retry_on: list[int] = []
    on_success: str = ""
    on_failure: str = ""
    cloudevents: str = ""
    labels: dict[str, str] = {}
    group: str = ""
    fairness_key: str = ""
    fairness_weight: Annotated[float, Meta(description="where it is not 1")] = EVEN_WEIGHT
    cost: Annotated[int, Meta(description="where it is not 1")] = 1
    requires: list[str] = []
    prefers: list[str] = []
    zone: Annotated[str, Meta(description="the time zone in which its time was meant")] = ""
    timeout_ms: Count = 0
    expire_after_ms: Count = 0
    max_snooze_ms: Count = 0
    delivery: Annotated[
        str, Meta(description="at_most_once, or nothing", extra_json_schema={"enum": ["at_most_once"]})
    ] = ""
    attempt: Annotated[int, Meta(description="failed attempts")] = 0
    losses: Annotated[int, Meta(description="times the node or worker that had it was lost")] = 0
    deliveries: Annotated[int, Meta(description="times it was handed out")] = 0
    reason: Annotated[str, Meta(description="why it is a dead letter, or why it still waits")] = ""
    result: Result | None = None
    progress: Progress | None = None
    traceback: Annotated[str, Meta(description="of a worker's dead letter: its last 8 KiB; not in lists")] = ""
    failures: Annotated[
        list[FailedAttempt], Meta(description="its last failed attempts, 10 at most; not in lists")
    ] = []
    fired: Annotated[str, Meta(description="of an ended task, looked at alone: when it was handed out last")] = ""
    fired_ms: Count = 0
    ended: Annotated[str, Meta(description="the same: when it ended")] = ""
    ended_ms: Count = 0
    node: Annotated[str, Meta(description="the same: the member that had it; nothing: a caller ended it")] = ""
    remembered: Annotated[
        bool, Meta(description="true: only its end is remembered; payload, headers, labels and result are not kept")
    ] = False


class ChangedTask(Task, omit_defaults=True, gc=False, kw_only=True):
    """A task after a call that wrote it. A token without the scope `read` sees its id, state and due time alone."""

    type: Annotated[str, Meta(extra_json_schema={"enum": list(TYPES)})] = ""
    queue: str = ""
    priority: Annotated[str, Meta(extra_json_schema={"enum": list(PRIORITIES)})] = ""


class Scheduled(ChangedTask, omit_defaults=True, gc=False, kw_only=True):
    """A task that was just scheduled, or (`created` false) the one that its idempotency key named already."""

    created: bool
    warning: Annotated[str, Meta(description="why it will hardly be run where it is; the task is stored")] = ""


class TaskPage(Struct, gc=False):
    """Part of a list. Go on with `cursor` while there is one, even after a short page."""

    tasks: list[Task]
    cursor: Annotated[str | None, Meta(description="pass it on to get the next page; null at the end")] = None
    scanned: Annotated[
        bool, Meta(description="true: labels without an index are asked for, so all that waits is looked through")
    ] = False


class Problem(Struct, omit_defaults=True, gc=False):
    """An error (RFC 9457)."""

    status: Annotated[int, Meta(extra_json_schema={"minimum": 400, "maximum": 599})]
    code: Annotated[str, Meta(description="stable, for programs", examples=["invalid_task"])]
    title: str
    detail: Annotated[str, Meta(description="what was wrong and how to mend it, for people")]
    type: Annotated[str, Meta(examples=["urn:delaybox:invalid_task"])]
    field: Annotated[str, Meta(description="the part of the request that was wrong", examples=["queue"])] = ""
    task_id: Annotated[str, Meta(description="the task that has the idempotency key")] = ""


class BatchItem(Struct, omit_defaults=True, gc=False):
    """The answer to one task of a batch: `id` and the rest when it is stored, `error` when it was refused."""

    status: Annotated[int, Meta(description="what the task alone would have been answered: 201, 200, 400 …")]
    id: str = ""
    due_ms: Count = 0
    error: Problem | None = None


class BatchAnswer(Struct, gc=False):
    """One item for each task, in the same order."""

    created: Count
    duplicates: Annotated[int, Meta(description="named by their idempotency key already")]
    refused: Count
    items: list[BatchItem]


class Moved(Struct, gc=False):
    """A pending task's new due time."""

    id: Id
    due: Moment
    due_ms: Millis


class Step(Struct, gc=False):
    """Tasks due in one step."""

    start: Moment
    start_ms: Millis
    count: Count


class Forecast(Struct, gc=False):
    """How many tasks are due when."""

    step_ms: Count
    total: Count
    steps: list[Step]
