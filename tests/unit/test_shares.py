"""How a taker divides too few slots: critical first, the floor, queues by weight."""

from __future__ import annotations

from collections import Counter

from delaybox.core.shares import Part, Shares, Waiting


def taken(parts: dict[int, Part]) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    for part in parts.values():
        found.update(part.lanes)
    return found


def test_critical_first_wherever_it_lies_and_one_of_twenty_for_the_others() -> None:
    shares, critical, others = Shares(lambda _: 1.0), 0, 0
    waiting = {0: Waiting(0, 500, {}), 1: Waiting(10_000, 0, {}), 2: Waiting(3, 7, {})}
    for _ in range(1_000):
        parts = shares.plan(7, waiting, 250)
        now, rest = sum(p.critical for p in parts.values()), sum(p.others for p in parts.values())
        assert now + rest == 7
        shares.took(now, {b"wq": rest} if rest else {})
        critical, others = critical + now, others + rest
    assert 0.04 <= others / (critical + others) <= 0.06


def test_a_partition_gives_no_more_than_a_claim_may_take() -> None:
    parts = Shares(lambda _: 1.0).plan(500, {0: Waiting(300, 300, {}), 1: Waiting(0, 300, {})}, 250)
    assert {p: (part.critical, part.others) for p, part in parts.items()} == {0: (250, 0), 1: (0, 250)}


def test_queues_share_by_weight_and_what_one_leaves_goes_to_the_others() -> None:
    weights = {"a": 1.0, "b": 2.5, "short": 50.0}
    shares = Shares(weights.__getitem__)
    left = {0: {b"wa": 10_000, b"wshort": 3}, 1: {b"wb:f": 5_000, b"wb:g": 5_000}}
    sums: Counter[bytes] = Counter()
    for _ in range(35):
        parts = shares.plan(100, {p: Waiting(0, sum(lanes.values()), lanes) for p, lanes in left.items()}, 250)
        now = taken(parts)
        shares.took(0, now)
        sums.update(now)
        for lanes in left.values():
            for lane in lanes:
                lanes[lane] -= now[lane]
    a, b, short = sums[b"wa"], sums[b"wb:f"] + sums[b"wb:g"], sums[b"wshort"]
    assert short == 3 and a + b == 3_497 and abs(b / a - 2.5) < 0.05


def test_a_queue_that_was_away_starts_where_the_others_stand() -> None:
    shares = Shares(lambda _: 1.0)
    for _ in range(10):
        shares.took(0, taken(shares.plan(100, {0: Waiting(0, 500, {b"wa": 500})}, 250)))
    both = {0: Waiting(0, 1_000, {b"wa": 500, b"wb": 500})}
    assert abs(taken(shares.plan(100, both, 250))[b"wb"] - 50) <= 1


def test_a_queue_whose_partition_is_being_claimed_from_keeps_its_turn() -> None:
    shares, sums = Shares(lambda _: 1.0), Counter[bytes]()
    for turn in range(400):
        lanes = {0: {b"wa": 10_000}, 1: {b"wb": 10_000}}
        hidden = lanes.pop(1) if turn % 2 else {}
        now = taken(shares.plan(20, {p: Waiting(0, 10_000, one) for p, one in lanes.items()}, 250, hidden))
        shares.took(0, now)
        sums.update(now)
    assert abs(sums[b"wa"] - sums[b"wb"]) <= 20
