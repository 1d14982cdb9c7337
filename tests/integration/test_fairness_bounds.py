"""What one claim, and one look, does where very many fairness keys or lanes have ready work."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.engine.shares import too_little
from delaybox.store import keys
from delaybox.store.survey import survey_call
from tests.lab import Lab, leased

ASKED = 250
"""Tasks that the engine asks a partition for at most."""
LOOKS = 64
"""`fair.looks` in lib/fair.lua."""


def call(key: str, **parts: Any) -> NewTask:
    return NewTask(type=TaskType.WORKER, name="f", fairness_key=key, **parts)


async def ready(lab: Lab, keys: int, each: int, **parts: Any) -> list[bytes]:
    """So many keys with so many ready tasks each; the ids."""
    ids: list[bytes] = []
    for _ in range(each):
        for first in range(0, keys, 500):
            ids += await lab.add(*(call(f"k{n}", **parts) for n in range(first, min(first + 500, keys))))
    while await lab.near(0 if parts else 2, "w"):
        await lab.claim(slots=0)
    return ids


async def commands(lab: Lab, **limits: Any) -> tuple[int, int]:
    """Of one claim: how many tasks came, and how many commands the server carried out for it."""

    async def so_far() -> int:
        stats: Any = await lab.client.info("commandstats")
        return sum(int(one["calls"]) for name, one in stats.items() if name != "cmdstat_info")

    before = await so_far()
    took = leased(await lab.claim(types="w", slots=ASKED, items=ASKED, **limits))
    return len(took), await so_far() - before


async def test_a_claim_looks_at_a_bounded_number_of_keys(lab: Lab) -> None:
    await ready(lab, 1_000, 3)
    for turn in range(4):
        came, called = await commands(lab)
        # Every twentieth goes by virtual deadline, without such a look. In a later claim its key is looked at in vain.
        by_deadline = LOOKS // 19 + 1
        assert LOOKS - turn * by_deadline <= came <= LOOKS + by_deadline and called < LOOKS + 60, (came, called)
        assert not too_little(came, ASKED), "the taker would take it for a partition that gives too little"
    claimed = await lab.claim(types="w", slots=ASKED)
    assert claimed.more and not claimed.next_due_ms > lab.now, "it goes on at once"
    assert await lab.problems() == []


async def test_of_few_keys_a_claim_takes_all_it_is_asked_for(lab: Lab) -> None:
    await ready(lab, 5, 200)
    came, called = await commands(lab)
    assert came == ASKED and called < 80


async def test_a_claim_that_takes_also_makes_a_bounded_number_ready(lab: Lab) -> None:
    await ready(lab, 500, 1)
    await lab.add(*(call(f"other-{n}") for n in range(500)))
    claimed = await lab.claim(types="w", slots=ASKED, items=ASKED)
    assert len(leased(claimed)) >= LOOKS and claimed.promoted == LOOKS
    got = len(leased(claimed))
    for _ in range(20):
        got += len(leased(await lab.claim(types="w", slots=ASKED, items=ASKED)))
    assert got == 1_000
    assert await lab.problems() == []


async def test_keys_whose_work_was_cancelled_are_passed_in_bounded_steps(lab: Lab) -> None:
    gone = await ready(lab, 1_000, 1)
    await lab.move(1)
    stays = await lab.add(*(call("stays") for _ in range(300)))
    while await lab.near(2, "w"):
        await lab.claim(slots=0)
    for first in range(0, len(gone), 500):
        await lab.store.cancel(gone[first : first + 500])
    got: set[bytes] = set()
    for turn in range(20):
        claimed = await lab.claim(types="w", slots=10, items=ASKED)
        got |= set(leased(claimed))
        assert claimed.dropped <= LOOKS
        assert claimed.leased or (claimed.dropped == LOOKS and claimed.more), turn
    # Sixteen claims pass a thousand keys.
    assert len(got) >= 40 and got <= set(stays)
    assert await lab.problems() == []


async def test_the_floor_keeps_its_looks(lab: Lab) -> None:
    await ready(lab, 600, 2, priority=Priority.CRITICAL)
    await ready(lab, 300, 1)
    counts = Counter[int]()
    for _ in range(6):
        claimed = await lab.claim(types="w", slots=ASKED, items=ASKED)
        counts.update(record.priority for record in leased(claimed).values())
    share = counts[Priority.NORMAL] / sum(counts.values())
    assert 0.04 <= share <= 0.08, counts


async def test_the_floor_keeps_its_part_of_what_becomes_ready(lab: Lab) -> None:
    """Or critical tasks with keys that come all the time would keep all others from becoming ready."""
    await ready(lab, 5, 1)
    await lab.add(*(call(f"c{n}", priority=Priority.CRITICAL) for n in range(500)))
    others = set(await lab.add(*(call(f"n{n}") for n in range(20))))
    await lab.claim(types="w", slots=ASKED, items=ASKED)
    left = {member[:16] for member in await lab.near(2, "w")}
    assert len(others - left) == 4, "a twentieth of 64"
    assert await lab.problems() == []


@pytest.mark.parametrize("guest", [False, True])
async def test_a_claim_makes_a_bounded_number_of_tasks_with_keys_ready(guest: bool, lab: Lab) -> None:
    """Of 500 it took 36 million instructions of the server, and with compiling it 65."""
    for level in (Priority.NORMAL, Priority.HIGH):
        await lab.add(*(call(f"k{n}", priority=level) for n in range(200)))
    for turn in (1, 2, 3):
        claimed = await lab.claim(types="w", slots=0, items=500, guest=guest)
        if guest:
            assert claimed.promoted == 0 and len(await lab.near(2, "w")) == 200, "a guest leaves them where they lie"
            return
        assert claimed.promoted == LOOKS and claimed.next_due_ms <= lab.now, turn
    assert await lab.problems() == []


async def test_critical_keys_leave_others_their_part_of_what_becomes_ready(lab: Lab) -> None:
    await lab.add(*(call(f"q{n}") for n in range(20)))
    for _ in range(3):
        await lab.add(*(call(f"c{n}", priority=Priority.CRITICAL) for n in range(100)))
        assert (await lab.claim(types="w", slots=0, items=500)).promoted == LOOKS
    assert len(await lab.near(2, "w")) == 20 - 3 * 4, "a twentieth of 64 each"
    assert await lab.problems() == []


async def test_what_is_leased_is_of_any_number_of_lanes(lab: Lab) -> None:
    await lab.add(*(NewTask(type=TaskType.WORKER, name="f", queue=f"q{n}") for n in range(200)))
    assert len(leased(await lab.claim(types="w", slots=500, items=500))) == 200


async def test_a_look_makes_tasks_of_a_bounded_number_of_lanes_ready(lab: Lab) -> None:
    """Of 250 lanes it was the longest of all scripts: 38 to 64 million instructions of the server."""
    for first in range(0, 400, 200):
        await lab.add(*(NewTask(type=TaskType.WORKER, name="f", queue=f"q{n}") for n in range(first, first + 200)))
    for turn in (1, 2, 3):
        look = survey_call(lab.store, 0, types="w", lanes=(), guest=True, weighted=True)
        await lab.store.runner.run(look)
        assert await lab.client.zcard(keys.active(lab.tag, "w", critical=False)) == turn * LOOKS
    assert await lab.problems() == []


async def test_keys_that_are_remembered_for_nothing_are_forgotten_some_at_a_time(lab: Lab) -> None:
    """`FORGOTTEN` in lib/fair.lua: a claim does not pay for all who had work before it."""
    await ready(lab, 350, 1)
    await lab.add(*(call("busy") for _ in range(500)))
    idle, sizes = f"{lab.tag}:fairidle:w:f", [0]
    while len(sizes) < 100 and (sizes[-1] or max(sizes) == 0):
        await lab.claim(types="w", slots=30)
        sizes.append(await lab.client.zcard(idle))
    assert max(sizes) > 200, "keys that had their turn are remembered until the others have had as much"
    assert sizes[-1] == 0
    assert min(after - before for before, after in pairwise(sizes)) == -100
    assert await lab.problems() == []
