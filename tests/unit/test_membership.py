"""Members, the nodes that they make up, their heartbeats in every form; and when most of them went away at once."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from google.protobuf.json_format import MessageToDict

from delaybox.core.membership import (
    Activity,
    ConnectedWorker,
    Member,
    help_of,
    holders,
    keeps_time,
    most_left,
    nodes_of,
    places,
    together,
)
from delaybox.core.partition import Shape
from delaybox.engine.membership import ahead_ms
from delaybox.wire import members

NOW, LEASE = 1_000_000, 15_000
ALIVE = (0, NOW - 500)


def gone(ms_ago: int) -> tuple[int, int]:
    return (0, NOW - ms_ago)


@pytest.mark.parametrize(
    ("lives", "failing"),
    [
        ([gone(16_000)] * 3, True),
        ([gone(16_000)] * 2, False),
        ([gone(16_000)] * 3 + [ALIVE] * 2, True),
        ([gone(16_000)] * 3 + [ALIVE] * 3, False),
        ([gone(20_000), gone(28_000), gone(34_900)], True),
        ([gone(10_000), gone(26_000), gone(42_000)], False),
        ([gone(16_000)] * 3 + [(NOW - 10_000, NOW)] * 9, True),
        ([gone(600_000)] * 3 + [ALIVE], False),
        ([ALIVE] * 9, False),
        ([], False),
    ],
    ids=[
        "all three", "two", "three of five", "half", "one after the other within a lease", "one a lease",
        "others took their place", "long ago", "all live", "nobody",
    ],
)  # fmt: skip
def test_most_left(lives: list[tuple[int, int]], failing: bool) -> None:
    assert most_left(lives, NOW, LEASE) is failing


def test_members_of_a_node_are_one_holder() -> None:
    found = [
        Member(id="a", started_ms=5, seen_ms=90),
        Member(id="a.workers", started_ms=7, seen_ms=80),
        Member(id="b.clock1", node="b", kind="clock", started_ms=6, seen_ms=70),
        Member(id="b.rest1", node="b", kind="rest", started_ms=1, seen_ms=99),
        Member(id="b.grpc1", node="b", kind="grpc", roles=("clock", "work"), started_ms=6, seen_ms=71),
        Member(id="c.grpc1", node="c", kind="grpc", roles=("api",), started_ms=1, seen_ms=99),
    ]
    assert sorted(holders(found)) == [(5, 90), (6, 71)]


def test_a_node_is_what_its_members_are_together() -> None:
    grpc = Activity(types="w", in_flight=2, worker_count=1, workers=(ConnectedWorker(identity="w"),))
    found = [
        Member(id="a", roles=("clock", "work"), pid=7, started_ms=5, seen_ms=90, activity=Activity(types="ps")),
        Member(id="a.workers", roles=("workers",), pid=8, started_ms=4, seen_ms=91, activity=grpc),
        Member(id="b.grpc0", node="b", node_pid=1, kind="grpc", pid=9, activity=grpc),
        Member(id="gone.workers", pid=10),
    ]
    a, b = nodes_of(found)
    assert (a.id, a.pid, a.roles, a.started_ms, a.seen_ms) == ("a", 7, ("clock", "work"), 4, 91)
    assert (a.activity.types, a.activity.in_flight, a.activity.worker_count) == ("psw", 2, 1)
    assert [member.id for member in a.members] == ["a", "a.workers"]
    assert (b.id, b.pid, b.activity) == ("b", 1, grpc)


def test_who_keeps_time() -> None:
    found = [
        Member(id="b.clock0", node="b", kind="clock", roles=("clock",)),
        Member(id="b.rest0", node="b", kind="rest", roles=("clock", "api")),
        Member(id="a", roles=("api", "clock")),
        Member(id="c", roles=("api",)),
    ]
    assert [member.id for member in found if keeps_time(member)] == ["b.clock0", "a"]


def test_places_of_workers_that_are_not_shown_are_estimated() -> None:
    workers = (ConnectedWorker(concurrency=10), ConnectedWorker(concurrency=30))
    assert places(Activity()) == 0
    assert places(Activity(workers=workers, worker_count=2)) == 40
    assert places(Activity(workers=workers, worker_count=20)) == 400


def test_heartbeats_of_other_versions_are_read() -> None:
    """As the previous version writes them, and with what only a later one may know."""
    raw = (
        b'{"seen_ms": 9, "started_ms": 3, "version": "0.2.0", "roles": ["api", "work"], "host": "h", "pid": 7, '
        b'"in_flight": 1, "types": "ps", "limits": ["s*:backup"], "fired_per_s": {"w": 1.5}, "lanes": ["wq:f"], '
        b'"store": {"id": "x", "partitions": 16, "bucket_ms": 60000, "later": 1}, "later": {"a": []}}'
    )
    activity = Activity(types="ps", in_flight=1, limits=(b"s*:backup",), lanes=(b"wq:f",), lane_count=1)
    expected = Member(
        id="n", roles=("api", "work"), host="h", pid=7, version="0.2.0", seen_ms=9, started_ms=3,
        activity=replace(activity, fired_per_s={"w": 1.5}), store=Shape("x", 16, 60_000),
    )  # fmt: skip
    assert members.decode("n", raw) == expected
    assert members.decode("n", members.encode(expected)) == expected
    shown = replace(
        expected,
        activity=replace(expected.activity, partitions=(1, 2, 9), partition_count=400),
        lag_ms=2.5,
        capacity=0.5,
        clock_offset_ms=-7,
    )
    assert members.decode("n", members.encode(shown)) == shown
    halves = Member(id="n", seen_ms=9, host="h\udc80", activity=Activity(troubles=("\udc80",)))
    assert members.decode("n", members.encode(halves)).activity.troubles == ("?",)
    assert members.decode("n", b'{"seen_ms": 9, "types": ["p", "SHELL_CMD", "z"]}').activity.types == "psz"


def test_who_answers_a_call_has_free_places_and_is_punctual() -> None:
    def member(free: int = -1, *, lag_ms: float = 0.0, in_flight: int = 0) -> Member:
        workers = (ConnectedWorker(concurrency=10),)
        return Member(
            id="n", lag_ms=lag_ms, activity=Activity(workers=workers, worker_count=1, free=free, in_flight=in_flight)
        )

    # What its workers give to other nodes is not free here; of a version that does not state that, it is.
    assert help_of(member(2)) == 2 and help_of(member(in_flight=3)) == 7
    assert help_of(None) < help_of(member(0)) == 0
    # One that wakes late comes behind one that has a little less room, and before one that has hardly any.
    late = member(10, lag_ms=40.0)
    assert help_of(member(2)) < help_of(late) < help_of(member(5)) and help_of(late) > 0
    both = together([Activity(), Activity(free=2), Activity(free=3)])
    assert both.free == 5 and together([Activity(), Activity()]).free == -1


@pytest.mark.parametrize(
    ("sent_ms", "heard_ms", "ahead"),
    [(1_000, 1_001, 0), (999, 1_000, 0), (995, 2_500, 0), (3_000, 3_002, 2_000), (300, 400, -600), (1_200, 2_900, 200)],
    ids=["one clock", "the last ms", "held up", "ahead", "behind", "ahead and held up"],
)
def test_a_process_that_is_held_up_has_no_other_clock(sent_ms: int, heard_ms: int, ahead: int) -> None:
    """The time until its machine let it read the answer counted as that of its clock, and the doctor warned of it."""
    assert ahead_ms(sent_ms, heard_ms, 1_000) == ahead


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b'{"seen_ms": "?"}', b'{"seen_ms": 1, "pid": "x"}', b"\xff"])
def test_a_damaged_heartbeat_is_no_member(raw: bytes) -> None:
    with pytest.raises(ValueError, match="the heartbeat of 'n' cannot be read"):
        members.decode("n", raw)


def test_rest_and_grpc_show_the_same() -> None:
    """What one has and the other has not is named here."""
    seen = ConnectedWorker(identity="w", since_ms=10**12)
    activity = Activity(types="pw", in_flight=3, troubles=("late",), workers=(seen,))
    member = Member(id="n.grpc0", node="n", node_pid=5, kind="grpc", pid=6, seen_ms=10**12, activity=activity)
    found = nodes_of([replace(member, activity=replace(activity, worker_count=1))])
    (as_json,) = msgspec.to_builtins(members.nodes_json(found))["nodes"]
    as_message = MessageToDict(members.node_message(found[0]), preserving_proto_field_name=True)
    only_grpc = {"workers", "worker_count", "seen_ms", "started_ms"}
    for shown, sent in ((as_json, as_message), (as_json["members"][0], as_message["members"][0])):
        full = {name: sent.get(name) for name in shown if name not in ("seen", "started", "types", "members")}
        assert {name: value or None for name, value in shown.items() if name in full} == full
        assert sent.keys() - shown.keys() <= only_grpc
        assert len(shown["types"]) == len(sent["types"])
    (worker,) = msgspec.to_builtins(members.workers_json(found))["workers"]
    assert worker["identity"] == as_message["workers"][0]["identity"] == "w"
    assert worker["since"] == "2001-09-09T01:46:40.000Z" and as_message["workers"][0]["since_ms"] == "1000000000000"


def test_since_when_a_worker_of_an_older_node_is_there_is_not_known() -> None:
    member = members.decode("n", b'{"seen_ms": 9, "workers": [{"identity": "w", "connected": true}]}')
    assert member.activity.workers == (ConnectedWorker(identity="w"),)
    (worker,) = msgspec.to_builtins(members.workers_json(nodes_of([member])))["workers"]
    assert worker["since"] is None
    again = replace(member, activity=replace(member.activity, workers=(ConnectedWorker(identity="w", since_ms=7),)))
    assert members.decode("n", members.encode(again)) == again
