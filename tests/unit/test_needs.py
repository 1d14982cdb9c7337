"""What tasks need of their worker: as a lane's name has it, who has it, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delaybox.core.errors import InvalidTask
from delaybox.core.lane import Lane, lane_of, split, without_needs
from delaybox.core.needs import NO_NEEDS, WorkerNeeds, needs_asked, wanted_labels
from delaybox.core.task import NewTask, TaskType
from delaybox.store.record import draft, lane_of_draft, read
from delaybox.worker.worker import worker_labels

LABELS = st.from_regex(r"\A[A-Za-z0-9._/-]{1,20}(=[A-Za-z0-9._/-]{1,20})?\Z")
SETS = st.lists(LABELS, max_size=3, unique=True).map(lambda found: tuple(sorted(found)))


@given(st.integers(1, 1_000), SETS, SETS)
def test_needs_stand_in_the_lane_and_are_read_from_it(
    cost: int, requires: tuple[str, ...], prefers: tuple[str, ...]
) -> None:
    needs = WorkerNeeds(cost, requires, prefers)
    lane = lane_of(TaskType.WORKER, "mail", "send" + needs.text())
    assert split(lane) == Lane(TaskType.WORKER, "mail", "send", needs)
    assert without_needs(lane) == b"wmail:send"
    assert (lane == b"wmail:send") == (needs == NO_NEEDS)


def test_a_record_names_its_needs_and_costs_nothing_without() -> None:
    plain = NewTask(type=TaskType.WORKER, name="f", due_ms=1_800_000_000_000)
    needs = WorkerNeeds(4, ("gpu",))
    made = draft(NewTask(type=TaskType.WORKER, name="f", due_ms=1_800_000_000_000, needs=needs))
    assert lane_of_draft(draft(plain)) == b"w:f"
    assert lane_of_draft(made) == b"w:f!4!gpu"
    record = read(bytes(16), made.record)
    assert (record.name, record.needs, record.queue) == ("f", needs, "default")
    assert len(draft(plain).record) == 3 + 3


@pytest.mark.parametrize(
    ("labels", "places", "can"),
    [
        ({"gpu": "", "zone": "b"}, 4, True),
        ({"gpu": "a100", "zone": "b"}, 5, True),
        ({"gpu": "", "zone": "a"}, 4, False),
        ({"gpu": ""}, 4, False),
        ({"zone": "b"}, 4, False),
        ({"gpu": "", "zone": "b"}, 3, False),
    ],
)
def test_who_can_run_it(labels: dict[str, str], places: int, *, can: bool) -> None:
    assert WorkerNeeds(4, ("gpu", "zone=b")).run_by(labels, places) is can


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"cost": 0}, "cost 0 is out of range; give 1 to 1000 places"),
        ({"cost": 1_001}, "cost 1001 is out of range"),
        ({"requires": ["a b"]}, "requires 'a b' is no label of workers; use name or name=value"),
        ({"requires": ["a!b"]}, "is no label of workers"),
        ({"prefers": ["zone="]}, "prefers 'zone=' is no label of workers"),
        ({"requires": ["x" * 65]}, "at most 64 characters together"),
        ({"requires": [f"l{n}" for n in range(9)]}, "requires names 9 labels; give at most 8"),
    ],
)
def test_what_is_refused(asked: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidTask, match=words):
        needs_asked(**{"cost": None, "requires": None, "prefers": None, **asked})  # type: ignore[arg-type]


def test_what_contradicts_the_task_is_refused_where_it_is_stored() -> None:
    with pytest.raises(InvalidTask, match="requires says nothing to a pub_sub task, which no worker runs"):
        draft(NewTask(needs=WorkerNeeds(1, ("gpu",))))
    with pytest.raises(InvalidTask, match="cost says nothing to a pub_sub task"):
        draft(NewTask(needs=WorkerNeeds(2)))
    with pytest.raises(InvalidTask, match="prefers says nothing to a shell_cmd task, which no worker runs"):
        draft(NewTask(type=TaskType.SHELL_CMD, needs=WorkerNeeds(2, (), ("gpu",))))
    many = wanted_labels("requires", [f"{n}{'x' * 30}" for n in range(8)])
    with pytest.raises(InvalidTask, match=r"characters too many beside the names of the queue and the function \(255"):
        draft(NewTask(type=TaskType.WORKER, name="f" * 100, needs=WorkerNeeds(1, many)))


def test_a_workers_labels_are_pairs_or_texts() -> None:
    assert worker_labels(["gpu", "zone=b"]) == {"gpu": "", "zone": "b"} == worker_labels({"gpu": "", "zone": "b"})
    assert worker_labels(None) == {}
    with pytest.raises(InvalidTask, match="label 'a b' is not a name"):
        worker_labels(["a b"])
