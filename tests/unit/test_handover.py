"""Whom a member waits for before it sends messages for Kafka of partitions that changed hands."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from delaybox.core.membership import Activity, Member
from delaybox.engine.handover import HandOver

NONE = frozenset[int]()
HERE = frozenset({3})


class Claims:
    """What is left of a tracker: where it withholds such tasks."""

    def __init__(self) -> None:
        self.withheld = NONE

    def withhold(self, partitions: frozenset[int]) -> None:
        self.withheld = partitions

    def claims(self, partition: int) -> bool:
        return False


def shows(name: str, *partitions: int) -> Member:
    return Member(id=name, kind="clock", activity=Activity(partitions=partitions))


@pytest.fixture
async def claims() -> Claims:
    return Claims()


@pytest.fixture
async def me(claims: Claims) -> AsyncIterator[HandOver]:
    made = HandOver("me", claims, lambda _: False, lambda: None)
    yield made
    made.close()


async def test_a_new_owner_waits_until_the_former_one_has_sent_all(me: HandOver, claims: Claims) -> None:
    me.listed(HERE, [shows("former", 3)], gained=HERE, ceded=NONE)
    assert claims.withheld == HERE
    me.listed(HERE, [shows("former")], gained=NONE, ceded=NONE)
    assert claims.withheld == NONE


async def test_a_stand_in_that_cedes_a_partition_waits_as_long_as_before(me: HandOver, claims: Claims) -> None:
    me.acts(HERE, NONE)
    me.acts(NONE, HERE)
    assert claims.withheld == HERE
    me.acts(NONE, NONE)
    assert claims.withheld == NONE


async def test_one_that_cedes_a_partition_goes_on_to_wait_for_the_owner_before_it(me: HandOver, claims: Claims) -> None:
    """It claims there until the next owner looks, and would overtake what the first one is about to send."""
    me.listed(HERE, [shows("former", 3)], gained=HERE, ceded=NONE)
    me.listed(NONE, [shows("former", 3), shows("next", 3)], gained=NONE, ceded=HERE)
    assert claims.withheld == HERE
    me.listed(NONE, [shows("former"), shows("next")], gained=NONE, ceded=HERE)
    assert claims.withheld == NONE
