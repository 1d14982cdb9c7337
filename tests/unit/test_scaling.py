"""How many members are needed: the figure, its bounds, and how it is followed."""

from __future__ import annotations

from typing import Any

import pytest

from delaybox.core.errors import InvalidTask
from delaybox.core.queue import QueueRules
from delaybox.core.queue_limits import Rate
from delaybox.core.rates import FadingRates, Means
from delaybox.core.scaling import (
    LEAD_MS,
    CoolDown,
    Goal,
    Load,
    MemberNeed,
    ScalingQuery,
    needed,
    notice_left_out,
    share,
    within_limits,
)
from delaybox.wire import scaling


def test_the_figure_adds_up_its_terms() -> None:
    mail = Load(name="mail", busiest_per_s=40, unforeseen_per_s=10, backlog=600, service_ms=100)
    # 40 + 10 + 600 / 30 s = 70 a second, of 0.1 s each: 7 places in use, at 0.7 use 10 places.
    assert needed([mail], Goal()) == (10, 10.0)
    assert needed([mail], Goal(places_each=4)) == (3, 10.0)
    assert needed([mail], Goal(clear_ms=60_000, target_use=1.0)) == (6, 6.0)
    reports = Load(name="reports", busiest_per_s=0.7, service_ms=5_000)
    assert needed([mail, reports], Goal()) == (15, 15.0)


def test_a_queue_needs_no_more_than_its_limits_let_run() -> None:
    send = Load(name="mail:send", backlog=30_000, service_ms=200)
    large = Load(name="mail:large!4", backlog=10_000, service_ms=800)
    goal, costs = Goal(), (1, 4)

    def limited(**rules: Any) -> list[float | None]:
        return [load.most for load in within_limits([send, large], costs, QueueRules(**rules), goal)]

    # 1,000 and 333.33 a second of 0.2 s each: three of four that run are small, and a large one takes four places.
    assert limited() == [None, None]
    assert limited(concurrency=20) == [15.0, 20.0]
    # 30 and 10 may begin each second; at 0.7 use.
    assert limited(rate=Rate(40, 1_000)) == [pytest.approx(6 / 0.7, abs=0.001), pytest.approx(8 / 0.7, abs=0.001)]
    assert limited(rate=Rate(40, 1_000), concurrency=20) == limited(rate=Rate(40, 1_000))
    assert limited(paused=True, concurrency=20) == [0.0, 0.0]
    both = within_limits([send, large], costs, QueueRules(concurrency=20), goal)
    assert needed(both, Goal(places_each=10)) == (4, 35.0)
    idle = within_limits([Load(name="idle")], (1,), QueueRules(concurrency=5), goal)
    assert needed(idle, Goal(least=0)) == (0, 0.0)


def test_what_runs_needs_its_places_whatever_comes() -> None:
    long = Load(name="film:render", service_ms=600_000, occupied=12.0)
    assert needed([long], Goal(places_each=4, least=0)) == (3, 12.0)
    (paused,) = within_limits([long], (1,), QueueRules(paused=True), Goal())
    assert needed([paused], Goal(places_each=4, least=0)) == (3, 12.0)
    more = Load(name="film:cut", busiest_per_s=70, service_ms=100, occupied=2.0)
    assert needed([more], Goal())[1] == 10.0


def test_the_figure_stays_between_the_least_and_the_most() -> None:
    nothing = Load(name="nothing", service_ms=100)
    assert needed([nothing], Goal())[0] == 1
    assert needed([], Goal(least=0)) == (0, 0.0)
    much = Load(name="much", busiest_per_s=1e6, service_ms=100)
    assert needed([much], Goal(most=8))[0] == 8


def test_each_node_has_an_equal_share_between_its_own_bounds() -> None:
    need = MemberNeed(kind="clock", members=7, running=3, nodes=3, places=6.5, places_each=1.0, loads=())
    assert share(need, least=1, most=8) == 3
    assert share(need, least=1, most=2) == 2
    assert share(need, least=4, most=8) == 4


def test_a_task_that_the_forecast_showed_in_part_counts_in_part() -> None:
    assert notice_left_out(0) == notice_left_out(-5) == 1.0
    assert notice_left_out(LEAD_MS // 2) == 0.5
    assert notice_left_out(LEAD_MS) == notice_left_out(10 * LEAD_MS) == 0.0


def test_up_at_once_and_down_after_the_cool_down() -> None:
    follow = CoolDown(60.0)
    assert [follow.settled(n, at) for at, n in ((0, 1), (1, 4), (2, 2), (30, 3), (61, 1), (62, 1))] == [
        1,
        4,
        4,
        4,
        4,
        3,
    ]
    assert follow.settled(1, 91) == 1
    assert follow.settled(5, 92) == 5


def test_rates_fade_and_a_young_one_is_right() -> None:
    rates = FadingRates(0.0, fade_s=10.0, most=2)
    for second in range(100):
        rates.add(b"a", 5, second / 10)
    # 50 a second since the start, although that is no longer ago than the fading takes.
    assert rates.per_second(10.0)[b"a"] == pytest.approx(50, rel=0.02)
    assert rates.per_second(20.0)[b"a"] < 50 / 2
    rates.add(b"b", 1, 20.0)
    rates.add(b"c", 1, 20.0)
    assert set(rates.per_second(20.0)) == {b"a", b"b"}
    assert rates.per_second(500.0) == {}


def test_means_follow_what_was_measured_lately() -> None:
    means = Means()
    for _ in range(100):
        means.add(b"a", 10.0)
    means.add(b"b", 3.0)
    assert means.all() == {b"a": 10.0, b"b": 3.0}
    for _ in range(200):
        means.add(b"a", 20.0)
    assert means.all()[b"a"] == pytest.approx(20, rel=0.01)


def test_what_is_asked_for_is_checked_by_name() -> None:
    asked = scaling.query_of({"queue": "mail", "function": "send", "places": "8", "lead": "1m", "clear": "10s"})
    assert asked == ScalingQuery(queue="mail", function="send", places=8, lead_ms=60_000, clear_ms=10_000)
    assert asked.of_workers and not ScalingQuery(kind="grpc").of_workers
    for wrong in (
        {"kind": "kafka"},
        {"kind": "rest", "queue": "mail"},
        {"places": "0"},
        {"places": "many"},
        {"lead": "500"},
        {"lead": "2h"},
        {"clear": "0s"},
        {"queue": "a b"},
        {"function": "a/b"},
        {"queue": ""},
        {"function": ""},
        {"kind": ""},
    ):
        with pytest.raises(InvalidTask) as refused:
            scaling.query_of(wrong)
        assert refused.value.field in wrong
