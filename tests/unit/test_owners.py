"""Which partitions a member keeps time for as lists of members come and owners look or do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from delaybox.core.membership import Member
from delaybox.engine.clock_estimate import RedisClock
from delaybox.engine.lost_owners import PATIENCE_MS, StandIn
from delaybox.engine.ownership import Ownership, shared
from delaybox.engine.successors import _Awaited
from delaybox.store.promises import Promise


def parts(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


def test_what_is_ceded_is_kept_until_it_is_released():
    own = Ownership(4)
    kept: list[frozenset[int]] = []
    own.follow(kept.append)
    own.assign(parts(0, 1), parts(2))
    assert own.kept == parts(0, 1), "what it kept before the first list is no promise to others"
    own.act(2)
    own.assign(parts(1, 3), parts(), cedes=True)
    assert (own.ceded, own.kept) == (parts(0, 2), parts(0, 1, 2, 3)), "what it owned, and what it kept for an owner"
    own.release(parts(0))
    assert (own.ceded, own.kept) == (parts(2), parts(1, 2, 3))
    own.assign(parts(1, 2), parts(3), cedes=True)
    assert (own.ceded, own.kept) == (parts(3), parts(1, 2, 3))
    own.release(parts(3))
    assert kept[-1] == own.kept == own.owned == parts(1, 2)


@pytest.mark.parametrize(
    ("looker", "looked_ms", "seen"), [("new", 1_000, True), ("new", 999, False), ("other", 1_000, False)]
)
def test_a_new_owner_is_seen_by_a_look_since_it_is_the_owner(looker: str, looked_ms: int, seen: bool):
    promise = Promise(until_ms=2_000, late_ms=0, looker=looker, looked_ms=looked_ms)
    assert _Awaited("new", since_ms=1_000, until=0.0).looks(promise) is seen


@pytest.mark.parametrize("looker", ["owner", "me"])
def test_a_stand_in_acts_where_the_last_look_was_its_own(looker: str):
    """As of a partition that it ceded to an owner that never looked."""
    own = Ownership(1)
    own.assign(parts(), parts(0))
    none: Any = None
    stand_in = StandIn(none, own, "me", RedisClock())
    silent: list[tuple[int, Promise]] = []
    promise = Promise(until_ms=1_000, late_ms=0, looker=looker, looked_ms=900)
    try:
        stand_in._judge(0, promise, 1_000 + int(PATIENCE_MS), silent)
        assert not own.acts(0)
        stand_in._judge(0, promise, 1_001 + int(PATIENCE_MS), silent)
        assert own.acts(0) and silent == [(0, promise)]
        # Its own looks do not show that the owner is back.
        own_look = Promise(until_ms=1_200, late_ms=0, looker="me", looked_ms=1_150)
        stand_in._judge(0, own_look, 1_160, silent)
        assert own.acts(0)
        stand_in._judge(0, replace(own_look, looker="owner"), 1_160, silent)
        assert not own.acts(0)
    finally:
        stand_in.close()


async def test_partitions_go_by_what_members_can_do_once_all_of_them_state_it():
    """A node of the previous version divides evenly, so in a fleet with one all do, or two would own a partition."""

    async def owned(slow: float | None) -> dict[str, int]:
        members = [Member(id="fast", capacity=1.0), Member(id="slow", capacity=slow)]
        owners = [share.owner for share in await shared(members, 64)]
        return {member.id: owners.count(member.id) for member in members}

    assert await owned(None) == await owned(1.0) == {"fast": 32, "slow": 32}
    divided = await owned(0.25)
    assert divided["slow"] <= 13 and sum(divided.values()) == 64
