from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Task(_message.Message):
    __slots__ = ("taskUuid", "header", "payload", "status", "name", "retry", "timeout_ms", "expire_after_ms", "labels", "keep_result_ms", "no_result", "max_snooze_ms", "at_most_once", "zone", "webhook")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SCHEDULED: _ClassVar[Task.Status]
        PENDING: _ClassVar[Task.Status]
        PROCESSING: _ClassVar[Task.Status]
        FAILED: _ClassVar[Task.Status]
        SUCCEEDED: _ClassVar[Task.Status]
        CANCELLED: _ClassVar[Task.Status]
    SCHEDULED: Task.Status
    PENDING: Task.Status
    PROCESSING: Task.Status
    FAILED: Task.Status
    SUCCEEDED: Task.Status
    CANCELLED: Task.Status
    class HeaderEntry(_message.Message):
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
    TASKUUID_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    KEEP_RESULT_MS_FIELD_NUMBER: _ClassVar[int]
    NO_RESULT_FIELD_NUMBER: _ClassVar[int]
    MAX_SNOOZE_MS_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_ONCE_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    taskUuid: str
    header: _containers.ScalarMap[str, bytes]
    payload: bytes
    status: Task.Status
    name: str
    retry: Retry
    timeout_ms: int
    expire_after_ms: int
    labels: _containers.ScalarMap[str, str]
    keep_result_ms: int
    no_result: bool
    max_snooze_ms: int
    at_most_once: bool
    zone: str
    webhook: Webhook
    def __init__(self, taskUuid: _Optional[str] = ..., header: _Optional[_Mapping[str, bytes]] = ..., payload: _Optional[bytes] = ..., status: _Optional[_Union[Task.Status, str]] = ..., name: _Optional[str] = ..., retry: _Optional[_Union[Retry, _Mapping]] = ..., timeout_ms: _Optional[int] = ..., expire_after_ms: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., keep_result_ms: _Optional[int] = ..., no_result: bool = ..., max_snooze_ms: _Optional[int] = ..., at_most_once: bool = ..., zone: _Optional[str] = ..., webhook: _Optional[_Union[Webhook, _Mapping]] = ...) -> None: ...

class Retry(_message.Message):
    __slots__ = ("max_attempts", "initial_ms", "factor", "max_ms", "jitter")
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_MS_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    MAX_MS_FIELD_NUMBER: _ClassVar[int]
    JITTER_FIELD_NUMBER: _ClassVar[int]
    max_attempts: int
    initial_ms: int
    factor: float
    max_ms: int
    jitter: float
    def __init__(self, max_attempts: _Optional[int] = ..., initial_ms: _Optional[int] = ..., factor: _Optional[float] = ..., max_ms: _Optional[int] = ..., jitter: _Optional[float] = ...) -> None: ...

class Webhook(_message.Message):
    __slots__ = ("url", "method", "retry_on", "on_success", "on_failure", "cloudevents")
    URL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    RETRY_ON_FIELD_NUMBER: _ClassVar[int]
    ON_SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ON_FAILURE_FIELD_NUMBER: _ClassVar[int]
    CLOUDEVENTS_FIELD_NUMBER: _ClassVar[int]
    url: str
    method: str
    retry_on: _containers.RepeatedScalarFieldContainer[int]
    on_success: str
    on_failure: str
    cloudevents: str
    def __init__(self, url: _Optional[str] = ..., method: _Optional[str] = ..., retry_on: _Optional[_Iterable[int]] = ..., on_success: _Optional[str] = ..., on_failure: _Optional[str] = ..., cloudevents: _Optional[str] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("ok", "finished_ms", "duration_ms", "exit_code", "output", "truncated", "reason", "content_type", "status", "headers")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    OK_FIELD_NUMBER: _ClassVar[int]
    FINISHED_MS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    ok: bool
    finished_ms: int
    duration_ms: int
    exit_code: int
    output: bytes
    truncated: bool
    reason: str
    content_type: str
    status: int
    headers: _containers.ScalarMap[str, str]
    def __init__(self, ok: bool = ..., finished_ms: _Optional[int] = ..., duration_ms: _Optional[int] = ..., exit_code: _Optional[int] = ..., output: _Optional[bytes] = ..., truncated: bool = ..., reason: _Optional[str] = ..., content_type: _Optional[str] = ..., status: _Optional[int] = ..., headers: _Optional[_Mapping[str, str]] = ...) -> None: ...
