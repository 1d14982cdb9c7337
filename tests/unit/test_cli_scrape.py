"""Numbers from /metrics."""

from __future__ import annotations

import pytest

from delaybox.cli.scrape import parse

TEXT = """\
# HELP delaybox_fired_tasks_total Tasks delivered.
# TYPE delaybox_fired_tasks_total counter
delaybox_fired_tasks_total{mode="in_place",type="PUB_SUB"} 90.0
delaybox_fired_tasks_total{mode="leased",type="SHELL_CMD"} 10.0
delaybox_pending_tasks 1.5e+06
delaybox_lateness_seconds_bucket{le="0.001"} 50.0
delaybox_lateness_seconds_bucket{le="0.002"} 90.0
delaybox_lateness_seconds_bucket{le="60.0"} 99.0
delaybox_lateness_seconds_bucket{le="+Inf"} 100.0
delaybox_lateness_seconds_sum 12.5
python_info{version="3"} 1
delaybox_broken_total x
nonsense
"""


def test_labels_are_summed_and_what_is_not_ours_is_passed_over() -> None:
    numbers = parse(TEXT)
    assert numbers.get("fired_tasks_total") == 100
    assert numbers.get("pending_tasks") == 1_500_000
    assert numbers.get("no_such_thing") == 0
    assert numbers.get("broken_total") == 0


def test_lateness_is_read_between_the_bounds() -> None:
    numbers = parse(TEXT)
    assert numbers.late_s(0.5) == pytest.approx(0.001)
    assert numbers.late_s(0.7) == pytest.approx(0.0015)
    assert numbers.late_s(0.999) == 60.0
    assert parse("").late_s(0.5) is None


def test_lateness_since_an_earlier_look() -> None:
    later = parse(TEXT.replace('le="60.0"} 99', 'le="60.0"} 109').replace('le="+Inf"} 100', 'le="+Inf"} 110'))
    assert later.late_s(0.5, parse(TEXT)) == pytest.approx(30.001)
    assert later.late_s(0.5, later) is None
