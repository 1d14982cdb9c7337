"""The node's side of worker sessions: what becomes of the tasks of lost workers, and which loss is charged."""

from __future__ import annotations

import asyncio

import pytest

from delaybox.core.delivery import DONE, HAND_BACK, LOST, HandBack, Lost
from delaybox.targets.worker_profile import Profile
from tests.desk import LANES, Desk, delivery, messages_of, tasks_of


async def test_a_session_that_is_not_resumed_loses_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delaybox.targets.worker_lost.RESUME_S", 0.01)
    desk = Desk()
    session = desk.open(credit=1)
    over = await desk.deliver(delivery(), delivery())
    assert session.held == 1
    messages_of(session)
    desk.gateway.broken(session)
    await over
    # The one that it held is charged a loss, the one that waited for room is not.
    assert sorted(map(repr, desk.engine.outcomes.values())) == [repr(HAND_BACK), repr(LOST)]
    assert desk.gateway.resume(session.id, 0, session.profile) is None
    assert desk.gateway.connected == 0


async def test_others_take_what_waits_when_a_worker_goes() -> None:
    desk = Desk()
    gone, stays = desk.open(credit=1), desk.open()
    over = await desk.deliver(delivery(), delivery())
    messages_of(gone)
    desk.gateway.end(gone)
    desk.receive(stays, number=1, credit=5)
    (task,) = tasks_of(messages_of(stays))
    desk.receive(stays, number=2, done=[task.sequence])
    await over
    assert sorted(map(repr, desk.engine.outcomes.values())) == [repr(DONE), repr(LOST)]


async def test_tasks_that_workers_died_with_go_out_one_a_worker_and_more_as_they_end() -> None:
    desk = Desk()
    session = desk.open(credit=10)
    suspects = [delivery(losses=2) for _ in range(7)]
    over = await desk.deliver(delivery(losses=1), *suspects, delivery())
    first = tasks_of(messages_of(session))
    assert [t.id in {d.id for d in suspects} for t in first] == [False, False, True]
    out, number = [first.pop()], 1
    for together in (1, 2, 4):
        assert len(out) == together
        number += 1
        desk.receive(session, number=number, done=[t.sequence for t in out])
        out = tasks_of(messages_of(session))
    desk.receive(session, number=9, done=[t.sequence for t in first])
    await over
    assert set(desk.engine.outcomes.values()) == {DONE}


async def test_workers_in_this_process_run_one_suspect_and_hand_the_others_back() -> None:
    """All that was claimed is charged when the process dies, so no suspect may wait in it."""
    desk = Desk(same_process=True)
    session = desk.open(credit=10)
    suspects = [delivery(losses=2) for _ in range(4)]
    over = await desk.deliver(*suspects, delivery())
    back = [d.task_id for d in suspects if isinstance(desk.engine.outcomes.get(d.task_id), HandBack)]
    assert len(back) == 3 and session.held == 2
    desk.receive(session, number=2, done=[t.sequence for t in tasks_of(messages_of(session))])
    await over
    assert len([outcome for outcome in desk.engine.outcomes.values() if outcome == DONE]) == 2


async def test_a_thousand_healthy_suspects_neither_wait_for_each_other_nor_stand_in_the_way() -> None:
    desk = Desk()
    session = desk.open(credit=1_200)
    over = await desk.deliver(*[delivery(losses=2) for _ in range(1_000)])
    assert desk.pool.room() == 1_199, "what waits for its turn takes no room from others"
    refused = [delivery(losses=2) for _ in range(5)]
    later = await desk.deliver(*refused)
    rounds, number = 0, 1
    while not over.done():
        rounds, number = rounds + 1, number + 1
        tasks = tasks_of(messages_of(session))
        desk.receive(session, number=number, credit=len(tasks), done=[t.sequence for t in tasks])
        await asyncio.sleep(0)
    assert rounds < 20, "one after the other it would be a thousand"
    await later
    outcomes = [desk.engine.outcomes[d.task_id] for d in refused]
    assert outcomes[1:] == [HandBack(delay_ms=1_000)] * 4, "no more than a thousand wait in a node"


async def test_what_dies_in_company_is_not_blamed_and_runs_alone_the_next_time() -> None:
    desk = Desk()
    session = desk.open(credit=10)
    suspects = [delivery(losses=2) for _ in range(3)]
    over = await desk.deliver(*suspects)
    (first,) = tasks_of(messages_of(session))
    desk.receive(session, number=2, done=[first.sequence])
    assert len(tasks_of(messages_of(session))) == 2
    desk.gateway.end(session)
    await over
    company = [d for d in suspects if d.id != first.id]
    assert [desk.engine.outcomes.pop(d.task_id) for d in company] == [HAND_BACK] * 2
    # Another one comes, and with it another suspect: still none of the two has company.
    session = desk.open(credit=10)
    over = await desk.deliver(*company, delivery(losses=2))
    for number in (2, 3, 4):
        (alone,) = tasks_of(messages_of(session))
        if number < 4:
            desk.receive(session, number=number, done=[alone.sequence])
    desk.gateway.end(session)
    await over
    assert sorted(map(repr, desk.engine.outcomes.values())) == [repr(DONE)] * 3 + [repr(LOST)]


@pytest.mark.parametrize(("workers", "killed", "together"), [(3, 3, True), (3, 2, False), (6, 3, False), (5, 3, True)])
async def test_when_most_workers_go_at_once_it_is_said_of_what_they_held(
    monkeypatch: pytest.MonkeyPatch, workers: int, killed: int, together: bool
) -> None:
    monkeypatch.setattr("delaybox.targets.worker_lost.RESUME_S", 0.05)
    desk = Desk()
    sessions = [desk.open(credit=1, identity=f"w{n}") for n in range(workers)]
    # A second session of the same worker is no second worker.
    others = [desk.gateway.open(Profile(lanes=LANES, identity=f"w{n}")) for n in range(workers)]
    over = await desk.deliver(*[delivery() for _ in range(workers)])
    assert all(len(tasks_of(messages_of(session))) == 1 for session in sessions)
    for session in [*sessions[:killed], *others[:killed]]:
        desk.gateway.broken(session)
    # They are started again before what they held is given up.
    for n in range(killed):
        desk.open(identity=f"again-{n}")
    await desk.engine.reported(killed)
    assert list(desk.engine.outcomes.values()) == [Lost(together=together)] * killed
    for session in sessions[killed:]:
        desk.gateway.end(session)
    await over


async def test_a_worker_whose_stream_breaks_often_is_still_one_worker() -> None:
    desk = Desk()
    session = desk.open(credit=1, identity="w")
    over = await desk.deliver(delivery())
    seen = messages_of(session)[-1].number
    for _ in range(4):
        desk.gateway.broken(session)
        assert desk.gateway.resume(session.id, seen, session.profile) is session
    desk.gateway.end(session)
    await over
    assert list(desk.engine.outcomes.values()) == [LOST]


async def test_what_was_never_sent_to_a_lost_worker_is_not_charged() -> None:
    desk = Desk()
    session = desk.open(credit=2)
    sent = delivery()
    first = await desk.deliver(sent)
    assert len(tasks_of(messages_of(session))) == 1
    second = await desk.deliver(delivery())
    assert session.held == 2
    desk.gateway.end(session)
    await asyncio.gather(first, second)
    assert desk.engine.outcomes.pop(sent.task_id) == LOST
    assert list(desk.engine.outcomes.values()) == [HAND_BACK]
