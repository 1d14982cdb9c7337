"""The messages between a worker and its processes for cpu functions: a head in JSON, and a body of bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

PREFIX: Final = struct.Struct("!II")
"""Lengths of head and body."""

# Kinds of frames; the head's "is".
HELLO: Final = "hello"
"""From the process: it can take jobs. ``missing``: the import error because of which it cannot."""
SETTINGS: Final = "settings"
"""To the process, before anything else. ``levels``: the levels of the loggers."""
LOG: Final = "log"
"""From the process. ``record``: one record of its log, see `logs.again`."""
JOB: Final = "job"
"""To the process: which function, the facts of the task; body: the payload."""
BEGUN: Final = "begun"
"""From the process, for the first job of a function: its module is imported, the function begins."""
PROGRESS: Final = "progress"
DONE: Final = "done"
"""Body: the encoded result, when one was asked for."""
FAILED: Final = "failed"
"""Body: a serialized ``Failed``."""


def frame(kind: str, body: bytes = b"", **head: Any) -> bytes:
    """One frame."""
    message = json.dumps({"is": kind, **head}).encode()
    return b"".join((PREFIX.pack(len(message), len(body)), message, body))


def head(raw: bytes) -> Mapping[str, Any]:
    """Reads one frame: its head and body."""
    message: Mapping[str, Any] = json.loads(raw)
    return message


def read(exactly: Callable[[int], bytes]) -> tuple[Mapping[str, Any], bytes]:
    """The next frame; ``exactly`` reads that many bytes or raises EOFError."""
    sizes = PREFIX.unpack(exactly(PREFIX.size))
    return head(exactly(sizes[0])), exactly(sizes[1])
