"""The result of a finished attempt, as it is stored.

From the worker to whoever waits for it a result stays bytes: what `success` makes is what the store keeps and what the
answer to a watching caller contains.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from google.protobuf.message import DecodeError
from msgspec import Struct

from delaybox.core.task import CANCELLED, TaskResult, TaskState
from delaybox.wire.body import varint
from delaybox.wire.gen import task_pb2

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


def encode(result: TaskResult) -> bytes:
    """The stored form."""
    return message(result).SerializeToString()


def success(output: bytes, content_type: str, *, finished_ms: int, duration_ms: int) -> bytes:
    """The stored form of a function's result. Written by hand, because workers leave very many: the output is copied
    once."""
    form = content_type.encode()
    return b"%b%b%b%b%b" % (
        _ok(finished_ms, duration_ms),
        b"\x2a" + varint(len(output)) if output else b"",
        output,
        b"\x42" + varint(len(form)) if form else b"",
        form,
    )


@lru_cache(maxsize=1024)
def _ok(finished_ms: int, duration_ms: int) -> bytes:
    """The fields ``ok``, ``finished_ms`` and ``duration_ms``; the same for many tasks of a herd."""
    return task_pb2.Result(ok=True, finished_ms=finished_ms, duration_ms=duration_ms).SerializeToString()


class KeptResult(Struct, frozen=True, gc=False):
    """A stored result as far as a task's state depends on it. ``stored``: all of it, unchanged."""

    state: TaskState
    reason: str = ""
    stored: bytes = b""


def found(stored: bytes) -> KeptResult:
    """What a stored result means. One that cannot be read is left out: its task has succeeded."""
    if not stored:
        return _SUCCEEDED
    try:
        result = task_pb2.Result.FromString(stored)
    except DecodeError:
        return _SUCCEEDED
    if result.ok:
        return KeptResult(TaskState.SUCCEEDED, stored=stored)
    state = TaskState.CANCELLED if result.reason == CANCELLED else TaskState.FAILED
    return KeptResult(state, result.reason, stored)


_SUCCEEDED: Final = KeptResult(TaskState.SUCCEEDED)


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
