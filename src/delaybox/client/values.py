"""Single values as a caller writes them in Python -> the wire's form. The node checks the rest."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from delaybox.client.models import PRIORITIES, Retry
from delaybox.core.durations import Span, span_ms
from delaybox.core.errors import InvalidTask
from delaybox.core.limits import MAX_ATTEMPTS, MAX_DUE_MS, MAX_KEY_BYTES, MIN_DUE_MS
from delaybox.core.localtime import instant_us, name_of
from delaybox.core.retry import RetryFields, RetryPolicy, checked_policy
from delaybox.core.words import PRIORITY_MEANT, show, unknown
from delaybox.wire.gen import task_pb2
from delaybox.wire.json.moments import moment_ms

Moment = datetime | str
"""When: an aware datetime, or RFC 3339 text with an offset.

The zone of a datetime with a zoneinfo.ZoneInfo is kept with the task. A time that its clocks leave out lies behind the
gap, and of two that they show the first is meant, unless its fold is 1."""
Duration = Span
"""How long: seconds, a timedelta, or text such as "15m", "1h30m" or "PT15M"."""

DAY_S: Final = 86_400
_PRIORITY_NUMBERS: Final = {str(priority): number for number, priority in PRIORITIES.items()}
_NUMBER = re.compile(r"\s*[-+]?[\d_]+(?:\.\d*)?\s*", re.ASCII)


def text_of(field: str, value: object) -> str:
    """``value`` when it is text that can be sent. InvalidTask."""
    if not isinstance(value, str):
        raise InvalidTask(field, f"{field} {show(value)} is {_kind(value)}, not text; give text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidTask(
                field,
                f"{field} {value[:40]!a} holds half a character (a surrogate), which cannot be sent",
            ) from None
    return value


def named_of(field: str, value: object, without: str) -> str:
    """Text that names something. InvalidTask where it is empty: over the wire that is as if it were left out, and an
    empty variable would do another thing than was meant. ``without``: what leaving it out means."""
    if not (text := text_of(field, value)):
        raise InvalidTask(field, f"{field} is empty; give a name, or leave it out for {without}")
    return text


def key_of(value: object) -> str:
    """An idempotency key. InvalidTask."""
    text = text_of("key", value)
    if not 1 <= (size := len(text.encode())) <= MAX_KEY_BYTES:
        raise InvalidTask("key", f"key has {size} bytes; use 1 to {MAX_KEY_BYTES}, or leave it out")
    return text


def texts_of(field: str, value: object) -> list[str]:
    """Several texts. InvalidTask, for one text and for a mapping, of whose values nothing would be left, as well."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InvalidTask(field, f'{field} {show(value)} is {_kind(value)}, not a list; give texts such as ["gpu"]')
    return [text_of(field, one) for one in value]


def id_of(task_id: object) -> str:
    """A task's id. InvalidTask."""
    if not isinstance(task_id, str):
        raise InvalidTask(
            "id", f"id {show(task_id)} is {_kind(task_id)}, not text; give the id that scheduling answered"
        )
    return text_of("id", task_id)


def watched_id(task_id: object) -> str:
    """A task's id in the node's own spelling, by which events are matched to tasks. InvalidTask."""
    text = id_of(task_id)
    try:
        return str(UUID(text))
    except ValueError:
        return text  # the node refuses it, with its own message


def labels_of(field: str, labels: object) -> Mapping[str, str]:
    """Labels, which are text. InvalidTask."""
    if not isinstance(labels, Mapping):
        raise InvalidTask(
            field, f'{field} {show(labels)} is {_kind(labels)}; give pairs such as {{"customer": "c-17"}}'
        )
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            wrong, what = (value, f"the value of {name!r}") if isinstance(name, str) else (name, "a name")
            do = "leave it out" if wrong is None else f"write {str(wrong)[:40]!r}"
            raise InvalidTask(field, f"{field}: {what} is {show(wrong)} ({_kind(wrong)}), not text; {do}")
        text_of(field, name)
        text_of(field, value)
    return labels


def headers_of(headers: object) -> dict[str, bytes]:
    """Headers as bytes. InvalidTask."""
    if not isinstance(headers, Mapping):
        raise InvalidTask(
            "headers", f'headers {show(headers)} is {_kind(headers)}; give pairs such as {{"trace": "4bf9"}}'
        )
    found = {}
    for name, value in headers.items():
        if isinstance(value, str):
            value = text_of("headers", value).encode()
        elif not isinstance(value, bytes):
            raise InvalidTask(
                "headers",
                f"headers: the value of {show(name)} is {show(value)} ({_kind(value)}); give text or bytes",
            )
        found[text_of("headers", name)] = value
    return found


def priority_number(value: object) -> int:
    """The wire's number of a priority. InvalidTask."""
    return number_of("priority", value, _PRIORITY_NUMBERS, "a priority", PRIORITY_MEANT)


def number_of(
    field: str,
    value: object,
    numbers: Mapping[str, int],
    what: str,
    meant: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """The wire's number of a name. ``meant``: what is often written in place of a name. InvalidTask."""
    if not isinstance(value, str):
        raise InvalidTask(field, f"{field} {show(value)} is {_kind(value)}, not text; there are {', '.join(numbers)}")
    found = numbers.get(value)
    if found is None:
        raise InvalidTask(field, f"{field} " + unknown(value, numbers, meant, where=what))
    return found


def unix_ms(field: str, value: Moment, *, ms_field: str = "") -> int:
    """Unix ms of a moment; rounded up, so that nothing is early. InvalidTask.

    ``ms_field``: the option that takes Unix ms instead, where there is one.
    """
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return moment_ms(field, value)
    if not isinstance(value, datetime):
        instead = f", or Unix milliseconds as {ms_field}" if ms_field else ""
        raise InvalidTask(
            field,
            f"{field} {show(value)} is {_kind(value)}, not a moment; give an aware datetime such as "
            f"datetime.now(UTC) + timedelta(hours=1), RFC 3339 text such as 2030-01-31T09:00:00+01:00{instead}",
        )
    if value.utcoffset() is None:
        raise InvalidTask(
            field,
            f"{field} {value.isoformat()} has no time zone; use datetime.now(UTC), or .astimezone() for local time",
        )
    ms = -(-instant_us(value) // 1000)
    if not MIN_DUE_MS <= ms <= MAX_DUE_MS:
        raise InvalidTask(
            field, f"{field} {value.isoformat()} is before 1973-03-03 or after 5138-11-16; give a moment between them"
        )
    return ms


def put_when(message: Any, when: Mapping[str, Any]) -> None:
    """Sets due_ms or delay_ms of a message that has them. InvalidTask when more than one of the options is given."""
    at, at_ms, delay = when.get("at"), when.get("at_ms"), when.get("delay")
    given = [name for name, value in (("at", at), ("at_ms", at_ms), ("delay", delay)) if value is not None]
    if len(given) > 1:
        raise InvalidTask(given[-1], f"{' and '.join(given)} are both given; give one of them")
    if at is not None:
        message.due_ms = unix_ms("at", at, ms_field="at_ms")
        if isinstance(at, datetime) and "zone" in message.DESCRIPTOR.fields_by_name:
            message.zone = name_of(at.tzinfo)
    elif at_ms is not None:
        if isinstance(at_ms, bool) or not isinstance(at_ms, int):
            raise InvalidTask("at_ms", f"at_ms {show(at_ms)} is {_kind(at_ms)}; give whole Unix milliseconds")
        message.due_ms = moment_ms("at_ms", at_ms)
    elif delay is not None:
        message.delay_ms = span_ms("delay", delay, least=0)
        if isinstance(delay, int | float) and delay > DAY_S:
            _warn_of_seconds(delay)


def _warn_of_seconds(delay: float) -> None:
    """Warns about large numbers: until 0.1 a number was milliseconds, and old code would get a task a thousand times
    too late."""
    warn(
        f"delay={delay!r} is {timedelta(seconds=delay)} (h:mm:ss): a number is seconds, where it was milliseconds in "
        'earlier versions; a timedelta, or text such as "2d" or "90000ms", says what is meant without this warning',
        FutureWarning,
    )


def warn(words: str, category: type[Warning]) -> None:
    """Warns, with the nearest line of the caller's code."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("delaybox."):
        frame, level = frame.f_back, level + 1
    warnings.warn(words, category, stacklevel=level)


def policy_of(field: str, retry: object) -> RetryPolicy:
    """The policy of a `Retry`, or of a number of further attempts. InvalidTask."""
    fields = RetryFields(*(f"{field}.{part}" for part in ("attempts", "initial", "factor", "maximum", "jitter")))
    if isinstance(retry, Retry):
        initial, maximum = retry.initial, retry.maximum
        return checked_policy(
            fields,
            attempts=_count(fields.attempts, retry.attempts),
            initial_ms=None if initial is None else span_ms(fields.initial, initial),
            factor=real_of(fields.factor, retry.factor),
            max_ms=None if maximum is None else span_ms(fields.maximum, maximum),
            jitter=real_of(fields.jitter, retry.jitter),
        )
    if isinstance(retry, bool) or not isinstance(retry, int):
        raise InvalidTask(
            field,
            f"{field} {show(retry)} is {_kind(retry)}; give how many further attempts a failed one may have (0 for "
            f'none), or a Retry such as Retry(attempts=5, initial="10s")',
        )
    if not 0 <= retry < MAX_ATTEMPTS:
        raise InvalidTask(
            field, f"{field} {retry} is not in range; give how many further attempts there are, 0 to {MAX_ATTEMPTS - 1}"
        )
    return checked_policy(fields, attempts=retry + 1)


def put_policy(message: task_pb2.Retry, policy: RetryPolicy) -> None:
    """Writes a policy as the wire has it."""
    message.max_attempts = policy.max_attempts
    message.initial_ms = policy.initial_ms
    message.factor = policy.factor
    message.max_ms = policy.max_ms
    message.jitter = policy.jitter


def _count(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTask(field, f"{field} {show(value)} is {_kind(value)}; give a whole number")
    return value


def real_of(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTask(field, f"{field} {show(value)} is {_kind(value)}; give a number")
    return value


def share_of(field: str, value: object) -> float:
    """A weight that is not sent where it is 0: the node would take it for none. InvalidTask."""
    share = real_of(field, value)
    if not share:
        raise InvalidTask(field, f"{field} 0 is out of range; give 0.01 to 100 (1 is usual)")
    return share


def flag_of(field: str, value: object) -> bool:
    """InvalidTask."""
    if not isinstance(value, bool):
        raise InvalidTask(field, f"{field} {show(value)} is {_kind(value)}; give True or False")
    return value


def most_of(field: str, value: object) -> int:
    """How many at most; 0: no limit. InvalidTask."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTask(field, f"{field} {show(value)} is {_kind(value)}; give a whole number, or 0 for no limit")
    if not 0 <= value < 1 << 63:
        raise InvalidTask(field, f"{field} {value} is out of range; give a number from 1 on, or 0 for no limit")
    return value


def raw_of(payload: object) -> bytes:
    """Bytes as they stand, text as UTF-8, anything else as JSON. InvalidTask."""
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    if isinstance(payload, str):
        return text_of("payload", payload).encode()
    return json_of("payload", payload)


def json_of(what: str, value: object) -> bytes:
    """Compact JSON. InvalidTask."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTask(
            what, f"{what} cannot be made JSON ({error}); give bytes, text or plain JSON values"
        ) from None


def _kind(value: object) -> str:
    """A caller's value in words, for error messages."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case bytes() | bytearray():
            return "bytes"
        case _:
            return f"of the type {type(value).__name__}"
