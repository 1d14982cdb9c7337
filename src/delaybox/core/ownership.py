"""Which member keeps time for which partition: rendezvous hashing under a cap. Pure: every member computes the same
result from the same list.

Each member has a score for each partition, made of both names alone, so a change of the list moves little. Without a
cap the busiest of 12 members would have 2.6 times the mean of 16 partitions; with it the partitions whose best member
is full go to their next best. That is a stable matching, so it does not depend on the order in which it is computed.
"""

from __future__ import annotations

import math
from array import array
from bisect import insort
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from struct import unpack
from typing import NamedTuple

_PER_DIGEST = 8


class Candidate(NamedTuple):
    """A member that can own partitions.

    ``capacity``: how much it can do compared with others, such as its cores. It is static, because a figure that
    follows the load would move partitions all the time. ``host``: its machine; members of one machine may die together.
    """

    id: str
    host: str = ""
    capacity: float = 1.0


class Assignment(NamedTuple):
    """Ids of the members that look after one partition. ``stand_in``: "" where there is no second member."""

    owner: str
    stand_in: str


def cap(capacity: float, total: float, partitions: int) -> int:
    """The most partitions that a member may own: its share, rounded up."""
    return max(1, math.ceil(partitions * capacity / total - 1e-9))


@lru_cache(maxsize=4_096)
def scores(member: str, capacity: float, partitions: int) -> array[float]:
    """How well a member suits each partition: the higher the better, below 0, and the same in every process."""
    out = array("d")
    for block in range(0, partitions, _PER_DIGEST):
        digest = blake2b(f"{member}/{block}".encode(), digest_size=64).digest()
        # Logarithmic weights (weighted rendezvous): a member of twice the capacity is the best twice as often.
        out.extend([math.log((n + 0.5) / 2.0**64) / capacity for n in unpack(">8Q", digest)])
    return out[:partitions]


def assigned(members: Sequence[Candidate], partitions: int) -> list[Assignment]:
    """Owner and stand-in of every partition; [] without members. Ids must differ."""
    if not members:
        return []
    known = sorted(members)
    total = sum(m.capacity for m in known)
    columns = list(zip(*(scores(m.id, m.capacity, partitions) for m in known), strict=True))
    owners = _matched(columns, [cap(m.capacity, total, partitions) for m in known])
    apart = len({m.host for m in known}) > 1
    out: list[Assignment] = []
    for column, owner in zip(columns, owners, strict=True):
        second = _best(column, math.inf)
        while second >= 0 and (second == owner or (apart and known[second].host == known[owner].host)):
            second = _best(column, column[second])
        out.append(Assignment(known[owner].id, known[second].id if second >= 0 else ""))
    return out


def _matched(columns: Sequence[Sequence[float]], caps: Sequence[int]) -> list[int]:
    """Each partition asks members from its best one on; a member that is full keeps the partitions that it suits
    best."""
    owners = [-1] * len(columns)
    asked = [math.inf] * len(columns)
    held: list[list[tuple[float, int]]] = [[] for _ in caps]
    waiting = list(range(len(columns)))
    while waiting:
        p = waiting.pop()
        m = _best(columns[p], asked[p])
        asked[p] = columns[p][m]
        insort(held[m], (asked[p], p))
        owners[p] = m
        if len(held[m]) > caps[m]:
            _, refused = held[m].pop(0)
            owners[refused] = -1
            waiting.append(refused)
    return owners


def _best(column: Sequence[float], below: float) -> int:
    """The member with the highest score under ``below``; -1 where there is none."""
    best = max(column) if below == math.inf else max((s for s in column if s < below), default=0.0)
    return -1 if best == 0.0 else column.index(best)
