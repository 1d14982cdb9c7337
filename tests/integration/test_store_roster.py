"""The list of members, by a clock that the test moves: who ranks, who is silent, who is back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from delaybox.core.membership import Activity, Member
from delaybox.engine.membership import Identity, Membership
from delaybox.store import keys, nodes, roster
from delaybox.store.roster import Beat, Roster
from delaybox.wire import members as wire_members
from tests.lab import Lab
from tests.waiting import PATIENCE_S

KEPT_MS = 75_000


async def beat(lab: Lab, name: str, *, ending: bool = False) -> Beat:
    return await roster.beat(lab.store, name, f"record of {name}".encode(), ending=ending)


async def ranking(lab: Lab) -> set[str]:
    return set((await roster.read(lab.store)).ranking)


async def pass_time(lab: Lab, ms: int, *living: str) -> None:
    """Lets time pass while these beat every half second."""
    for _ in range(ms // 500):
        await lab.move(500)
        for name in living:
            await beat(lab, name)


async def test_who_beats_is_on_the_list_and_the_version_says_when_it_changed(lab: Lab):
    first = await beat(lab, "a")
    again = await beat(lab, "a")
    other = await beat(lab, "b")
    assert first.ranks and again == first and other.version == first.version + 1
    found = await roster.read(lab.store)
    assert found == Roster(
        lab.now,
        other.version,
        lab.now + 1,
        True,
        {"a": b"record of a", "b": b"record of b"},
        frozenset("ab"),
        frozenset("ab"),
        frozenset(),
    )


async def test_a_change_is_announced(lab: Lab):
    channel = lab.client.pubsub()
    await channel.subscribe(keys.members_channel(lab.store.prefix))
    await channel.get_message(timeout=PATIENCE_S)
    version = (await beat(lab, "a")).version
    assert int((await channel.get_message(timeout=PATIENCE_S))["data"]) == version
    await beat(lab, "a")
    await roster.leave(lab.store, "a")
    assert int((await channel.get_message(timeout=PATIENCE_S))["data"]) == version + 1
    await channel.aclose()


async def test_who_is_silent_ranks_no_more_and_is_forgotten_later(lab: Lab):
    await beat(lab, "a")
    await beat(lab, "b")
    await pass_time(lab, 1_500, "a")
    assert await ranking(lab) == {"a"}
    assert "b" in (await roster.read(lab.store)).records, "what it said is kept for a while"
    await pass_time(lab, KEPT_MS, "a")
    assert set((await roster.read(lab.store)).records) == {"a"}


async def test_who_comes_back_ranks_after_a_time_of_punctual_beats(lab: Lab):
    await beat(lab, "a")
    await beat(lab, "b")
    await pass_time(lab, 2_000, "a")
    back = await beat(lab, "b")
    assert not back.ranks and await ranking(lab) == {"a"}
    assert (await roster.read(lab.store)).living == {"a", "b"}
    await pass_time(lab, 4_500, "a", "b")
    assert await ranking(lab) == {"a"}
    before = (await beat(lab, "a")).version
    await pass_time(lab, 500, "a", "b")
    assert await ranking(lab) == {"a", "b"}
    assert (await beat(lab, "a")).version > before


async def test_who_came_back_and_misses_beats_begins_its_time_of_punctual_beats_anew(lab: Lab):
    """Also where nobody could beat, so that nobody was taken off the list meanwhile."""
    await beat(lab, "a")
    await beat(lab, "b")
    await pass_time(lab, 2_000, "a")
    assert not (await beat(lab, "b")).ranks
    await pass_time(lab, 3_500, "a", "b")
    await lab.move(2_000)
    await beat(lab, "a")
    assert not (await beat(lab, "b")).ranks
    await pass_time(lab, 4_500, "a", "b")
    assert await ranking(lab) == {"a"}
    await pass_time(lab, 500, "a", "b")
    assert await ranking(lab) == {"a", "b"}


async def test_one_that_came_back_is_told_from_one_that_is_ending(lab: Lab):
    for name in "abc":
        await beat(lab, name)
    await pass_time(lab, 2_000, "a", "c")
    await beat(lab, "b")
    await beat(lab, "c", ending=True)
    found = await roster.read(lab.store)
    assert found.ranking == {"a"} and found.returned == {"b"} and found.living == {"a", "b", "c"}


async def test_a_version_never_stands_for_two_lists(lab: Lab):
    """Such as after a fail-over to a copy that is a little behind, or after the keys were lost."""
    await beat(lab, "a")
    before = (await beat(lab, "b")).version
    await lab.client.delete(f"{{{keys.nodes(lab.store.prefix)}}}:list")
    await lab.move(100)
    after = [(await beat(lab, name)).version for name in "xy"]
    assert before not in after


async def test_after_an_outage_nobody_is_judged_before_everybody_had_the_chance_to_beat(lab: Lab):
    await beat(lab, "a")
    await beat(lab, "b")
    await lab.move(60_000)
    assert (await beat(lab, "a")).ranks
    assert await ranking(lab) == {"a", "b"}
    await pass_time(lab, 1_000, "a")
    assert await ranking(lab) == {"a", "b"}
    await pass_time(lab, 500, "a")
    assert await ranking(lab) == {"a"}


async def test_one_that_is_ending_lives_and_owns_nothing(lab: Lab):
    await beat(lab, "a")
    version = (await beat(lab, "b")).version
    ended = await beat(lab, "b", ending=True)
    assert not ended.ranks and ended.version == version + 1
    assert (await beat(lab, "b", ending=True)).version == version + 1
    found = await roster.read(lab.store)
    assert found.ranking == {"a"} and found.living == {"a", "b"}
    await roster.leave(lab.store, "b")
    assert set((await roster.read(lab.store)).records) == {"a"}


async def test_many_that_die_at_once_are_taken_off_a_few_at_a_time(lab: Lab):
    for n in range(20):
        await beat(lab, f"dead-{n}")
    await beat(lab, "a")
    await lab.move(1_000)
    await beat(lab, "a")
    await lab.move(500)
    await beat(lab, "a")
    assert len(await ranking(lab)) == 13
    await beat(lab, "a")
    await beat(lab, "a")
    assert await ranking(lab) == {"a"}


async def test_a_clock_that_is_set_back_leaves_nobody_for_ever(lab: Lab):
    await beat(lab, "a")
    await beat(lab, "b")
    await lab.move(-3_600_000)
    await pass_time(lab, 4_000, "a")
    assert await ranking(lab) == {"a"}


async def test_one_that_came_back_ranks_in_time_where_the_clock_was_set_back(lab: Lab):
    """Else it would own nothing until the clock was where it had been."""
    await beat(lab, "a")
    await beat(lab, "b")
    await pass_time(lab, 1_500, "a")
    assert not (await beat(lab, "b")).ranks
    await lab.move(-3_600_000)
    await pass_time(lab, 6_000, "a", "b")
    assert await ranking(lab) == {"a", "b"}


async def test_a_read_brings_the_records_that_others_must_read_anew(lab: Lab):
    for name in "abc":
        await beat(lab, name)
    known = (await roster.read(lab.store)).noted
    await beat(lab, "a")
    found = await roster.read(lab.store, known)
    assert (found.whole, found.records, found.living) == (False, {}, frozenset("abc")), "a beat like the ones before"
    version = found.version
    await roster.beat(lab.store, "a", b"later", noted=True)
    assert (await roster.read(lab.store, known)).version == version
    now = await roster.beat(lab.store, "b", b"at once", changed=True)
    found = await roster.read(lab.store, known)
    assert found.version == now.version > version
    assert found.records == {"a": b"later", "b": b"at once"} and found.ranking == frozenset("abc")
    await beat(lab, "c", ending=True)
    await roster.leave(lab.store, "a")
    found = await roster.read(lab.store, found.noted)
    assert (found.records, found.living) == ({"c": b"record of c"}, frozenset("bc"))
    assert (await roster.read(lab.store, found.noted + 60_000)).whole, "of a list that was lost"


async def test_a_reader_knows_what_a_reader_of_the_whole_list_knows(lab: Lab):
    """Whatever members do, also those of earlier versions, whose beats note nothing."""
    rng, reader = random.Random(13), nodes.MemberList(lab.store)
    for round_ in range(120):
        name = rng.choice("abcdef" if round_ < 60 else "abcdefgh")
        old = name in "gh"
        member = Member(id=name, version=str(round_), noted=not old)
        match rng.randrange(6):
            case 0:
                await nodes.leave(lab.store, name)
            case 1:
                await lab.move(rng.choice([400, 800, 1_600]))
            case step:
                raised = step == 2 or rng.random() < 0.1
                await nodes.beat(lab.store, member, changed=raised, noted=not old, ending=rng.random() < 0.1)
        if rng.random() < 0.5:
            found, whole = await reader.read(), await nodes.MemberList(lab.store).read()
            assert found == whole


async def test_a_beat_without_a_record_keeps_a_member_on_the_list(lab: Lab):
    for name in "ab":
        version = (await beat(lab, name)).version
    for _ in range(10):
        await pass_time(lab, 500, "a")
        assert await roster.bare(lab.store, "b") == Beat(lab.now, version, True)
    found = await roster.read(lab.store)
    assert found.ranking == {"a", "b"} and found.records["b"] == b"record of b"


async def test_who_is_off_the_list_comes_back_with_a_record_alone(lab: Lab):
    await beat(lab, "a")
    assert await roster.bare(lab.store, "b") is None
    await beat(lab, "b")
    await pass_time(lab, 2_000, "a")
    before = await roster.read(lab.store)
    assert await roster.bare(lab.store, "b") is None
    assert await roster.read(lab.store) == before and before.living == {"a"}
    assert not (await beat(lab, "b")).ranks


async def test_when_others_must_be_looked_after_a_record_is_asked_for(lab: Lab):
    """Who beats with it judges those who were silent."""
    for name in "abc":
        await beat(lab, name)
    await pass_time(lab, 1_000, "a", "b")
    await lab.move(500)
    assert await roster.bare(lab.store, "a") is None
    await beat(lab, "a")
    assert await ranking(lab) == {"a", "b"}
    assert await roster.bare(lab.store, "b") is not None


async def test_in_a_large_list_every_third_beat_writes_the_record(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nodes, "MANY", 2)
    senders = {name: nodes.OwnBeats(lab.store) for name in "abcd"}
    written: dict[str, list[int]] = {name: [] for name in senders}
    living = {"abc"[n] for n in range(3)}
    for turn in range(12):
        for name, sender in senders.items():
            if name != "d" or turn < 4:
                await sender.beat(Member(id=name, seen_ms=lab.now, noted=True), len(living))
        shown = {member.id: member.seen_ms for member in await nodes.live(lab.store)}
        assert all(shown[name] == lab.now for name in "abc"), "the moment of the last beat, with a record or without"
        assert shown["d"] == lab.now - max(0, turn - 3) * 500
        for name in senders:
            found = await roster.read(lab.store)
            written[name].append(wire_members.seen_ms(found.records[name]))
        assert ("d" in await ranking(lab)) == (turn < 6), "it is judged after 1.5 s"
        await lab.move(500)
    # The first beat after a while looks after the others.
    assert len(set(written["a"])) == 12
    assert len(set(written["b"])) == len(set(written["c"])) == 4
    # What others must know at once is written at once.
    for _ in range(3):
        await senders["b"].beat(Member(id="b", seen_ms=lab.now, version="9"), 3, noted=True)
    assert b'"version":"9"' in (await roster.read(lab.store)).records["b"]


async def test_what_came_back_is_looked_for_only_while_somebody_did(lab: Lab):
    async def commands() -> int:
        await lab.client.config_resetstat()
        await beat(lab, "a")
        found: dict[str, Any] = await lab.client.info("commandstats")
        return int(found.get("cmdstat_zscore", {"calls": 0})["calls"])

    await beat(lab, "a")
    await beat(lab, "b")
    assert await commands() == 0
    await beat(lab, "b", ending=True)
    assert await commands() == 1
    await roster.leave(lab.store, "b")
    await pass_time(lab, 500, "a")
    assert await commands() == 0


class Listing:
    """A member that is driven by hand. ``lanes``: what it serves; ``seen``: the lanes of each member as it knows."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lanes = (b"w:f",)
        self.seen: dict[str, tuple[bytes, ...]] = {}
        self.membership = Membership(lab.store, Identity(id=name), lambda: Activity(lanes=self.lanes), self)

    async def listed(
        self,
        ranking: Sequence[Member],
        returned: Sequence[Member],
        ending: Sequence[Member] = (),
        changed_ms: int = 0,
    ) -> None:
        self.seen = {member.id: member.activity.lanes for member in ranking}

    async def beat(self) -> None:
        await self.membership._beat()


async def test_what_a_failover_loses_of_a_note_is_noted_again(lab: Lab):
    a, b = Listing(lab, "a"), Listing(lab, "b")
    for one in (a, b, a):
        await one.beat()
    assert a.seen == {"a": (b"w:f",), "b": (b"w:f",)}
    before = {name: await lab.client.dump(name) for name in await lab.client.keys(f"*{lab.store.prefix}:nodes*")}
    b.lanes = (b"w:g",)
    await b.beat()
    # The server that takes over never got that.
    for name, value in before.items():
        await lab.client.restore(name, 0, value, replace=True)
    await b.beat()
    await b.beat()
    # The list changes.
    await nodes.beat(lab.store, Member(id="c", noted=True))
    await a.beat()
    assert a.seen["b"] == (b"w:g",)
