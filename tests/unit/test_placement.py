"""Who claims which lane where: one member each, those with more places more often."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from delaybox.core.placement import Server, placed
from delaybox.engine.placement import Placement

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


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 9), seed=st.integers(0, 10**15), waiting=st.integers(0, 300))
def test_a_call_draws_pairs_on_which_all_agree(count: int, seed: int, waiting: int):
    ids = [f"m{n}" for n in range(count)]
    drawn = {name: placement(name, ids).drawn(seed, waiting) for name in ids}
    called = 1 + waiting // 50
    if called >= count:
        assert drawn == {name: (name,) for name in ids}
        return
    pairs = {pair for pair in drawn.values() if pair}
    assert all(pair == drawn[name] for pair in pairs for name in pair), "the same pair for both"
    assert sum(map(len, pairs)) == min(2 * called, count)
    assert sum(len(pair) == 1 for pair in pairs) <= 1, "only one that is left over has nobody beside it"


def test_members_that_run_different_functions_do_not_wait_for_each_other():
    servers = [Server("a", 10, frozenset(LANES[:2])), Server("b", 10, frozenset(LANES[2:]))]
    found = Placement("a", 4)
    found.assign(servers)
    assert sorted(found.drawn(7, 0)) == ["a", "b"]
    assert not found.run_the_same(["a", "b"]) and placement("m1", ["m1", "m2"]).run_the_same(["m1", "m2"])


def test_who_asks_for_help_is_not_drawn_itself():
    ids = [f"m{n}" for n in range(3)]
    for seed in range(100):
        assert placement("m1", ids).drawn(placement("m1", ids).seed_for_others(seed), 0) == ()
    assert placement("m1", ids[:2]).seed_for_others(7) == 7, "of two there is no other seed"


def placement(name: str, ids: list[str]) -> Placement:
    found = Placement(name, 4)
    found.assign([Server(one, 10, frozenset(LANES)) for one in ids])
    return found
