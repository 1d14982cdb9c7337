"""The result of a finished attempt, as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from delaybox.core.task import TaskResult
from delaybox.wire.gen import task_pb2

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


def encode(result: TaskResult) -> bytes:
    """The stored form."""
    return message(result).SerializeToString()


def success(output: bytes, content_type: str, *, finished_ms: int, duration_ms: int) -> bytes:
    """The stored form of a function's result: made in one step, because workers leave very many."""
    done: bytes = task_pb2.Result(
        ok=True, finished_ms=finished_ms, duration_ms=duration_ms, output=output, content_type=content_type
    ).SerializeToString()
    return done


def message(result: TaskResult) -> task_pb2.Result:
    """As a message."""
    out = task_pb2.Result(
        ok=result.ok,
        finished_ms=result.finished_ms,
        duration_ms=result.duration_ms,
        output=result.output,
        truncated=result.truncated,
        reason=result.reason,
        content_type=result.content_type,
        status=result.status,
        headers=result.headers,
    )
    if result.exit_code is not None:
        out.exit_code = result.exit_code
    return out


def decode(raw: bytes) -> TaskResult:
    """The result in its stored form; ``google.protobuf.message.DecodeError`` when it is none."""
    m = task_pb2.Result.FromString(raw)
    return TaskResult(
        ok=m.ok,
        finished_ms=m.finished_ms,
        duration_ms=m.duration_ms,
        exit_code=m.exit_code if m.HasField("exit_code") else None,
        output=m.output,
        truncated=m.truncated,
        reason=m.reason,
        content_type=m.content_type,
        status=m.status,
        headers=dict(m.headers) if m.headers else _NO_HEADERS,
    )
