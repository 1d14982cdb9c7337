"""A file of tasks, one JSON object a line, in groups that a node takes at once. Pure but for the reading.

A line without an idempotency key of its own is sent with one made from its text, so the same file sent again finds what
is stored already, wherever the first time ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO, NoReturn

from delaybox.core.limits import MAX_BATCH_BYTES

BATCH = 1_000
BATCH_BYTES = MAX_BATCH_BYTES // 2
MAX_LINE = 4 * 1024 * 1024
KEY_PREFIX = "cli:"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class TaskLine:
    """A task to send. ``number`` from 1; ``read``: bytes of the file up to its end."""

    number: int
    task: bytes
    read: int


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is refused. ``code`` is the node's, or "bad_line"."""

    number: int
    code: str
    detail: str
    field: str = ""


def lines_of(stream: BinaryIO, run: str = "") -> Iterator[TaskLine | BadLine]:
    """The tasks of a file. Empty lines are passed over; what is no JSON object is a BadLine."""
    seen: dict[bytes, int] = {}
    number = read = 0
    while raw := stream.readline(MAX_LINE + 1):
        number += 1
        read += len(raw)
        if len(raw) > MAX_LINE:
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(MAX_LINE)
                read += len(raw)
            yield BadLine(number, "bad_line", f"the line is longer than {MAX_LINE} bytes; a payload may have 1 MiB")
            continue
        text = raw.removeprefix(_BOM).strip() if number == 1 else raw.strip()
        if not text:
            continue
        made = _with_key(text, run, seen)
        yield BadLine(number, "bad_line", made) if isinstance(made, str) else TaskLine(number, made, read)


def _with_key(text: bytes, run: str, seen: dict[bytes, int]) -> bytes | str:
    """The line with an idempotency key, or what is wrong with it."""
    try:
        task = json.loads(text, parse_constant=_no_constant)
    except UnicodeDecodeError:
        return "the line is not UTF-8; save the file as UTF-8"
    except RecursionError:
        return "the line is nested too deeply"
    except ValueError as error:
        return f"the line is no JSON ({error}); write one JSON object a line"
    if not isinstance(task, dict):
        return 'the line is no JSON object; write {"payload": "...", "delay": "15m"}'
    if task.get("idempotency_key") is not None:
        return text
    if "idempotency_key" in task:
        return "idempotency_key is null; give one, or leave it out"
    digest = sha256(run.encode("utf-8", "surrogateescape") + b"\0" + text).digest()[:15]
    # Equal lines are as many tasks.
    times = seen[digest] = seen.get(digest, 0) + 1
    key = f"{KEY_PREFIX}{digest.hex()}" + (f":{times}" if times > 1 else "")
    return text[:-1] + (b"," if task else b"") + f'"idempotency_key":"{key}"}}'.encode()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def batches(lines: Iterable[TaskLine | BadLine], bad: Callable[[BadLine], None]) -> Iterator[list[TaskLine]]:
    """Lines in groups that a node takes at once; those that are refused here go to ``bad``."""
    group: list[TaskLine] = []
    size = 0
    for line in lines:
        if isinstance(line, BadLine):
            bad(line)
            continue
        if group and (len(group) == BATCH or size + len(line.task) > BATCH_BYTES):
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line.task) + 1
    if group:
        yield group
