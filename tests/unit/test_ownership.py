"""Who owns what: every partition once, nobody over the cap, the same for everybody, and little moves."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delaybox.core.ownership import Assignment, Candidate, assigned, cap


def fleet(count: int, *, hosts: int = 0) -> list[Candidate]:
    return [Candidate(f"member-{n}", f"host-{n % (hosts or count)}") for n in range(count)]


def owned(assignment: list[Assignment]) -> Counter[str]:
    return Counter(a.owner for a in assignment)


@settings(deadline=None, max_examples=60)
@given(
    capacities=st.lists(st.sampled_from([1.0, 2.0, 4.0, 16.0]), min_size=1, max_size=12),
    partitions=st.sampled_from([1, 4, 16, 64]),
    seed=st.integers(0, 99),
)
def test_every_partition_has_one_owner_under_its_cap(capacities: list[float], partitions: int, seed: int):
    members = [Candidate(f"{seed}-{n}", f"host-{n % 3}", c) for n, c in enumerate(capacities)]
    found = assigned(members, partitions)
    total = sum(capacities)
    assert len(found) == partitions
    for m in members:
        assert owned(found)[m.id] <= cap(m.capacity, total, partitions)
    by_id = {m.id: m for m in members}
    apart = len({m.host for m in members}) > 1
    for a in found:
        assert (a.stand_in != "") == (len(members) > 1)
        assert a.stand_in != a.owner
        assert not apart or by_id[a.stand_in].host != by_id[a.owner].host
    assert assigned(random.Random(seed).sample(members, len(members)), partitions) == found


def test_nobody_owns_nothing():
    assert assigned([], 16) == []
    assert assigned([Candidate("a")], 2) == [Assignment("a", "")] * 2


def test_who_can_do_more_owns_more():
    found = owned(assigned([Candidate("small", capacity=2.0), Candidate("large", capacity=6.0)], 64))
    assert found["large"] == 48


@pytest.mark.parametrize(("members", "partitions"), [(3, 16), (12, 16), (12, 64), (50, 256)])
def test_a_change_moves_little(members: int, partitions: int):
    """Bound: twice the least that the cap allows and a newcomer needs."""
    rng = random.Random(7)
    living = {m.id: m for m in fleet(members)}
    before = assigned(list(living.values()), partitions)
    moved = least = 0
    for step in range(30):
        counts = owned(before)
        if step % 2:
            del living[rng.choice(sorted(living))]
            needed = 0
        else:
            living[f"new-{step}"] = Candidate(f"new-{step}", f"new-{step}")
            needed = partitions // len(living)
        most = cap(1.0, len(living), partitions)
        forced = sum(count - (min(count, most) if name in living else 0) for name, count in counts.items())
        after = assigned(list(living.values()), partitions)
        moved += sum(a.owner != b.owner for a, b in zip(before, after, strict=True))
        least += max(forced, needed)
        before = after
    assert moved <= 2 * least
