"""Wall-clock times: what a clock shows in some time zone, made into the moment that is meant.

Where clocks go forward some times do not exist: these are taken as if the clock had not been put forward yet, so the
moment lies as much behind the gap as the time lies in it. Where clocks go back some times come twice: the first one is
taken, or with fold 1 the second.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from delaybox.core.errors import InvalidTask
from delaybox.core.limits import MAX_DUE_MS, MIN_DUE_MS
from delaybox.core.words import show

MAX_ZONE: Final = 64
ZONE: Final = re.compile(rf"[A-Za-z][A-Za-z0-9_+/-]{{0,{MAX_ZONE - 1}}}")
"""The name of a time zone in the IANA database."""
LOCAL: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?", re.ASCII)
_OFFSET: Final = re.compile(r".*(?:[Zz]|[+-]\d\d:?\d\d)", re.ASCII)
_OF_THE_MACHINE: Final = frozenset({"localtime", "posixrules", "Factory"})
"""Another zone on each machine, or none."""
_EPOCH_ORDINAL: Final = datetime(1970, 1, 1).toordinal()  # noqa: DTZ001 - the calendar alone is asked
_LOCAL_MEND: Final = "give what a clock shows there, such as 2027-03-28T02:30"


def zone_of(field: str, name: str) -> ZoneInfo:
    """The time zone of that name. InvalidTask."""
    if ZONE.fullmatch(name) is not None and name not in _OF_THE_MACHINE:
        try:
            return ZoneInfo(name)
        except (OSError, ValueError, LookupError):  # there is none, or the name is that of a folder
            pass
    raise InvalidTask(field, f"{field} {show(name)} is not a time zone; give a name such as Europe/Berlin or UTC")


def local_ms(field: str, local: str, zone: str, fold: int = 0) -> int:
    """Unix ms of a wall-clock time in a zone; a fraction below a millisecond is rounded up. InvalidTask.

    ``field``: what holds the three parts, for errors.
    """
    match = LOCAL.fullmatch(local) if len(local) <= 64 else None
    if match is None:
        if len(local) <= 64 and _OFFSET.fullmatch(local) and LOCAL.match(local):
            raise InvalidTask(
                f"{field}.local",
                f"{field}.local {show(local)} has an offset, and a zone is given; leave the offset out, or give the "
                f"moment as {field} without a zone",
            )
        raise InvalidTask(f"{field}.local", f"{field}.local {show(local)} is not a local time; {_LOCAL_MEND}")
    if fold not in (0, 1):
        raise InvalidTask(f"{field}.fold", f"{field}.fold {fold} is neither 0 nor 1; 1 is the second of two such times")
    year, month, day, hour, minute, second, fraction = match.groups()
    try:
        then = datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second or 0),
            tzinfo=zone_of(f"{field}.zone", zone), fold=fold,
        )  # fmt: skip
    except ValueError:
        raise InvalidTask(
            f"{field}.local", f"{field}.local {show(local)} names a day or a time that does not exist; {_LOCAL_MEND}"
        ) from None
    ms: int = instant_us(then) // 1000 + -(-int(fraction or 0) * 1000 // 10 ** len(fraction or "0"))
    if not MIN_DUE_MS <= ms <= MAX_DUE_MS:
        raise InvalidTask(f"{field}.local", f"{field}.local {show(local)} is before 1973-03-03 or after 5138-11-16")
    return ms


def instant_us(then: datetime) -> int:
    """Unix microseconds of an aware datetime, by the rules of this module. ValueError for one without a zone."""
    offset = _offset(then)
    day = then.toordinal() - _EPOCH_ORDINAL
    second = (day * 24 + then.hour) * 3600 + then.minute * 60 + then.second
    return second * 1_000_000 + then.microsecond - offset // timedelta(microseconds=1)


def _offset(then: datetime) -> timedelta:
    first, second = then.replace(fold=0).utcoffset(), then.replace(fold=1).utcoffset()
    if first is None or second is None:
        raise ValueError("the datetime has no time zone")
    # Before a gap the offset is the smaller one, before a time that comes twice it is the larger one.
    return second if then.fold and first > second else first


def name_of(zone: tzinfo | None) -> str:
    """The name of a zone that has one in the database; "" for any other."""
    return zone.key if isinstance(zone, ZoneInfo) and zone.key and ZONE.fullmatch(zone.key) else ""
