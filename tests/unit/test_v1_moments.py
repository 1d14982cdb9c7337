"""Moments and durations of /v1: exact to the millisecond, or refused with words (fault row T23)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delaybox.core.durations import duration_ms
from delaybox.core.errors import InvalidTask
from delaybox.wire.json.moments import moment_ms, render_moment


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (1721672590913, 1721672590913),
        ("1721672590913", 1721672590913),
        ("2024-07-22T18:23:10.913Z", 1721672590913),
        ("2024-07-22T18:23:10.913z", 1721672590913),
        ("2024-07-22t20:23:10.913+02:00", 1721672590913),
        ("2024-07-22 12:53:10.913-05:30", 1721672590913),
        ("2024-07-22T18:23:10Z", 1721672590000),
        ("2024-07-22T18:23:10-00:00", 1721672590000),
        # Finer than a millisecond: rounded up, so that nothing is early.
        ("2024-07-22T18:23:10.9130001Z", 1721672590914),
        ("2024-07-22T18:23:10.9999999Z", 1721672591000),
        ("2024-02-29T00:00:00Z", 1709164800000),
        ("2000-02-29T23:59:59.999Z", 951868799999),
        # Both sides of a change to summer time are different moments.
        ("2024-03-31T01:59:59+01:00", 1711846799000),
        ("2024-03-31T03:00:00+02:00", 1711846800000),
    ],
)
def test_a_moment(value, ms):
    assert moment_ms("at", value) == ms


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("tomorrow", "'tomorrow' is not a moment"),
        ("", "'' is not a moment"),
        ("2024-07-22", "is not a moment"),
        ("2024-07-22T18:23Z", "is not a moment"),
        ("2024-W30-1T18:23:10Z", "is not a moment"),
        ("2024-07-22T18:23:10", "has no offset; add Z for UTC"),
        ("2024-07-22T18:23", "has no offset; add seconds, and Z for UTC"),
        ("2024-07-22T18:23:10.0000000001", "has no offset; add Z for UTC"),
        ("2024-07-22T18:23", 'or name its time zone: {"local": "2027-03-28T02:30", "zone": "Europe/Berlin"}'),
        ("2030-01-31T09:00:00 01:00", "is not a moment"),
        ("2024-02-30T00:00:00Z", "a day that does not exist"),
        ("2023-02-29T00:00:00Z", "a day that does not exist"),
        ("2024-13-01T00:00:00Z", "a day that does not exist"),
        ("2024-07-22T24:00:00Z", "no such time of day"),
        ("2016-12-31T23:59:60Z", "write a leap second as the next minute"),
        ("2024-07-22T18:23:10+24:00", "no such offset"),
        ("٢٠٢٤-07-22T18:23:10Z", "is not a moment"),
        ("1970-01-01T00:00:00Z", "is before 1973"),
        ("9999-12-31T23:59:59Z", "or after 5138"),
        (1721672590, "looks like seconds; multiply by 1000"),
        ("1721672590", "looks like seconds; multiply by 1000"),
        (1721672590913000, "looks like microseconds; divide by 1000"),
        (1721672590913000000, "looks like nanoseconds; divide by 1000000"),
        (-1, "is negative"),
        (0, "is outside 10^11 to 10^14"),
        (10**14 + 1, "is outside 10^11 to 10^14"),
        (253402300799000, "is outside 10^11 to 10^14"),  # 9999-12-31
        (10**30, "is outside 10^11 to 10^14"),
    ],
)
def test_what_is_no_moment(value, words):
    with pytest.raises(InvalidTask) as caught:
        moment_ms("at", value)
    assert words in str(caught.value)
    assert caught.value.field == "at"


def test_only_a_due_time_may_be_left_out_to_run_at_once():
    for field, said in (("at", True), ("due_ms", True), ("due_from", False), ("--to", False)):
        with pytest.raises(InvalidTask) as caught:
            moment_ms(field, 5)
        assert ("run at once" in str(caught.value)) is said


@given(
    st.datetimes(
        datetime(1974, 1, 1),  # noqa: DTZ001
        datetime(5000, 1, 1),  # noqa: DTZ001
        timezones=st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m))),
    )
)
def test_a_moment_is_exact(moment):
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert moment_ms("at", moment.isoformat()) == ms
    assert moment_ms("at", render_moment(ms)) == ms


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (0, 0),
        (1500, 1500),
        ("1500", 1500),
        ("15m", 900_000),
        ("1h30m", 5_400_000),
        ("1.5h", 5_400_000),
        ("250ms", 250),
        ("1w2d3h4m5s6ms", 788_645_006),
        ("0.001s", 1),
        ("PT15M", 900_000),
        ("PT1H30M", 5_400_000),
        ("P1D", 86_400_000),
        ("P1DT12H", 129_600_000),
        ("P2W", 1_209_600_000),
        ("PT0.5S", 500),
        ("PT0,5S", 500),
        ("pt15m", 900_000),
        (10**13, 10**13),
    ],
)
def test_a_duration(value, ms):
    assert duration_ms("delay", value) == ms


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1, "is negative"),
        ("-5", "is negative"),
        ("", "is not a duration"),
        ("soon", "is not a duration"),
        ("15", None),
        ("15 m", "is not a duration"),
        ("15M", "is not a duration"),
        ("m", "is not a duration"),
        ("-5m", "is negative"),
        ("-PT5M", "is negative"),
        ("-5M", "is not a duration"),
        ("30m1h", "units out of order"),
        ("1m1m", "units out of order"),
        ("0.0001s", "is not a whole number of milliseconds"),
        ("P", "is not a duration"),
        ("PT", "is not a duration"),
        ("P1Y", "no fixed length"),
        ("P1M", "no fixed length"),
        ("P1Y2M3DT4H", "no fixed length"),
        ("P1W2D", "is not a duration"),
        ("1e3", "is not a duration"),
        (10**13 + 1, "more than 10^13 ms"),
        ("1" * 60 + "h", "is not a duration"),
    ],
)
def test_what_is_no_duration(value, words):
    if words is None:
        assert duration_ms("delay", value) == 15
        return
    with pytest.raises(InvalidTask) as caught:
        duration_ms("delay", value)
    assert words in str(caught.value)


def test_a_duration_that_must_be_something():
    with pytest.raises(InvalidTask, match=r"timeout 0 is less than 1 ms; .*or leave it out"):
        duration_ms("timeout", 0, least=1)
