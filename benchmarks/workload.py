"""The tasks that every subject is given: ids that carry the due time, payloads of one size, spreads of due times."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from delaybox.core import ids

PAYLOAD_BYTES = 110
CHUNK = 1000
"""Tasks in one bulk call, as the peers' figures were taken."""
UNDER_WAY = 4
"""Bulk calls one client keeps under way at once."""
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
YEAR_MS = 365 * DAY_MS

Item = tuple[bytes, int, bytes]
"""id, due ms, payload"""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def payload(rng: random.Random) -> bytes:
    """Random bytes: nothing for an allocator or a serializer to gain from."""
    return rng.randbytes(PAYLOAD_BYTES)


def raw_id(rng: random.Random, due: int) -> bytes:
    """16 bytes for subjects that do not make ids: due time first, as ours."""
    return due.to_bytes(6, "big") + rng.randbytes(10)


def items(count: int, rng: random.Random, due: Callable[[int], int]) -> list[Item]:
    """``count`` tasks; ``due`` gets the number of the task."""
    body = payload(rng)
    moments = [due(i) for i in range(count)]
    return [(raw_id(rng, moment), moment, body) for moment in moments]


def spread_over(rng: random.Random, span_ms: int, *, start_ms: int | None = None) -> Callable[[int], int]:
    """Due times at random over ``span_ms``, from an hour ahead unless said."""
    first = now_ms() + HOUR_MS if start_ms is None else start_ms
    return lambda _: first + int(rng.random() * span_ms)


def every(rate: int, start_ms: int) -> Callable[[int], int]:
    """Due times evenly at ``rate`` a second."""
    return lambda i: start_ms + i * 1000 // rate


def due_of(task_id: bytes) -> int:
    """The due time in an id, ours or a raw one."""
    return ids.due_ms(task_id)


def burn(seed: int) -> int:
    """Some tens of milliseconds of plain Python."""
    value = seed + 1
    for _ in range(200_000):
        value = (value * 1_103_515_245 + 12_345) & 0x7FFFFFFF
    return value


def burn_little(seed: int) -> int:
    """0.2 ms of computing, so little that what carries the call counts."""
    until = time.perf_counter() + 0.0002
    while time.perf_counter() < until:
        seed = seed * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
    return seed
