"""Examples (exemplars) of histograms' buckets: one value, with the trace that it belongs to.

prometheus-client keeps them for one process alone. Here processes share them by the folder of their counters: each has
a file there that it writes without a system call, and any of them reads all.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import time
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from delaybox.processes import counters

MOST: Final = 512
"""Buckets of one process that have an example; further ones have none."""
_SLOT: Final = 512
_HEAD: Final = Struct("<HI")
"""Of a slot: the length of what follows, and its check sum. What is read while it is written has another one."""

Key = tuple[str, frozenset[tuple[str, str]]]
"""The name of the samples of a histogram's buckets, and the labels of one."""


class Example(NamedTuple):
    """``at_s``: when, in Unix seconds."""

    trace_id: str
    span_id: str
    value: float
    at_s: float


def keep(name: str, labels: Mapping[str, str], bounds: Sequence[float], value: float, traceparent: str) -> None:
    """Keeps a value of a histogram as the example of its bucket, if its trace is kept anywhere (sampled). ``bounds``:
    upper ones, ascending; ``traceparent``: a valid one."""
    _, trace_id, span_id, flags = traceparent.split("-")[:4]
    if not int(flags, 16) & 1:
        return
    at = bisect_left(bounds, value)
    le = _text(bounds[at]) if at < len(bounds) else "+Inf"
    _kept.put(
        (f"{name}_bucket", frozenset({**labels, "le": le}.items())), Example(trace_id, span_id, value, time.time())
    )


def kept() -> Mapping[Key, Example]:
    """The newest example of each bucket, of all processes that share the folder."""
    found = dict(_kept.own)
    folder = os.environ.get(counters.VARIABLE, "")
    for file in Path(folder).glob(counters.EXAMPLES.format("*")) if folder else ():
        with contextlib.suppress(OSError):  # that process has just ended
            for key, example in _read(file.read_bytes()):
                if key not in found or found[key].at_s < example.at_s:
                    found[key] = example
    return found


class _Kept:
    """Those of this process."""

    def __init__(self) -> None:
        self.own: dict[Key, Example] = {}
        self._slots: dict[Key, int] = {}
        self._file: mmap.mmap | None = None

    def put(self, key: Key, example: Example) -> None:
        slot = self._slots.get(key)
        if slot is None:
            if len(self._slots) >= MOST:
                return
            slot = self._slots[key] = len(self._slots)
        self.own[key] = example
        folder = os.environ.get(counters.VARIABLE)
        if folder and (file := self._file or self._opened(folder)) is not None:
            content = json.dumps([key[0], sorted(key[1]), *example], separators=(",", ":")).encode()
            if len(content) <= _SLOT - _HEAD.size:
                at = slot * _SLOT
                file[at : at + _HEAD.size + len(content)] = _HEAD.pack(len(content), zlib.crc32(content)) + content

    def _opened(self, folder: str) -> mmap.mmap | None:
        name = os.environ.get(counters.NAME_VARIABLE) or str(os.getpid())
        try:
            fd = os.open(Path(folder) / counters.EXAMPLES.format(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, 0)
                # Its room is taken now: on a file system that has none left, to write into a hole of a mapped file
                # ends the process by SIGBUS.
                os.posix_fallocate(fd, 0, MOST * _SLOT)
                self._file = mmap.mmap(fd, MOST * _SLOT)
            finally:
                os.close(fd)
        except OSError:  # the folder is gone, or full: examples are no reason to fail
            return None
        return self._file


_kept: Final = _Kept()


def _read(content: bytes) -> Iterator[tuple[Key, Example]]:
    for at in range(0, len(content) - _SLOT + 1, _SLOT):
        length, check = _HEAD.unpack_from(content, at)
        if not length:
            return
        text = content[at + _HEAD.size : at + _HEAD.size + length]
        if zlib.crc32(text) == check:
            name, labels, *example = json.loads(text)
            yield (name, frozenset((label, value) for label, value in labels)), Example(*example)


def _text(bound: float) -> str:
    """A bound as prometheus-client writes it."""
    return repr(float(bound))
