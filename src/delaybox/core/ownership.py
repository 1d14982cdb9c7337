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
_ASKED = -math.inf
"""In place of the score of a member that was asked already."""


class Candidate(NamedTuple):
    """A member that can own partitions.

    ``capacity``: how much it can do compared with others. It is static, because a figure that follows the load would
    move partitions all the time. ``host``: its machine; members of one machine may die together.
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
    table = [scores(m.id, m.capacity, partitions) for m in known]
    columns = [list(column) for column in zip(*table, strict=True)]
    first = [_take(column) for column in columns]
    second = [_best(column) for column in columns]
    owners = _matched(columns, first, [cap(m.capacity, total, partitions) for m in known])
    apart = len({m.host for m in known}) > 1
    out: list[Assignment] = []
    for p, owner in enumerate(owners):

        def suits(m: int, owner: int = owner) -> bool:
            return m != owner and not (apart and known[m].host == known[owner].host)

        beside = next((m for m in (first[p][1], second[p]) if m >= 0 and suits(m)), -1)
        if beside < 0:
            # The two best are no use, which is rare: all are looked at.
            beside = max((m for m in range(len(known)) if suits(m)), key=lambda m: table[m][p], default=-1)
        out.append(Assignment(known[owner].id, known[beside].id if beside >= 0 else ""))
    return out


def _matched(columns: Sequence[list[float]], first: Sequence[tuple[float, int]], caps: Sequence[int]) -> list[int]:
    """Each partition asks members from its best one on; a member that is full keeps the partitions that it suits
    best. ``columns``: the scores of each partition; ``first``: what was taken out of each already."""
    owners = [-1] * len(columns)
    held: list[list[tuple[float, int]]] = [[] for _ in caps]
    waiting = [(score, m, p) for p, (score, m) in enumerate(first)]
    while waiting:
        score, m, p = waiting.pop()
        insort(held[m], (score, p))
        owners[p] = m
        if len(held[m]) > caps[m]:
            _, refused = held[m].pop(0)
            owners[refused] = -1
            waiting.append((*_take(columns[refused]), refused))
    return owners


def _take(column: list[float]) -> tuple[float, int]:
    """The highest score and its member, which is asked no more."""
    best = _best(column)
    score, column[best] = column[best], _ASKED
    return score, best


def _best(column: Sequence[float]) -> int:
    """The member with the highest score; -1 where all were asked."""
    # Both walk the column in C, which counts where there are a thousand members.
    best = max(column)
    return -1 if best == _ASKED else column.index(best)
