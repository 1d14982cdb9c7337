"""Commands and webhooks that take several places: who comes when, which lanes are claimed, and how they are counted."""

from __future__ import annotations

import asyncio

import pytest

from delaybox.core.delivery import Delivery
from delaybox.core.lane import cost_of, lane_of, split
from delaybox.core.membership import Activity, Member
from delaybox.core.needs import WorkerNeeds
from delaybox.core.shares import Shares, Waiting
from delaybox.core.task import TaskType
from delaybox.engine.costs import MOST_LANES, Costs
from delaybox.engine.options import EngineOptions
from delaybox.roles.webhook import webhook_lanes
from delaybox.service.served import Served
from delaybox.targets.places import PlacesInTurn


def options(*lanes: bytes, places: int = 4) -> EngineOptions:
    return EngineOptions(node_id="n", lanes=lanes, places=places)


def delivery(lane: bytes) -> Delivery:
    return Delivery(bytes(16), 0, b"lease", 1, 0, 0, 0, lane, False, b"")


@pytest.mark.parametrize("kind", [TaskType.SHELL_CMD, TaskType.HTTP])
def test_the_cost_stands_in_the_lane(kind: TaskType) -> None:
    lane = lane_of(kind, "mail", WorkerNeeds(4).text())
    assert lane == kind.value.encode() + b"mail:!4" and cost_of(lane) == 4
    assert split(lane)[:3] == (kind, "mail", "") and split(lane).needs == WorkerNeeds(4)
    assert cost_of(lane_of(kind, "mail")) == 1
    assert lane_of(TaskType.HTTP, "mail", "name") == b"hmail", "webhooks name nothing"


def test_lanes_are_claimed_when_they_were_met_and_there_are_places() -> None:
    costs = Costs(options(b"s*", b"s*:upper"))
    assert costs.lanes == (b"s*", b"s*:upper")
    assert costs.met([b"smail:upper!4", b"s:!2", b"smail:upper!5", b"smail:other!2", b"smail:upper!4!gpu", b"?x!!!!"])
    assert set(costs.lanes) == {b"s*", b"s*:upper", b"s*:upper!4", b"s*:!2"}
    assert costs.met([b"sother:upper!4"]), "another queue's stand for the same lane: it is looked at at once"
    assert not costs.met([b"smail:upper!5"])
    assert not Costs(options()).met([b"h:!2"]), "whoever is not limited meets none"


def test_lanes_that_were_met_are_bounded() -> None:
    costs = Costs(options(*(lane_of(TaskType.SHELL_CMD, "*", f"c{n}") for n in range(MOST_LANES)), places=1_000))
    costs.met([b"s:c1!2"])
    for n in range(MOST_LANES):
        assert costs.met([b"s:c%d!3" % n])
    assert len(costs.lanes) == 2 * MOST_LANES and b"s*:c1!2" not in costs.lanes


def test_places_beyond_one_for_each_task_are_counted() -> None:
    costs, batch = Costs(options()), [delivery(b"h:!4"), delivery(b"h"), delivery(b"s:x!2")]
    costs.begin(batch)
    assert costs.beyond == 4
    costs.end(batch[:1])
    assert costs.beyond == 1
    costs.begin([delivery(b"w:f!9")])
    assert costs.beyond == 1, "a worker's places are counted by its pool"


def test_a_process_with_places_for_any_cost_takes_all_webhooks() -> None:
    assert (webhook_lanes(1_000), webhook_lanes(999)) == ((), (b"h*",))


async def test_a_large_one_has_its_turn_and_what_is_given_up_is_free() -> None:
    places, begun = PlacesInTurn(4), list[str]()

    async def take(name: str, cost: int) -> None:
        await places.enter(cost)
        begun.append(name)

    await take("a", 1)
    await take("b", 3)
    waiting = [asyncio.create_task(take(name, cost)) for name, cost in (("large", 4), ("c", 1), ("d", 2))]
    await asyncio.sleep(0)
    places.leave(3)
    await asyncio.sleep(0)
    assert begun == ["a", "b"], "three places are kept for the large one, whoever waits behind it"
    places.leave(1)
    await asyncio.sleep(0)
    assert begun == ["a", "b", "large"]
    waiting[1].cancel()
    places.leave(4)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert begun == ["a", "b", "large", "d"]
    places.leave(2)
    await asyncio.wait_for(places.enter(4), 1)


async def test_one_that_is_given_up_right_when_its_turn_came_gives_its_places_back() -> None:
    places = PlacesInTurn(2)
    await places.enter(2)
    task = asyncio.create_task(places.enter(2))
    await asyncio.sleep(0)
    places.leave(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(places.enter(2), 1)


def test_whether_any_process_has_the_places() -> None:
    def has(lane: bytes, *activities: Activity) -> bool:
        return Served.by(Member(id=str(n), activity=one) for n, one in enumerate(activities)).has(lane)

    small = Activity(types="s", limits=(b"s*", b"s*:x"), places={"s": 4})
    large = Activity(types="sh", limits=(b"s*:y",), places={"s": 16, "h": 1_000})
    assert has(b"sq:x!4", small) and not has(b"sq:x!5", small)
    assert not has(b"sq:x!5", small, large), "the one with more places has no such command"
    assert has(b"sq:y!16", small, large) and has(b"hq:!1000", large) and not has(b"hq:!2", small)
    assert has(b"sq:z!9", Activity(types="ps")), "one that does not state its places, or sends commands to a topic"


def test_shares_count_what_tasks_cost() -> None:
    """A queue whose tasks take four places each gets as many places as one whose tasks take one."""
    shares, taken = Shares(lambda _: 1.0), {b"slarge:!4": 0, b"ssmall": 0}
    for _ in range(200):
        waits = {0: Waiting(0, 2_000, {b"slarge:!4": 1_000, b"ssmall": 1_000})}
        (part,) = shares.plan(5, waits, 250).values()
        shares.took(0, part.lanes)
        for lane, count in part.lanes.items():
            taken[lane] += count * cost_of(lane)
    assert abs(taken[b"slarge:!4"] - taken[b"ssmall"]) <= 8
