"""Durations as callers write them, in whole milliseconds. Exact, or refused with the reason.

A bare number is milliseconds in REST, gRPC and the command line (`duration_ms`), and
seconds in Python (`span_ms`, `span_s`), as in all of Python's own libraries. Text with units means the same everywhere.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from numbers import Real

from delaybox.core.errors import InvalidTask
from delaybox.core.limits import MAX_DELAY_MS
from delaybox.core.words import show

Span = timedelta | str | float
"""How long, in Python: seconds, a timedelta, or text such as "15m", "1h30m" or "PT15M"."""

_MS_MEND = 'give milliseconds, or text such as "15m", "1h30m" or "PT15M"'
_PYTHON_MEND = 'give seconds, a timedelta, or text such as "15m", "1h30m" or "PT15M"'
_LONGEST = 64
"""Characters of a time. The longest that means something, in ISO 8601 with fractions, is shorter."""
_MILLISECOND = timedelta(milliseconds=1)

_WHOLE = re.compile(r"-?\d{1,400}", re.ASCII)
_BARE = re.compile(r"\s*[-+]?[\d_]+(?:\.\d*)?\s*", re.ASCII)
_UNITS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_ORDER = tuple(_UNITS)
_PART = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)(ms|[wdhms])", re.ASCII)
_PARTS = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_NUMBER = r"(\d{1,20}(?:[.,]\d{1,20})?)"
_ISO = re.compile(
    rf"P(?:{_NUMBER}W|(?=[\dT])(?:{_NUMBER}D)?(?:T(?=\d)(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?)", re.ASCII
)
_CALENDAR = re.compile(r"P[\d.,WD]*[\d.,]+[YM]", re.ASCII | re.IGNORECASE)
_ISO_UNITS = (_UNITS["w"], _UNITS["d"], _UNITS["h"], _UNITS["m"], _UNITS["s"])


def check_length(field: str, text: str, what: str, mend: str) -> None:
    """InvalidTask for a text that is too long for a time. Call it first: reading a text of 15 MB took 15 s."""
    if len(text) > _LONGEST:
        raise InvalidTask(field, f"{field} {show(text)} has {len(text)} characters, which is not {what}; {mend}")


def duration_ms(field: str, value: str | int, *, least: int = 0) -> int:
    """Milliseconds of a duration from ``least`` to 10^13; a bare number is milliseconds. InvalidTask."""
    if isinstance(value, str):
        check_length(field, value, "a duration", _MS_MEND)
        ms = int(value) if _WHOLE.fullmatch(value) else _spelled_ms(field, value, _MS_MEND)
        return _in_range(field, value, ms, least, _MS_MEND)
    # A message of gRPC holds a number, and its field's name says of what.
    return _in_range(field, value, value, least, "give milliseconds" if field.endswith("_ms") else _MS_MEND)


def span_ms(field: str, value: Span, *, least: int = 1) -> int:
    """Milliseconds of a duration from ``least`` to 10^13; a bare number is seconds. InvalidTask.

    A fraction of a millisecond is rounded up, so that nothing is early. Text must name its unit.
    """
    if type(value) is str:
        return _span_of_text(field, value, least)
    if type(value) is int:
        ms = value * 1000
    elif isinstance(value, timedelta):
        ms = -(-value // _MILLISECOND)
    else:
        seconds = _finite(field, value)
        # 0.3 s are 300.00000000000006 ms in a float: what is less than a nanosecond comes from the float.
        ms = math.ceil(round(seconds * 1000, 6)) if isinstance(seconds, float) else math.ceil(seconds * 1000)
    return _in_range(field, value, ms, least, _PYTHON_MEND)


def span_s(field: str, value: Span | None) -> float | None:
    """Seconds of a duration, as `span_ms` reads it, for a wait in this process; None: no limit. InvalidTask."""
    if value is None:
        return None
    if isinstance(value, str | timedelta):
        return span_ms(field, value, least=0) / 1000
    span_ms(field, value, least=0)
    return float(value)


@lru_cache(1024)
def _span_of_text(field: str, text: str, least: int) -> int:
    check_length(field, text, "a duration", _PYTHON_MEND)
    # Cached: a hundred thousand tasks with the same "15m" are usual, and reading it takes longer than the rest of a
    # task.
    if _BARE.fullmatch(text):
        raise InvalidTask(field, f"{field} {show(text)} has no unit; write {show(text.strip() + 's')} for seconds")
    return _in_range(field, text, _spelled_ms(field, text, _PYTHON_MEND), least, _PYTHON_MEND)


def _finite(field: str, value: object) -> float | Fraction:
    """A number of seconds, of whatever type. InvalidTask."""
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise InvalidTask(field, f"{field} {show(value)} is not a duration; {_PYTHON_MEND}")
    if isinstance(value, Decimal):
        return Fraction(value) if value.is_finite() else _not_finite(field, value)
    number = float(value)
    return number if math.isfinite(number) else _not_finite(field, value)


def _not_finite(field: str, value: object) -> float:
    raise InvalidTask(field, f"{field} {show(value)} is not a length of time; {_PYTHON_MEND}")


def _in_range(field: str, value: object, ms: int, least: int, mend: str) -> int:
    if ms < least:
        why = "is negative" if ms < 0 else f"is less than {least} ms"
        omit = "" if least == 0 else ", or leave it out"
        raise InvalidTask(field, f"{field} {show(value)} {why}; {mend}{omit}")
    if ms > MAX_DELAY_MS:
        raise InvalidTask(field, f"{field} {show(value)} is more than 10^13 ms (317 years); {mend}")
    return ms


def _spelled_ms(field: str, text: str, mend: str) -> int:
    total = Fraction(0)
    if _PARTS.fullmatch(text):
        last = -1
        for number, unit in _PART.findall(text):
            place = _ORDER.index(unit)
            if place <= last:
                raise InvalidTask(field, f"{field} {show(text)} names its units out of order; {mend}")
            last = place
            total += Fraction(Decimal(number)) * _UNITS[unit]
    elif match := _ISO.fullmatch(text.upper()):
        for part, size in zip(match.groups(), _ISO_UNITS, strict=True):
            if part:
                total += Fraction(Decimal(part.replace(",", "."))) * size
    else:
        why = "is negative" if text.startswith("-") and _is_spelled(text[1:]) else "is not a duration"
        if _CALENDAR.match(text):
            why = "counts years or months, which have no fixed length"
        raise InvalidTask(field, f"{field} {show(text)} {why}; {mend}")
    if total.denominator != 1:
        raise InvalidTask(field, f"{field} {show(text)} is not a whole number of milliseconds; round it")
    return total.numerator


def _is_spelled(text: str) -> bool:
    return bool(_PARTS.fullmatch(text) or _ISO.fullmatch(text.upper()))
