"""Moments as callers of ``/v1`` write them, in whole milliseconds. Exact, or refused with the reason."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

from delaybox.core.durations import check_length
from delaybox.core.errors import InvalidTask
from delaybox.core.limits import MAX_DUE_MS, MIN_DUE_MS
from delaybox.core.localtime import LOCAL
from delaybox.core.words import show

_SECONDS_FROM = 10**8
_MICROSECONDS_FROM = 10**15  # less, in ms, is what some write for never: 9999-12-31
_MICROSECONDS_TO = 10**17
_NANOSECONDS_TO = 10**20
_MOMENT_MEND = "give RFC 3339 with an offset such as 2030-01-31T09:00:00+01:00, or Unix milliseconds"

_DUE = frozenset({"at", "at_ms", "due_ms", "--at"})
"""What gives a task's due time; the others bound a search."""

_WITH_ZONE = {"at": ', or name its time zone: {"local": "2027-03-28T02:30", "zone": "Europe/Berlin"}'}
"""Of a time without an offset, what else may be meant where a zone can be given."""

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,30}))?(?:(?P<zulu>[Zz])|(?P<sign>[+-])(\d\d):(\d\d))?",
    re.ASCII,
)
_WHOLE = re.compile(r"-?\d{1,400}", re.ASCII)
_EPOCH = date(1970, 1, 1).toordinal()


def moment_ms(field: str, value: str | int) -> int:
    """Unix ms of a moment; a fraction below a millisecond is rounded up, so that nothing is early. InvalidTask."""
    if isinstance(value, str):
        check_length(field, value, "a moment", _MOMENT_MEND)
        if not _WHOLE.fullmatch(value):
            return _in_range(field, value, _rfc3339_ms(field, value))
        value = int(value)
    if MIN_DUE_MS <= value <= MAX_DUE_MS:
        return value
    raise InvalidTask(field, f"{field} {show(value)} {_why_not(field, value)}")


def _why_not(field: str, value: int) -> str:
    # A message of gRPC holds a number, and its field's name says of what.
    mend = "give Unix milliseconds" if field.endswith("_ms") else _MOMENT_MEND
    if value < 0:
        return f"is negative; {mend}"
    if _SECONDS_FROM <= value < MIN_DUE_MS:
        return "looks like seconds; multiply by 1000 to give Unix milliseconds"
    if _MICROSECONDS_FROM <= value < _MICROSECONDS_TO:
        return "looks like microseconds; divide by 1000 to give Unix milliseconds"
    if _MICROSECONDS_TO <= value < _NANOSECONDS_TO:
        return "looks like nanoseconds; divide by 1000000 to give Unix milliseconds"
    leave = ", or leave it out to run at once" if field in _DUE else ""
    return f"is outside 10^11 to 10^14; {mend}{leave}"


def _in_range(field: str, text: str, ms: int) -> int:
    if not MIN_DUE_MS <= ms <= MAX_DUE_MS:
        raise InvalidTask(field, f"{field} {show(text)} is before 1973-03-03 or after 5138-11-16; {_MOMENT_MEND}")
    return ms


def _rfc3339_ms(field: str, text: str) -> int:
    match = _RFC3339.fullmatch(text)
    if match is None and not LOCAL.fullmatch(text):
        raise InvalidTask(field, f"{field} {show(text)} is not a moment; {_MOMENT_MEND}")
    if match is None or not (match["zulu"] or match["sign"]):
        add = "Z for UTC or an offset such as +01:00 (in a URL %2B01:00)"
        if match is None:
            add = f"seconds, and {add}"
        raise InvalidTask(field, f"{field} {show(text)} has no offset; add {add}{_WITH_ZONE.get(field, '')}")
    year, month, day, hour, minute, second, fraction, _, sign, off_hour, off_minute = match.groups()
    h, m, s = int(hour), int(minute), int(second)
    if h > 23 or m > 59 or s > 59:
        raise InvalidTask(field, f"{field} {show(text)} has no such time of day; hours end at 23, minutes and "
                                 "seconds at 59 (write a leap second as the next minute)")  # fmt: skip
    try:
        days = date(int(year), int(month), int(day)).toordinal() - _EPOCH
    except ValueError:
        raise InvalidTask(field, f"{field} {show(text)} names a day that does not exist; {_MOMENT_MEND}") from None
    ms = ((days * 24 + h) * 60 + m) * 60_000 + s * 1000
    if fraction:
        ms += -(-int(fraction) * 1000 // 10 ** len(fraction))
    if sign:
        oh, om = int(off_hour), int(off_minute)
        if oh > 23 or om > 59:
            raise InvalidTask(field, f"{field} {show(text)} has no such offset; give one from -23:59 to +23:59")
        offset = (oh * 60 + om) * 60_000
        ms += offset if sign == "-" else -offset
    return ms


def render_moment(ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return (_ZERO + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds") + "Z"


_ZERO = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC without saying so, for its shorter text
