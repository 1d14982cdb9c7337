"""Limits of a queue for each key by itself, such as each customer: their rules, and how keys are named. Pure.

A limit key stands for all tasks of one queue whose label (or fairness key, or group) has one value. Its name is queue,
byte 1, what it goes by, byte 1, value; scripts/lib/limit_keys.lua spells the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from delaybox.core.limits import LABEL, LABEL_FORM
from delaybox.core.queue_limits import Pool, Rate
from delaybox.core.words import unknown

FAIRNESS_KEY = "fairness_key"
GROUP = "group"
LABEL_PREFIX = "label:"
BY_FORM = "label:NAME, fairness_key or group"
MOST_KEY_LIMITS = 4
"""Of one queue."""
MOST_KNOWN = 100_000
"""Permits of keys that a partition knows at once; tasks of further keys wait until some are used no more."""
_APART = b"\1"
_LONGEST = 64
"""Bytes of a value that stand in a name as they are."""
_HASHED = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimit:
    """``by``: ``label:NAME``, ``fairness_key`` or ``group``; tasks without that one are not limited by it. At least one
    of ``concurrency`` and ``rate`` is set; ``burst`` belongs to the rate."""

    by: str
    concurrency: int | None = None
    rate: Rate | None = None
    burst: int | None = None

    def __str__(self) -> str:
        what = [f"concurrency {self.concurrency}"] if self.concurrency is not None else []
        what += [f"rate {self.rate}"] if self.rate is not None else []
        return f"{' and '.join(what)} for each {self.by}"

    def pools(self, key: bytes) -> list[Pool]:
        """The permits that a task of this limit key needs: one of each."""
        found: list[Pool] = []
        if self.concurrency is not None:
            found.append(Pool(b"c" + key, self.concurrency))
        if self.rate is not None:
            found.append(Pool(b"r" + key, *self.rate.permits(self.burst)))
        return found


def checked_by(field: str, by: str) -> str:
    """What a limit goes by. ValueError, whose text says what is wrong and how to mend it."""
    if by.startswith(LABEL_PREFIX):
        name = by.removeprefix(LABEL_PREFIX)
        if LABEL.fullmatch(name) is None:
            raise ValueError(f"{field} {by[:100]!r} names no label; behind {LABEL_PREFIX} give {LABEL_FORM}")
        return by
    if by not in (FAIRNESS_KEY, GROUP):
        known = (FAIRNESS_KEY, GROUP, f"{LABEL_PREFIX}NAME")
        raise ValueError(f"{field} {unknown(by, known, {}, where='what a limit goes by')}")
    return by


def name_of(queue: bytes, by: str, value: str) -> bytes:
    """The limit key of a value. ``queue``: as lanes spell it."""
    raw = value.encode()
    if len(raw) > _LONGEST or any(byte < 32 for byte in raw):
        # Some control bytes mean something in the names of sets.
        head = bytes(byte for byte in raw[:_HASHED] if byte >= 32)
        raw = head + b"~" + hashlib.sha1(raw, usedforsecurity=False).hexdigest().encode()
    return _APART.join((queue, by.encode(), raw))


@dataclass(frozen=True, slots=True)
class LimitKey:
    """A limit key's name, read. ``queue``: as lanes spell it; ``value``: of a long one the beginning and a hash."""

    queue: bytes
    by: str
    value: str


def read_name(name: bytes) -> LimitKey | None:
    """The parts of a limit key's name; None for the name of a whole queue."""
    queue, apart, rest = name.partition(_APART)
    if not apart:
        return None
    by, _, value = rest.partition(_APART)
    return LimitKey(queue, by.decode("utf-8", "replace"), value.decode("utf-8", "replace"))


def value_of(by: str, *, labels: Mapping[str, str], fairness_key: str, group: str) -> str | None:
    """What a limit goes by of a task with these; None: the limit does not hold for it."""
    if by == FAIRNESS_KEY:
        return fairness_key or None
    if by == GROUP:
        return group or None
    return labels.get(by.removeprefix(LABEL_PREFIX))
