"""Who claims which lane where: one member each, those with more places more often."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from delaybox.core.placement import Server, placed

LANES = (b"wmail:f", b"wmail:g", b"wlow:f")


@settings(deadline=None, max_examples=60)
@given(
    served=st.lists(st.frozensets(st.sampled_from(LANES)), min_size=1, max_size=6),
    places=st.lists(st.integers(0, 500), min_size=6, max_size=6),
    partitions=st.sampled_from([1, 16, 64]),
)
def test_each_lane_has_one_placer_in_each_partition(served: list[frozenset[bytes]], places: list[int], partitions: int):
    servers = [Server(f"m{n}", places[n], lanes) for n, lanes in enumerate(served)]
    found = {server.id: placed(server.id, servers, partitions) for server in servers}
    for p in range(partitions):
        claimed = [lane for lanes in found.values() for lane in lanes[p]]
        assert sorted(claimed) == sorted({lane for lanes in served for lane in lanes})


def test_who_has_more_places_claims_in_more_partitions():
    lane = frozenset(LANES[:1])
    servers = [Server("small", 100, lane), Server("large", 300, lane)]
    large = sum(bool(lanes) for lanes in placed("large", servers, 256))
    assert 160 <= large <= 224


def test_a_stranger_claims_nothing():
    assert placed("stranger", [Server("a", 1, frozenset(LANES))], 4) == [frozenset()] * 4
