from delaybox.wire.gen import scheduler_pb2 as _scheduler_pb2
from delaybox.wire.gen import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FromWorker(_message.Message):
    __slots__ = ("number", "hello", "done", "succeeded", "failed", "handed_back", "progress", "credit", "drain", "seen", "carried", "moved", "ahead")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    HANDED_BACK_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    CARRIED_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    number: int
    hello: Hello
    done: _containers.RepeatedScalarFieldContainer[int]
    succeeded: _containers.RepeatedCompositeFieldContainer[Succeeded]
    failed: _containers.RepeatedCompositeFieldContainer[Failed]
    handed_back: _containers.RepeatedScalarFieldContainer[int]
    progress: _containers.RepeatedCompositeFieldContainer[TaskProgress]
    credit: int
    drain: bool
    seen: int
    carried: _containers.RepeatedCompositeFieldContainer[Carried]
    moved: _containers.RepeatedScalarFieldContainer[int]
    ahead: int
    def __init__(self, number: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., done: _Optional[_Iterable[int]] = ..., succeeded: _Optional[_Iterable[_Union[Succeeded, _Mapping]]] = ..., failed: _Optional[_Iterable[_Union[Failed, _Mapping]]] = ..., handed_back: _Optional[_Iterable[int]] = ..., progress: _Optional[_Iterable[_Union[TaskProgress, _Mapping]]] = ..., credit: _Optional[int] = ..., drain: bool = ..., seen: _Optional[int] = ..., carried: _Optional[_Iterable[_Union[Carried, _Mapping]]] = ..., moved: _Optional[_Iterable[int]] = ..., ahead: _Optional[int] = ...) -> None: ...

class Carried(_message.Message):
    __slots__ = ("partition", "lease", "tasks")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    partition: int
    lease: bytes
    tasks: _containers.RepeatedCompositeFieldContainer[CarriedTask]
    def __init__(self, partition: _Optional[int] = ..., lease: _Optional[bytes] = ..., tasks: _Optional[_Iterable[_Union[CarriedTask, _Mapping]]] = ...) -> None: ...

class CarriedTask(_message.Message):
    __slots__ = ("number", "id", "ran_ms")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    RAN_MS_FIELD_NUMBER: _ClassVar[int]
    number: int
    id: str
    ran_ms: int
    def __init__(self, number: _Optional[int] = ..., id: _Optional[str] = ..., ran_ms: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("session", "seen", "queues", "functions", "labels", "identity", "concurrency", "max_message", "moves", "not_at")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    NOT_AT_FIELD_NUMBER: _ClassVar[int]
    session: str
    seen: int
    queues: _containers.RepeatedScalarFieldContainer[str]
    functions: _containers.RepeatedCompositeFieldContainer[Function]
    labels: _containers.ScalarMap[str, str]
    identity: str
    concurrency: int
    max_message: int
    moves: bool
    not_at: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session: _Optional[str] = ..., seen: _Optional[int] = ..., queues: _Optional[_Iterable[str]] = ..., functions: _Optional[_Iterable[_Union[Function, _Mapping]]] = ..., labels: _Optional[_Mapping[str, str]] = ..., identity: _Optional[str] = ..., concurrency: _Optional[int] = ..., max_message: _Optional[int] = ..., moves: bool = ..., not_at: _Optional[_Iterable[str]] = ...) -> None: ...

class Function(_message.Message):
    __slots__ = ("name", "retry", "queues", "queue", "keep_result_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    KEEP_RESULT_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    retry: _task_pb2.Retry
    queues: _containers.RepeatedScalarFieldContainer[str]
    queue: str
    keep_result_ms: int
    def __init__(self, name: _Optional[str] = ..., retry: _Optional[_Union[_task_pb2.Retry, _Mapping]] = ..., queues: _Optional[_Iterable[str]] = ..., queue: _Optional[str] = ..., keep_result_ms: _Optional[int] = ...) -> None: ...

class Succeeded(_message.Message):
    __slots__ = ("sequence", "output", "duration_ms", "content_type")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    output: bytes
    duration_ms: int
    content_type: str
    def __init__(self, sequence: _Optional[int] = ..., output: _Optional[bytes] = ..., duration_ms: _Optional[int] = ..., content_type: _Optional[str] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("sequence", "reason", "final", "cancelled", "duration_ms", "output", "retry_after_ms", "snooze")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    SNOOZE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    reason: str
    final: bool
    cancelled: bool
    duration_ms: int
    output: bytes
    retry_after_ms: int
    snooze: bool
    def __init__(self, sequence: _Optional[int] = ..., reason: _Optional[str] = ..., final: bool = ..., cancelled: bool = ..., duration_ms: _Optional[int] = ..., output: _Optional[bytes] = ..., retry_after_ms: _Optional[int] = ..., snooze: bool = ...) -> None: ...

class TaskProgress(_message.Message):
    __slots__ = ("sequence", "progress")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    progress: _scheduler_pb2.Progress
    def __init__(self, sequence: _Optional[int] = ..., progress: _Optional[_Union[_scheduler_pb2.Progress, _Mapping]] = ...) -> None: ...

class ToWorker(_message.Message):
    __slots__ = ("number", "welcome", "tasks", "cancel", "stale", "drain", "seen", "claims", "adopted", "move")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    number: int
    welcome: Welcome
    tasks: _containers.RepeatedCompositeFieldContainer[Assignment]
    cancel: _containers.RepeatedScalarFieldContainer[int]
    stale: _containers.RepeatedScalarFieldContainer[int]
    drain: bool
    seen: int
    claims: _containers.RepeatedCompositeFieldContainer[Claim]
    adopted: _containers.RepeatedCompositeFieldContainer[Adopted]
    move: bool
    def __init__(self, number: _Optional[int] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ..., cancel: _Optional[_Iterable[int]] = ..., stale: _Optional[_Iterable[int]] = ..., drain: bool = ..., seen: _Optional[int] = ..., claims: _Optional[_Iterable[_Union[Claim, _Mapping]]] = ..., adopted: _Optional[_Iterable[_Union[Adopted, _Mapping]]] = ..., move: bool = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("first", "last", "partition", "lease")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    partition: int
    lease: bytes
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ..., partition: _Optional[int] = ..., lease: _Optional[bytes] = ...) -> None: ...

class Adopted(_message.Message):
    __slots__ = ("number", "sequence", "ended")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    number: int
    sequence: int
    ended: bool
    def __init__(self, number: _Optional[int] = ..., sequence: _Optional[int] = ..., ended: bool = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session", "resumed", "heartbeat_ms", "resume_ms", "node", "max_output", "adopt_ms", "process")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    RESUME_MS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ADOPT_MS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    session: str
    resumed: bool
    heartbeat_ms: int
    resume_ms: int
    node: str
    max_output: int
    adopt_ms: int
    process: str
    def __init__(self, session: _Optional[str] = ..., resumed: bool = ..., heartbeat_ms: _Optional[int] = ..., resume_ms: _Optional[int] = ..., node: _Optional[str] = ..., max_output: _Optional[int] = ..., adopt_ms: _Optional[int] = ..., process: _Optional[str] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("sequence", "id", "name", "queue", "due_ms", "attempt", "token", "want_result", "task", "traceparent")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    WANT_RESULT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    id: str
    name: str
    queue: str
    due_ms: int
    attempt: int
    token: int
    want_result: bool
    task: _task_pb2.Task
    traceparent: str
    def __init__(self, sequence: _Optional[int] = ..., id: _Optional[str] = ..., name: _Optional[str] = ..., queue: _Optional[str] = ..., due_ms: _Optional[int] = ..., attempt: _Optional[int] = ..., token: _Optional[int] = ..., want_result: bool = ..., task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...
