from delaybox.wire.gen import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_TYPE_PUB_SUB: _ClassVar[TaskType]
    TASK_TYPE_SHELL_CMD: _ClassVar[TaskType]
    TASK_TYPE_HTTP: _ClassVar[TaskType]
    TASK_TYPE_WORKER: _ClassVar[TaskType]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_NORMAL: _ClassVar[Priority]
    PRIORITY_LOW: _ClassVar[Priority]
    PRIORITY_HIGH: _ClassVar[Priority]
    PRIORITY_CRITICAL: _ClassVar[Priority]

class OnConflict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_CONFLICT_KEEP: _ClassVar[OnConflict]
    ON_CONFLICT_REPLACE: _ClassVar[OnConflict]

class UniqueWhile(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNIQUE_WHILE_UNSPECIFIED: _ClassVar[UniqueWhile]
    UNIQUE_WHILE_PENDING: _ClassVar[UniqueWhile]
    UNIQUE_WHILE_RUNNING: _ClassVar[UniqueWhile]

class Delivery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DELIVERY_AT_LEAST_ONCE: _ClassVar[Delivery]
    DELIVERY_AT_MOST_ONCE: _ClassVar[Delivery]

class TaskState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_STATE_UNSPECIFIED: _ClassVar[TaskState]
    TASK_STATE_SCHEDULED: _ClassVar[TaskState]
    TASK_STATE_READY: _ClassVar[TaskState]
    TASK_STATE_RUNNING: _ClassVar[TaskState]
    TASK_STATE_SUCCEEDED: _ClassVar[TaskState]
    TASK_STATE_FAILED: _ClassVar[TaskState]
    TASK_STATE_CANCELLED: _ClassVar[TaskState]
    TASK_STATE_FINISHED_OR_UNKNOWN: _ClassVar[TaskState]
TASK_TYPE_PUB_SUB: TaskType
TASK_TYPE_SHELL_CMD: TaskType
TASK_TYPE_HTTP: TaskType
TASK_TYPE_WORKER: TaskType
PRIORITY_NORMAL: Priority
PRIORITY_LOW: Priority
PRIORITY_HIGH: Priority
PRIORITY_CRITICAL: Priority
ON_CONFLICT_KEEP: OnConflict
ON_CONFLICT_REPLACE: OnConflict
UNIQUE_WHILE_UNSPECIFIED: UniqueWhile
UNIQUE_WHILE_PENDING: UniqueWhile
UNIQUE_WHILE_RUNNING: UniqueWhile
DELIVERY_AT_LEAST_ONCE: Delivery
DELIVERY_AT_MOST_ONCE: Delivery
TASK_STATE_UNSPECIFIED: TaskState
TASK_STATE_SCHEDULED: TaskState
TASK_STATE_READY: TaskState
TASK_STATE_RUNNING: TaskState
TASK_STATE_SUCCEEDED: TaskState
TASK_STATE_FAILED: TaskState
TASK_STATE_CANCELLED: TaskState
TASK_STATE_FINISHED_OR_UNKNOWN: TaskState

class LocalTime(_message.Message):
    __slots__ = ("local", "zone", "fold")
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    FOLD_FIELD_NUMBER: _ClassVar[int]
    local: str
    zone: str
    fold: int
    def __init__(self, local: _Optional[str] = ..., zone: _Optional[str] = ..., fold: _Optional[int] = ...) -> None: ...

class NewTask(_message.Message):
    __slots__ = ("payload", "due_ms", "delay_ms", "local", "type", "queue", "priority", "name", "headers", "labels", "idempotency_key", "retry", "timeout_ms", "expire_after_ms", "keep_result_ms", "reject_past", "no_result", "max_snooze_ms", "on_conflict", "max_wait_ms", "unique_while", "delivery", "group", "fairness_key", "fairness_weight", "cost", "requires", "prefers", "zone", "webhook")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    KEEP_RESULT_MS_FIELD_NUMBER: _ClassVar[int]
    REJECT_PAST_FIELD_NUMBER: _ClassVar[int]
    NO_RESULT_FIELD_NUMBER: _ClassVar[int]
    MAX_SNOOZE_MS_FIELD_NUMBER: _ClassVar[int]
    ON_CONFLICT_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    UNIQUE_WHILE_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    FAIRNESS_KEY_FIELD_NUMBER: _ClassVar[int]
    FAIRNESS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    PREFERS_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    due_ms: int
    delay_ms: int
    local: LocalTime
    type: TaskType
    queue: str
    priority: Priority
    name: str
    headers: _containers.ScalarMap[str, bytes]
    labels: _containers.ScalarMap[str, str]
    idempotency_key: str
    retry: _task_pb2.Retry
    timeout_ms: int
    expire_after_ms: int
    keep_result_ms: int
    reject_past: bool
    no_result: bool
    max_snooze_ms: int
    on_conflict: OnConflict
    max_wait_ms: int
    unique_while: UniqueWhile
    delivery: Delivery
    group: str
    fairness_key: str
    fairness_weight: float
    cost: int
    requires: _containers.RepeatedScalarFieldContainer[str]
    prefers: _containers.RepeatedScalarFieldContainer[str]
    zone: str
    webhook: _task_pb2.Webhook
    def __init__(self, payload: _Optional[bytes] = ..., due_ms: _Optional[int] = ..., delay_ms: _Optional[int] = ..., local: _Optional[_Union[LocalTime, _Mapping]] = ..., type: _Optional[_Union[TaskType, str]] = ..., queue: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ..., name: _Optional[str] = ..., headers: _Optional[_Mapping[str, bytes]] = ..., labels: _Optional[_Mapping[str, str]] = ..., idempotency_key: _Optional[str] = ..., retry: _Optional[_Union[_task_pb2.Retry, _Mapping]] = ..., timeout_ms: _Optional[int] = ..., expire_after_ms: _Optional[int] = ..., keep_result_ms: _Optional[int] = ..., reject_past: bool = ..., no_result: bool = ..., max_snooze_ms: _Optional[int] = ..., on_conflict: _Optional[_Union[OnConflict, str]] = ..., max_wait_ms: _Optional[int] = ..., unique_while: _Optional[_Union[UniqueWhile, str]] = ..., delivery: _Optional[_Union[Delivery, str]] = ..., group: _Optional[str] = ..., fairness_key: _Optional[str] = ..., fairness_weight: _Optional[float] = ..., cost: _Optional[int] = ..., requires: _Optional[_Iterable[str]] = ..., prefers: _Optional[_Iterable[str]] = ..., zone: _Optional[str] = ..., webhook: _Optional[_Union[_task_pb2.Webhook, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "field", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    field: str
    retry_after_ms: int
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class ScheduleRequest(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: NewTask
    def __init__(self, task: _Optional[_Union[NewTask, _Mapping]] = ...) -> None: ...

class ScheduleResponse(_message.Message):
    __slots__ = ("id", "due_ms", "created", "queue", "warning")
    ID_FIELD_NUMBER: _ClassVar[int]
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    id: str
    due_ms: int
    created: bool
    queue: str
    warning: str
    def __init__(self, id: _Optional[str] = ..., due_ms: _Optional[int] = ..., created: bool = ..., queue: _Optional[str] = ..., warning: _Optional[str] = ...) -> None: ...

class ScheduleBatchRequest(_message.Message):
    __slots__ = ("tasks",)
    TASKS_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[NewTask]
    def __init__(self, tasks: _Optional[_Iterable[_Union[NewTask, _Mapping]]] = ...) -> None: ...

class ScheduleBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ScheduleResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ScheduleResult, _Mapping]]] = ...) -> None: ...

class ScheduleResult(_message.Message):
    __slots__ = ("id", "due_ms", "created", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    due_ms: int
    created: bool
    error: Error
    def __init__(self, id: _Optional[str] = ..., due_ms: _Optional[int] = ..., created: bool = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("id", "idempotency_key")
    ID_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    id: str
    idempotency_key: str
    def __init__(self, id: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class TaskInfo(_message.Message):
    __slots__ = ("id", "state", "due_ms", "type", "queue", "priority", "name", "payload", "headers", "labels", "attempt", "losses", "deliveries", "reason", "expire_after_ms", "timeout_ms", "keep_result_ms", "result", "progress", "brief", "traceback", "max_snooze_ms", "delivery", "group", "fairness_key", "fairness_weight", "cost", "requires", "prefers", "zone", "webhook", "fired_ms", "ended_ms", "node", "remembered", "failures")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    KEEP_RESULT_MS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    BRIEF_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    MAX_SNOOZE_MS_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    FAIRNESS_KEY_FIELD_NUMBER: _ClassVar[int]
    FAIRNESS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    PREFERS_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    FIRED_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_MS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    REMEMBERED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: TaskState
    due_ms: int
    type: TaskType
    queue: str
    priority: Priority
    name: str
    payload: bytes
    headers: _containers.ScalarMap[str, bytes]
    labels: _containers.ScalarMap[str, str]
    attempt: int
    losses: int
    deliveries: int
    reason: str
    expire_after_ms: int
    timeout_ms: int
    keep_result_ms: int
    result: _task_pb2.Result
    progress: Progress
    brief: bool
    traceback: str
    max_snooze_ms: int
    delivery: Delivery
    group: str
    fairness_key: str
    fairness_weight: float
    cost: int
    requires: _containers.RepeatedScalarFieldContainer[str]
    prefers: _containers.RepeatedScalarFieldContainer[str]
    zone: str
    webhook: _task_pb2.Webhook
    fired_ms: int
    ended_ms: int
    node: str
    remembered: bool
    failures: _containers.RepeatedCompositeFieldContainer[FailedAttempt]
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[TaskState, str]] = ..., due_ms: _Optional[int] = ..., type: _Optional[_Union[TaskType, str]] = ..., queue: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ..., name: _Optional[str] = ..., payload: _Optional[bytes] = ..., headers: _Optional[_Mapping[str, bytes]] = ..., labels: _Optional[_Mapping[str, str]] = ..., attempt: _Optional[int] = ..., losses: _Optional[int] = ..., deliveries: _Optional[int] = ..., reason: _Optional[str] = ..., expire_after_ms: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., keep_result_ms: _Optional[int] = ..., result: _Optional[_Union[_task_pb2.Result, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., brief: bool = ..., traceback: _Optional[str] = ..., max_snooze_ms: _Optional[int] = ..., delivery: _Optional[_Union[Delivery, str]] = ..., group: _Optional[str] = ..., fairness_key: _Optional[str] = ..., fairness_weight: _Optional[float] = ..., cost: _Optional[int] = ..., requires: _Optional[_Iterable[str]] = ..., prefers: _Optional[_Iterable[str]] = ..., zone: _Optional[str] = ..., webhook: _Optional[_Union[_task_pb2.Webhook, _Mapping]] = ..., fired_ms: _Optional[int] = ..., ended_ms: _Optional[int] = ..., node: _Optional[str] = ..., remembered: bool = ..., failures: _Optional[_Iterable[_Union[FailedAttempt, _Mapping]]] = ...) -> None: ...

class FailedAttempt(_message.Message):
    __slots__ = ("attempt", "fired_ms", "failed_ms", "node", "reason", "traceback")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FIRED_MS_FIELD_NUMBER: _ClassVar[int]
    FAILED_MS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    fired_ms: int
    failed_ms: int
    node: str
    reason: str
    traceback: str
    def __init__(self, attempt: _Optional[int] = ..., fired_ms: _Optional[int] = ..., failed_ms: _Optional[int] = ..., node: _Optional[str] = ..., reason: _Optional[str] = ..., traceback: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("fraction", "message")
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    fraction: float
    message: str
    def __init__(self, fraction: _Optional[float] = ..., message: _Optional[str] = ...) -> None: ...

class TaskFilter(_message.Message):
    __slots__ = ("state", "queue", "type", "labels", "due_from_ms", "due_to_ms", "group", "function")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STATE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DUE_FROM_MS_FIELD_NUMBER: _ClassVar[int]
    DUE_TO_MS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    state: TaskState
    queue: str
    type: TaskType
    labels: _containers.ScalarMap[str, str]
    due_from_ms: int
    due_to_ms: int
    group: str
    function: str
    def __init__(self, state: _Optional[_Union[TaskState, str]] = ..., queue: _Optional[str] = ..., type: _Optional[_Union[TaskType, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., due_from_ms: _Optional[int] = ..., due_to_ms: _Optional[int] = ..., group: _Optional[str] = ..., function: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("filter", "limit", "cursor")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    filter: TaskFilter
    limit: int
    cursor: str
    def __init__(self, filter: _Optional[_Union[TaskFilter, _Mapping]] = ..., limit: _Optional[int] = ..., cursor: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("tasks", "cursor", "scanned")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    SCANNED_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[TaskInfo]
    cursor: str
    scanned: bool
    def __init__(self, tasks: _Optional[_Iterable[_Union[TaskInfo, _Mapping]]] = ..., cursor: _Optional[str] = ..., scanned: bool = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("id", "running", "free_key", "idempotency_key")
    ID_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    FREE_KEY_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    id: str
    running: bool
    free_key: bool
    idempotency_key: str
    def __init__(self, id: _Optional[str] = ..., running: bool = ..., free_key: bool = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CancelResponse(_message.Message):
    __slots__ = ("signalled",)
    SIGNALLED_FIELD_NUMBER: _ClassVar[int]
    signalled: bool
    def __init__(self, signalled: bool = ...) -> None: ...

class RescheduleRequest(_message.Message):
    __slots__ = ("id", "due_ms", "delay_ms", "local", "priority", "payload", "labels", "idempotency_key", "zone")
    ID_FIELD_NUMBER: _ClassVar[int]
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    id: str
    due_ms: int
    delay_ms: int
    local: LocalTime
    priority: Priority
    payload: bytes
    labels: Labels
    idempotency_key: str
    zone: str
    def __init__(self, id: _Optional[str] = ..., due_ms: _Optional[int] = ..., delay_ms: _Optional[int] = ..., local: _Optional[_Union[LocalTime, _Mapping]] = ..., priority: _Optional[_Union[Priority, str]] = ..., payload: _Optional[bytes] = ..., labels: _Optional[_Union[Labels, _Mapping]] = ..., idempotency_key: _Optional[str] = ..., zone: _Optional[str] = ...) -> None: ...

class Labels(_message.Message):
    __slots__ = ("values",)
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.ScalarMap[str, str]
    def __init__(self, values: _Optional[_Mapping[str, str]] = ...) -> None: ...

class RunNowRequest(_message.Message):
    __slots__ = ("id", "idempotency_key")
    ID_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    id: str
    idempotency_key: str
    def __init__(self, id: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class RunNowResponse(_message.Message):
    __slots__ = ("due_ms",)
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    due_ms: int
    def __init__(self, due_ms: _Optional[int] = ...) -> None: ...

class Selection(_message.Message):
    __slots__ = ("filter", "all", "limit", "dry_run")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    filter: TaskFilter
    all: bool
    limit: int
    dry_run: bool
    def __init__(self, filter: _Optional[_Union[TaskFilter, _Mapping]] = ..., all: bool = ..., limit: _Optional[int] = ..., dry_run: bool = ...) -> None: ...

class CancelManyRequest(_message.Message):
    __slots__ = ("selection", "free_keys", "ids")
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    FREE_KEYS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    selection: Selection
    free_keys: bool
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, selection: _Optional[_Union[Selection, _Mapping]] = ..., free_keys: bool = ..., ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RescheduleManyRequest(_message.Message):
    __slots__ = ("selection", "due_ms", "delay_ms", "local")
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    selection: Selection
    due_ms: int
    delay_ms: int
    local: LocalTime
    def __init__(self, selection: _Optional[_Union[Selection, _Mapping]] = ..., due_ms: _Optional[int] = ..., delay_ms: _Optional[int] = ..., local: _Optional[_Union[LocalTime, _Mapping]] = ...) -> None: ...

class RunNowManyRequest(_message.Message):
    __slots__ = ("selection",)
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    selection: Selection
    def __init__(self, selection: _Optional[_Union[Selection, _Mapping]] = ...) -> None: ...

class BulkResponse(_message.Message):
    __slots__ = ("matched", "changed", "skipped", "sample_ids", "scanned")
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    SCANNED_FIELD_NUMBER: _ClassVar[int]
    matched: int
    changed: int
    skipped: int
    sample_ids: _containers.RepeatedScalarFieldContainer[str]
    scanned: bool
    def __init__(self, matched: _Optional[int] = ..., changed: _Optional[int] = ..., skipped: _Optional[int] = ..., sample_ids: _Optional[_Iterable[str]] = ..., scanned: bool = ...) -> None: ...

class ReplayDeadRequest(_message.Message):
    __slots__ = ("id", "idempotency_key")
    ID_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    id: str
    idempotency_key: str
    def __init__(self, id: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class ReplayDeadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReplayDeadManyRequest(_message.Message):
    __slots__ = ("selection",)
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    selection: Selection
    def __init__(self, selection: _Optional[_Union[Selection, _Mapping]] = ...) -> None: ...

class DiscardDeadRequest(_message.Message):
    __slots__ = ("id", "idempotency_key")
    ID_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    id: str
    idempotency_key: str
    def __init__(self, id: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class DiscardDeadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DiscardDeadManyRequest(_message.Message):
    __slots__ = ("selection",)
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    selection: Selection
    def __init__(self, selection: _Optional[_Union[Selection, _Mapping]] = ...) -> None: ...

class QueuesRequest(_message.Message):
    __slots__ = ("queue",)
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    queue: str
    def __init__(self, queue: _Optional[str] = ...) -> None: ...

class QueuesResponse(_message.Message):
    __slots__ = ("queues", "truncated", "due_soon")
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    DUE_SOON_FIELD_NUMBER: _ClassVar[int]
    queues: _containers.RepeatedCompositeFieldContainer[QueueInfo]
    truncated: bool
    due_soon: bool
    def __init__(self, queues: _Optional[_Iterable[_Union[QueueInfo, _Mapping]]] = ..., truncated: bool = ..., due_soon: bool = ...) -> None: ...

class QueueInfo(_message.Message):
    __slots__ = ("queue", "type", "pending", "ready", "in_flight", "unserved", "waits", "oldest_wait_ms")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    UNSERVED_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    queue: str
    type: TaskType
    pending: int
    ready: int
    in_flight: int
    unserved: _containers.RepeatedScalarFieldContainer[str]
    waits: str
    oldest_wait_ms: int
    def __init__(self, queue: _Optional[str] = ..., type: _Optional[_Union[TaskType, str]] = ..., pending: _Optional[int] = ..., ready: _Optional[int] = ..., in_flight: _Optional[int] = ..., unserved: _Optional[_Iterable[str]] = ..., waits: _Optional[str] = ..., oldest_wait_ms: _Optional[int] = ...) -> None: ...

class Rules(_message.Message):
    __slots__ = ("paused", "keep_result_ms", "retry", "timeout_ms", "weight", "slack", "concurrency", "rate", "burst", "keys", "key_keep_ms", "resume_rate")
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    KEEP_RESULT_MS_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SLACK_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    KEY_KEEP_MS_FIELD_NUMBER: _ClassVar[int]
    RESUME_RATE_FIELD_NUMBER: _ClassVar[int]
    paused: bool
    keep_result_ms: int
    retry: _task_pb2.Retry
    timeout_ms: int
    weight: float
    slack: Slack
    concurrency: int
    rate: str
    burst: int
    keys: KeyLimits
    key_keep_ms: int
    resume_rate: str
    def __init__(self, paused: bool = ..., keep_result_ms: _Optional[int] = ..., retry: _Optional[_Union[_task_pb2.Retry, _Mapping]] = ..., timeout_ms: _Optional[int] = ..., weight: _Optional[float] = ..., slack: _Optional[_Union[Slack, _Mapping]] = ..., concurrency: _Optional[int] = ..., rate: _Optional[str] = ..., burst: _Optional[int] = ..., keys: _Optional[_Union[KeyLimits, _Mapping]] = ..., key_keep_ms: _Optional[int] = ..., resume_rate: _Optional[str] = ...) -> None: ...

class KeyLimits(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedCompositeFieldContainer[KeyLimit]
    def __init__(self, limits: _Optional[_Iterable[_Union[KeyLimit, _Mapping]]] = ...) -> None: ...

class KeyLimit(_message.Message):
    __slots__ = ("by", "concurrency", "rate", "burst")
    BY_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    by: str
    concurrency: int
    rate: str
    burst: int
    def __init__(self, by: _Optional[str] = ..., concurrency: _Optional[int] = ..., rate: _Optional[str] = ..., burst: _Optional[int] = ...) -> None: ...

class Slack(_message.Message):
    __slots__ = ("high_ms", "normal_ms", "low_ms")
    HIGH_MS_FIELD_NUMBER: _ClassVar[int]
    NORMAL_MS_FIELD_NUMBER: _ClassVar[int]
    LOW_MS_FIELD_NUMBER: _ClassVar[int]
    high_ms: int
    normal_ms: int
    low_ms: int
    def __init__(self, high_ms: _Optional[int] = ..., normal_ms: _Optional[int] = ..., low_ms: _Optional[int] = ...) -> None: ...

class RuledQueue(_message.Message):
    __slots__ = ("queue", "rules", "effect", "waits", "newer", "full_speed_at_ms", "version")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    NEWER_FIELD_NUMBER: _ClassVar[int]
    FULL_SPEED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    queue: str
    rules: Rules
    effect: Rules
    waits: str
    newer: _containers.RepeatedScalarFieldContainer[str]
    full_speed_at_ms: int
    version: int
    def __init__(self, queue: _Optional[str] = ..., rules: _Optional[_Union[Rules, _Mapping]] = ..., effect: _Optional[_Union[Rules, _Mapping]] = ..., waits: _Optional[str] = ..., newer: _Optional[_Iterable[str]] = ..., full_speed_at_ms: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class QueueRulesRequest(_message.Message):
    __slots__ = ("queue",)
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    queue: str
    def __init__(self, queue: _Optional[str] = ...) -> None: ...

class QueueRulesResponse(_message.Message):
    __slots__ = ("queues", "truncated")
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    queues: _containers.RepeatedCompositeFieldContainer[RuledQueue]
    truncated: bool
    def __init__(self, queues: _Optional[_Iterable[_Union[RuledQueue, _Mapping]]] = ..., truncated: bool = ...) -> None: ...

class SetQueueRequest(_message.Message):
    __slots__ = ("queue", "rules", "clear", "replace")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    CLEAR_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    queue: str
    rules: Rules
    clear: _containers.RepeatedScalarFieldContainer[str]
    replace: bool
    def __init__(self, queue: _Optional[str] = ..., rules: _Optional[_Union[Rules, _Mapping]] = ..., clear: _Optional[_Iterable[str]] = ..., replace: bool = ...) -> None: ...

class SetQueueResponse(_message.Message):
    __slots__ = ("queue",)
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    queue: RuledQueue
    def __init__(self, queue: _Optional[_Union[RuledQueue, _Mapping]] = ...) -> None: ...

class UnsetQueueRequest(_message.Message):
    __slots__ = ("queue",)
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    queue: str
    def __init__(self, queue: _Optional[str] = ...) -> None: ...

class UnsetQueueResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ForecastRequest(_message.Message):
    __slots__ = ("from_ms", "to_ms", "step_ms")
    FROM_MS_FIELD_NUMBER: _ClassVar[int]
    TO_MS_FIELD_NUMBER: _ClassVar[int]
    STEP_MS_FIELD_NUMBER: _ClassVar[int]
    from_ms: int
    to_ms: int
    step_ms: int
    def __init__(self, from_ms: _Optional[int] = ..., to_ms: _Optional[int] = ..., step_ms: _Optional[int] = ...) -> None: ...

class ForecastResponse(_message.Message):
    __slots__ = ("steps",)
    STEPS_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[ForecastStep]
    def __init__(self, steps: _Optional[_Iterable[_Union[ForecastStep, _Mapping]]] = ...) -> None: ...

class ForecastStep(_message.Message):
    __slots__ = ("start_ms", "count")
    START_MS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    start_ms: int
    count: int
    def __init__(self, start_ms: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class ScalingRequest(_message.Message):
    __slots__ = ("kind", "queue", "function", "places", "lead_ms", "clear_ms")
    KIND_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    LEAD_MS_FIELD_NUMBER: _ClassVar[int]
    CLEAR_MS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    queue: str
    function: str
    places: int
    lead_ms: int
    clear_ms: int
    def __init__(self, kind: _Optional[str] = ..., queue: _Optional[str] = ..., function: _Optional[str] = ..., places: _Optional[int] = ..., lead_ms: _Optional[int] = ..., clear_ms: _Optional[int] = ...) -> None: ...

class ScalingResponse(_message.Message):
    __slots__ = ("lead_ms", "clear_ms", "target_use", "needs")
    LEAD_MS_FIELD_NUMBER: _ClassVar[int]
    CLEAR_MS_FIELD_NUMBER: _ClassVar[int]
    TARGET_USE_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    lead_ms: int
    clear_ms: int
    target_use: float
    needs: _containers.RepeatedCompositeFieldContainer[ScalingNeed]
    def __init__(self, lead_ms: _Optional[int] = ..., clear_ms: _Optional[int] = ..., target_use: _Optional[float] = ..., needs: _Optional[_Iterable[_Union[ScalingNeed, _Mapping]]] = ...) -> None: ...

class ScalingNeed(_message.Message):
    __slots__ = ("kind", "queue", "function", "needed", "running", "places", "places_each", "terms")
    KIND_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    PLACES_EACH_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    queue: str
    function: str
    needed: int
    running: int
    places: float
    places_each: float
    terms: _containers.RepeatedCompositeFieldContainer[ScalingTerm]
    def __init__(self, kind: _Optional[str] = ..., queue: _Optional[str] = ..., function: _Optional[str] = ..., needed: _Optional[int] = ..., running: _Optional[int] = ..., places: _Optional[float] = ..., places_each: _Optional[float] = ..., terms: _Optional[_Iterable[_Union[ScalingTerm, _Mapping]]] = ...) -> None: ...

class ScalingTerm(_message.Message):
    __slots__ = ("name", "due", "busiest_per_s", "unforeseen_per_s", "backlog", "service_ms", "measured", "occupied", "most")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DUE_FIELD_NUMBER: _ClassVar[int]
    BUSIEST_PER_S_FIELD_NUMBER: _ClassVar[int]
    UNFORESEEN_PER_S_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    SERVICE_MS_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    OCCUPIED_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    name: str
    due: int
    busiest_per_s: float
    unforeseen_per_s: float
    backlog: int
    service_ms: float
    measured: bool
    occupied: float
    most: float
    def __init__(self, name: _Optional[str] = ..., due: _Optional[int] = ..., busiest_per_s: _Optional[float] = ..., unforeseen_per_s: _Optional[float] = ..., backlog: _Optional[int] = ..., service_ms: _Optional[float] = ..., measured: bool = ..., occupied: _Optional[float] = ..., most: _Optional[float] = ...) -> None: ...

class NodesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodesResponse(_message.Message):
    __slots__ = ("nodes", "infos", "truncated")
    NODES_FIELD_NUMBER: _ClassVar[int]
    INFOS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    infos: _containers.RepeatedCompositeFieldContainer[NodeInfo]
    truncated: bool
    def __init__(self, nodes: _Optional[_Iterable[str]] = ..., infos: _Optional[_Iterable[_Union[NodeInfo, _Mapping]]] = ..., truncated: bool = ...) -> None: ...

class NodeInfo(_message.Message):
    __slots__ = ("id", "host", "pid", "version", "roles", "types", "in_flight", "seen_ms", "started_ms", "worker_count", "workers", "members")
    ID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    SEEN_MS_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    WORKER_COUNT_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    id: str
    host: str
    pid: int
    version: str
    roles: _containers.RepeatedScalarFieldContainer[str]
    types: _containers.RepeatedScalarFieldContainer[TaskType]
    in_flight: int
    seen_ms: int
    started_ms: int
    worker_count: int
    workers: _containers.RepeatedCompositeFieldContainer[WorkerInfo]
    members: _containers.RepeatedCompositeFieldContainer[NodeMember]
    def __init__(self, id: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., version: _Optional[str] = ..., roles: _Optional[_Iterable[str]] = ..., types: _Optional[_Iterable[_Union[TaskType, str]]] = ..., in_flight: _Optional[int] = ..., seen_ms: _Optional[int] = ..., started_ms: _Optional[int] = ..., worker_count: _Optional[int] = ..., workers: _Optional[_Iterable[_Union[WorkerInfo, _Mapping]]] = ..., members: _Optional[_Iterable[_Union[NodeMember, _Mapping]]] = ...) -> None: ...

class NodeMember(_message.Message):
    __slots__ = ("id", "kind", "pid", "types", "in_flight", "troubles", "seen_ms", "started_ms", "partitions", "partition_count", "fired_per_s", "lag_ms", "clock_offset_ms", "rules_version", "rules_since_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    TROUBLES_FIELD_NUMBER: _ClassVar[int]
    SEEN_MS_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    PARTITION_COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRED_PER_S_FIELD_NUMBER: _ClassVar[int]
    LAG_MS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_OFFSET_MS_FIELD_NUMBER: _ClassVar[int]
    RULES_VERSION_FIELD_NUMBER: _ClassVar[int]
    RULES_SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    pid: int
    types: _containers.RepeatedScalarFieldContainer[TaskType]
    in_flight: int
    troubles: _containers.RepeatedScalarFieldContainer[str]
    seen_ms: int
    started_ms: int
    partitions: _containers.RepeatedScalarFieldContainer[int]
    partition_count: int
    fired_per_s: float
    lag_ms: float
    clock_offset_ms: int
    rules_version: int
    rules_since_ms: int
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., pid: _Optional[int] = ..., types: _Optional[_Iterable[_Union[TaskType, str]]] = ..., in_flight: _Optional[int] = ..., troubles: _Optional[_Iterable[str]] = ..., seen_ms: _Optional[int] = ..., started_ms: _Optional[int] = ..., partitions: _Optional[_Iterable[int]] = ..., partition_count: _Optional[int] = ..., fired_per_s: _Optional[float] = ..., lag_ms: _Optional[float] = ..., clock_offset_ms: _Optional[int] = ..., rules_version: _Optional[int] = ..., rules_since_ms: _Optional[int] = ...) -> None: ...

class WorkerInfo(_message.Message):
    __slots__ = ("identity", "labels", "functions", "concurrency", "running", "connected", "since_ms")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    identity: str
    labels: _containers.ScalarMap[str, str]
    functions: int
    concurrency: int
    running: int
    connected: bool
    since_ms: int
    def __init__(self, identity: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., functions: _Optional[int] = ..., concurrency: _Optional[int] = ..., running: _Optional[int] = ..., connected: bool = ..., since_ms: _Optional[int] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("state", "queue", "type", "function", "from_ms", "to_ms", "limit", "cursor")
    STATE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    FROM_MS_FIELD_NUMBER: _ClassVar[int]
    TO_MS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    state: TaskState
    queue: str
    type: TaskType
    function: str
    from_ms: int
    to_ms: int
    limit: int
    cursor: str
    def __init__(self, state: _Optional[_Union[TaskState, str]] = ..., queue: _Optional[str] = ..., type: _Optional[_Union[TaskType, str]] = ..., function: _Optional[str] = ..., from_ms: _Optional[int] = ..., to_ms: _Optional[int] = ..., limit: _Optional[int] = ..., cursor: _Optional[str] = ...) -> None: ...

class HistoryResponse(_message.Message):
    __slots__ = ("tasks", "cursor", "beyond_succeeded", "beyond_failed", "beyond_cancelled")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    BEYOND_SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    BEYOND_FAILED_FIELD_NUMBER: _ClassVar[int]
    BEYOND_CANCELLED_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[EndedTask]
    cursor: str
    beyond_succeeded: int
    beyond_failed: int
    beyond_cancelled: int
    def __init__(self, tasks: _Optional[_Iterable[_Union[EndedTask, _Mapping]]] = ..., cursor: _Optional[str] = ..., beyond_succeeded: _Optional[int] = ..., beyond_failed: _Optional[int] = ..., beyond_cancelled: _Optional[int] = ...) -> None: ...

class EndedTask(_message.Message):
    __slots__ = ("id", "state", "type", "queue", "name", "priority", "due_ms", "fired_ms", "ended_ms", "attempt", "deliveries", "node", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    FIRED_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_MS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: TaskState
    type: TaskType
    queue: str
    name: str
    priority: Priority
    due_ms: int
    fired_ms: int
    ended_ms: int
    attempt: int
    deliveries: int
    node: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[TaskState, str]] = ..., type: _Optional[_Union[TaskType, str]] = ..., queue: _Optional[str] = ..., name: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ..., due_ms: _Optional[int] = ..., fired_ms: _Optional[int] = ..., ended_ms: _Optional[int] = ..., attempt: _Optional[int] = ..., deliveries: _Optional[int] = ..., node: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("ids", "ends_only", "idempotency_key")
    IDS_FIELD_NUMBER: _ClassVar[int]
    ENDS_ONLY_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    ends_only: bool
    idempotency_key: str
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., ends_only: bool = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[TaskEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[TaskEvent, _Mapping]]] = ...) -> None: ...

class TaskEvent(_message.Message):
    __slots__ = ("id", "state", "attempt", "reason", "result", "progress")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: TaskState
    attempt: int
    reason: str
    result: _task_pb2.Result
    progress: Progress
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[TaskState, str]] = ..., attempt: _Optional[int] = ..., reason: _Optional[str] = ..., result: _Optional[_Union[_task_pb2.Result, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ("kinds", "queue", "type", "function", "labels", "after")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KINDS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedScalarFieldContainer[str]
    queue: str
    type: TaskType
    function: str
    labels: _containers.ScalarMap[str, str]
    after: str
    def __init__(self, kinds: _Optional[_Iterable[str]] = ..., queue: _Optional[str] = ..., type: _Optional[_Union[TaskType, str]] = ..., function: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., after: _Optional[str] = ...) -> None: ...

class EventsResponse(_message.Message):
    __slots__ = ("events", "position")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[FeedEvent]
    position: str
    def __init__(self, events: _Optional[_Iterable[_Union[FeedEvent, _Mapping]]] = ..., position: _Optional[str] = ...) -> None: ...

class FeedEvent(_message.Message):
    __slots__ = ("id", "kind", "task_id", "at_ms", "type", "queue", "name", "priority", "due_ms", "attempt", "deliveries", "labels", "node", "reason", "missed")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    task_id: str
    at_ms: int
    type: TaskType
    queue: str
    name: str
    priority: Priority
    due_ms: int
    attempt: int
    deliveries: int
    labels: _containers.ScalarMap[str, str]
    node: str
    reason: str
    missed: int
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., task_id: _Optional[str] = ..., at_ms: _Optional[int] = ..., type: _Optional[_Union[TaskType, str]] = ..., queue: _Optional[str] = ..., name: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ..., due_ms: _Optional[int] = ..., attempt: _Optional[int] = ..., deliveries: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., node: _Optional[str] = ..., reason: _Optional[str] = ..., missed: _Optional[int] = ...) -> None: ...
