"""The token bucket of overdue work, by a clock that the test moves."""

from __future__ import annotations

from delaybox.engine.catchup import CatchUp

MOST = 1_000


class Hand:
    def __init__(self) -> None:
        self.ms = 0.0

    def __call__(self) -> float:
        return self.ms


def test_without_a_rate_nothing_is_limited_and_nobody_behind() -> None:
    free = CatchUp(0, 4)
    free.took(1, share=0, taken=9, overdue=9, clear=False)
    assert not free.limited and not free.behind(1) and free.shares([0, 1, 2, 3], MOST) == {}


def test_what_is_handed_out_is_the_rate_whatever_the_steps() -> None:
    for step in (1.0, 20.0, 33.0):
        hand = Hand()
        bucket = CatchUp(1_000, 16, hand)
        out = sum(bucket.shares(range(16), MOST).values())
        while hand.ms < 10_000:
            hand.ms += step
            out += sum(bucket.shares(range(16), MOST).values())
        assert 9_990 <= out <= 10_200


def test_few_tokens_go_round_all_partitions() -> None:
    hand = Hand()
    bucket = CatchUp(50, 16, hand)
    served: set[int] = set()
    for _ in range(60):
        hand.ms += 20.0
        served |= bucket.shares(range(16), MOST).keys()
    assert served == set(range(16))


def test_who_looks_alone_leaves_the_others_their_part() -> None:
    """Four have a backlog, three look at the same time and one half a tick later; each gets a quarter of the rate."""
    hand = Hand()
    bucket = CatchUp(1_000, 4, hand)
    got = [0, 0, 0, 0]

    def look(*due: int) -> None:
        for p, share in bucket.shares(due, MOST).items():
            got[p] += share
            bucket.took(p, share=share, taken=share, overdue=share, clear=False)

    look(0, 1, 2, 3)
    for _ in range(100):
        hand.ms += 10.0
        look(0)
        hand.ms += 10.0
        look(1, 2, 3)
    assert 2_000 <= sum(got) <= 2_100
    assert max(got) < 1.1 * min(got), got


def test_one_that_comes_later_gets_its_part_where_others_take_all_there_is() -> None:
    hand = Hand()
    bucket = CatchUp(100, 17, hand)
    got = [0] * 17

    def look(*due: int) -> None:
        for p, share in bucket.shares(due, MOST).items():
            got[p] += share
            bucket.took(p, share=share, taken=share, overdue=share, clear=False)

    for turn in range(1_000):
        hand.ms = 20.0 * turn
        look(*range(16))
        if turn >= 500:
            hand.ms += 7.0
            look(16)
    assert 1.8 * got[16] < max(got[:16]) < 2.4 * got[16], got


def test_one_that_does_not_come_back_leaves_its_part_to_the_others() -> None:
    hand = Hand()
    bucket = CatchUp(1_000, 4, hand)
    for p, share in bucket.shares([0, 1, 2, 3], MOST).items():
        bucket.took(p, share=share, taken=share, overdue=share, clear=False)
    got = 0
    for _ in range(100):
        hand.ms += 20.0
        (share,) = bucket.shares([0], MOST).values()
        bucket.took(0, share=share, taken=share, overdue=share, clear=False)
        got += share
    assert 1_900 <= got <= 2_000


def test_tokens_for_more_than_a_claim_may_bring_are_kept() -> None:
    bucket = CatchUp(100_000, 2, Hand())
    assert bucket.shares([0], 300) == {0: 300}
    assert bucket.shares([0, 1], 9_700) == {0: 4_850, 1: 4_850}


def test_a_pause_saves_up_no_more_than_a_tenth_of_a_second() -> None:
    hand = Hand()
    bucket = CatchUp(1_000, 1, hand)
    hand.ms = 60_000
    assert bucket.shares([0], MOST) == {0: 100}
    assert bucket.shares([0], MOST) == {}


def test_a_partition_is_behind_until_a_claim_finds_it_clear() -> None:
    hand = Hand()
    bucket = CatchUp(1_000, 2, hand)
    assert bucket.behind(0) and bucket.behind(1)
    shares = bucket.shares([0, 1], MOST)
    bucket.took(0, share=shares[0], taken=3, overdue=0, clear=True)
    bucket.took(1, share=shares[1], taken=shares[1], overdue=0, clear=True)
    assert not bucket.behind(0) and bucket.behind(1)
    # What was not used is there for the other.
    assert bucket.shares([0, 1], MOST) == {1: shares[0] - 3}


def test_overdue_work_that_nobody_expected_is_paid_afterwards() -> None:
    hand = Hand()
    bucket = CatchUp(1_000, 1, hand)
    bucket.took(0, share=bucket.shares([0], MOST)[0], taken=0, overdue=0, clear=True)
    assert not bucket.behind(0)
    bucket.took(0, share=0, taken=600, overdue=600, clear=False)
    assert bucket.behind(0)
    hand.ms = 450
    assert bucket.shares([0], MOST) == {}
    hand.ms = 560
    assert sum(bucket.shares([0], MOST).values()) in range(50, 70)
