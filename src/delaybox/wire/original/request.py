"""The body of the original's ``POST /task`` -> domain. Pure: no I/O, no clock.

Two readers give the same result. msgspec reads the usual body in about a microsecond. Bodies that it refuses, or with
mistakes that it would not notice (duplicate and unknown names, half surrogates), go to the strict reader, which reports
what is wrong.
"""

from __future__ import annotations

import re
import string
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from delaybox.core import webhook
from delaybox.core.durations import duration_ms
from delaybox.core.errors import InvalidTask, PayloadTooLarge, TypeDisabled
from delaybox.core.limits import (
    DEFAULT_PAYLOAD_BYTES,
    FAIRNESS_KEY_FORM,
    MAX_DELAY_MS,
    MAX_DUE_MS,
    MAX_FAIRNESS_KEY_BYTES,
    MAX_HEADER_BYTES,
    MAX_KEY_BYTES,
    MAX_WEIGHT,
    MIN_DUE_MS,
    MIN_WEIGHT,
    QUEUE,
    QUEUE_FORM,
)
from delaybox.core.retry import NO_RETRY, RetryPolicy
from delaybox.core.task import DEFAULT_QUEUE, PRIORITY_NAMES, NewTask, Priority, TaskType
from delaybox.wire import controls, shell_rules, strictjson
from delaybox.wire.strictjson import Number, decimal_of, decimal_text, has_escapes, kind_of

_SECONDS_FROM = 10**8
_MICROSECONDS_FROM = 10**15  # less, in ms, is what some write for never: 9999-12-31
_MICROSECONDS_TO = 10**17
_NANOSECONDS_TO = 10**20
_EXAMPLE_MS = 1721672590913

_WHOLE = re.compile(r"[+-]?[0-9]{1,400}")
_DECIMAL = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,9})?")
_LINE_BREAKS = {ord("\r"): None, ord("\n"): None}

_TOP = ("taskType", "parameter", "pyload", "payload")
_IN_PARAMETER = tuple(name for name in controls.PARAMETERS if name != controls.TASK_TYPE)

HOW_TO_ENABLE: Final[Mapping[TaskType, str]] = {
    TaskType.SHELL_CMD: shell_rules.HOW_TO_ENABLE,
    TaskType.HTTP: webhook.HOW_TO_ENABLE,
    TaskType.WORKER: "this call cannot name a function; schedule tasks for workers over POST /v1/tasks, gRPC or Python",
}

# Python 3.11 looks an enum's member up in 0.2 us.
_PUB_SUB: Final = TaskType.PUB_SUB
_NORMAL: Final = Priority.NORMAL
_OTHER: Final = (TaskType.PUB_SUB, None)
_BY_NAME: Final[Mapping[bytes, tuple[TaskType, RetryPolicy | None]]] = {
    # A compatible SHELL_CMD is not tried again when its command fails, as in the original.
    t.name.encode(): (t, NO_RETRY if t is TaskType.SHELL_CMD else None)
    for t in TaskType
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalRules:
    """What this node accepts. ``types``: the task types it can deliver, PUB_SUB always among them."""

    max_payload_bytes: int = DEFAULT_PAYLOAD_BYTES
    types: frozenset[TaskType] = frozenset({TaskType.PUB_SUB})


DEFAULT_RULES = OriginalRules()


class _Usual(msgspec.Struct):
    taskType: str | UnsetType = UNSET  # noqa: N815
    parameter: dict[str, str | int] | UnsetType = UNSET
    pyload: str | UnsetType = UNSET
    payload: str | UnsetType = UNSET


_usual = msgspec.json.Decoder(_Usual)


def parse_task(body: bytes, rules: OriginalRules = DEFAULT_RULES) -> NewTask:
    """The task in a ``POST /task`` body. Raises InvalidTask, PayloadTooLarge or TypeDisabled."""
    try:
        task = _usual.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _parse_strictly(body, rules)
    task_type = task.taskType
    parameter = task.parameter
    pyload = task.pyload
    payload = task.payload
    # As many colons as names: then no name came twice and none was unknown. A colon inside a string only costs time.
    names = (task_type is not UNSET) + (pyload is not UNSET) + (payload is not UNSET)
    if parameter is UNSET:
        parameter = {}
    else:
        names += 1 + len(parameter)
    if body.count(b":") != names or has_escapes(body):
        return _parse_strictly(body, rules)
    return _build(
        None if task_type is UNSET else task_type,
        parameter,
        None if pyload is UNSET else pyload,
        None if payload is UNSET else payload,
        rules,
    )


def _parse_strictly(body: bytes, rules: OriginalRules) -> NewTask:
    value = strictjson.loads(body)
    if not isinstance(value, dict):
        raise InvalidTask("body", f"body must be a JSON object, not {kind_of(value)}; send {{...}}")
    top: dict[str, object] = {}
    for name, item in value.items():
        known = _field_of(name)
        if known is None:
            if name in _IN_PARAMETER:
                raise InvalidTask(name, f"{name} stands beside parameter and would be ignored; put it into parameter")
            continue
        if known in top:
            raise InvalidTask(known, f"body names {known} twice ({name!r} too); keep one of them")
        top[known] = item
    parameter = top.get("parameter")
    if parameter is None:
        parameter = {}
    elif not isinstance(parameter, dict):
        raise InvalidTask("parameter", f"parameter must be a JSON object, not {kind_of(parameter)}; send {{...}}")
    for name, item in parameter.items():
        if not isinstance(item, str):
            raise InvalidTask(
                f"parameter.{name[:40]}",
                f"parameter.{name[:40]} is {kind_of(item)}; give a string or a number, or leave it out",
            )
    return _build(_text(top, "taskType"), parameter, _text(top, "pyload"), _text(top, "payload"), rules)


def _field_of(name: str) -> str | None:
    """The field a name means. Go matches names without regard to case, so the original's callers may rely on it."""
    if name in _TOP:
        return name
    folded = name.lower()
    return next((known for known in _TOP if known.lower() == folded), None)


def _text(top: Mapping[str, object], name: str) -> str | None:
    value = top.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or isinstance(value, Number):
        raise InvalidTask(name, f"{name} must be a string, not {kind_of(value)}; put it in quotes")
    return value


def _build(
    top_type: str | None,
    parameter: Mapping[str, str | int],
    pyload: str | None,
    payload: str | None,
    rules: OriginalRules,
) -> NewTask:
    """The rules of the format, the same for both readers."""
    header: dict[str, bytes] = {}
    size = 0
    plain = True
    for name, value in parameter.items():
        if type(value) is str:
            raw = value.encode()
        elif type(value) is int and -_NANOSECONDS_TO < value < _NANOSECONDS_TO:
            raw = b"%d" % value
        else:
            raw = _number_text(name, value).encode()
            plain = False
        header[name] = raw
        size += len(name) + len(raw)
    if size > MAX_HEADER_BYTES:
        raise PayloadTooLarge(
            "parameter",
            f"parameter holds {size} bytes, more than {MAX_HEADER_BYTES}; move large values into pyload",
            limit=MAX_HEADER_BYTES,
        )

    task_type, retry = _PUB_SUB, None
    type_name = header.get("taskType")
    if top_type:
        if type_name and top_type.encode() != type_name:
            raise InvalidTask(
                "taskType",
                f"taskType {_show(top_type)} and parameter.taskType {_show(type_name.decode())} differ; "
                "give one of them, or the same twice",
            )
        # Subscribers see only the header, so a type that was given beside it is put into it.
        header["taskType"] = type_name = top_type.encode()
        if len(type_name) > MAX_HEADER_BYTES:
            raise PayloadTooLarge(
                "taskType", f"taskType {_show(top_type)} is too long; shorten it", limit=MAX_HEADER_BYTES
            )
    if type_name and type_name != b"PUB_SUB":
        # A task of an unknown type is published, as by the original.
        task_type, retry = _BY_NAME.get(type_name, _OTHER)
        if task_type not in rules.types:
            raise TypeDisabled("taskType", f"taskType {task_type.name} is switched off: {HOW_TO_ENABLE[task_type]}")

    due_ms: int | None = None
    delay_ms: int | None = None
    queue = DEFAULT_QUEUE
    priority = _NORMAL
    key: str | None = None
    fairness_key, fairness_weight = "", 1.0
    if parameter:
        at = parameter.get("executionTimestamp")
        delay = parameter.get("delay")
        if at is not None:
            if delay is not None:
                raise InvalidTask(
                    "parameter.delay",
                    f"parameter.executionTimestamp {_show(at)} and parameter.delay {_show(delay)} are both given; "
                    "give one of them",
                )
            due_ms = _due_ms(at)
        elif delay is not None:
            delay_ms = _delay_ms(delay)
        if len(parameter) > 1 or due_ms is None:
            if "queue" in header:
                queue = _queue(header["queue"].decode())
            if "priority" in header:
                priority = _priority(header["priority"].decode())
            if "idempotencyKey" in header:
                key = _key(header["idempotencyKey"])
            if "fairnessKey" in header:
                fairness_key = _fairness_key(header["fairnessKey"].decode())
            if "fairnessWeight" in header:
                fairness_weight = _fairness_weight(header["fairnessWeight"].decode(), keyed=bool(fairness_key))
        if not plain:
            # The original's subscribers parse these two as integers: 1.7e12 and 1721672590913.0 reach them as digits.
            if at is not None and type(at) is not str:
                header["executionTimestamp"] = b"%d" % (due_ms or 0)
            elif delay_ms is not None and type(delay) is not str:
                header["delay"] = b"%d" % delay_ms
        if type(delay) is str and delay[-1:].isalpha():
            header["delay"] = b"%d" % (delay_ms or 0)

    data = _payload(pyload, payload, rules.max_payload_bytes)
    if task_type is not _PUB_SUB and task_type is TaskType.SHELL_CMD:
        shell_rules.check_payload(data, "payload" if pyload is None else "pyload")
    return NewTask(
        payload=data,
        due_ms=due_ms,
        delay_ms=delay_ms,
        type=task_type,
        queue=queue,
        priority=priority,
        header=header,
        idempotency_key=key,
        retry=retry,
        fairness_key=fairness_key,
        fairness_weight=fairness_weight,
    )


def of_header(header: Mapping[str, bytes], rules: OriginalRules = DEFAULT_RULES) -> NewTask:
    """The task, without payload, that a header of bytes asks for, by the rules of ``parameter``."""
    parameter: dict[str, str | int] = {}
    others: dict[str, bytes] = {}
    for name, value in header.items():
        try:
            parameter[name] = value.decode()
        except UnicodeDecodeError:
            if name == "taskType" or name in _IN_PARAMETER:
                raise InvalidTask(f"parameter.{name}", f"parameter.{name} is not UTF-8 text; send text") from None
            others[name] = value
    task = _build(None, parameter, None, None, rules)
    if others:
        return replace(task, header={**task.header, **others})
    return task


def _number_text(name: str, value: str | int) -> str:
    """A parameter's number in decimal digits; booleans cannot come here, both readers refuse them."""
    text = decimal_text(str(value))
    if text is None:
        raise InvalidTask(
            f"parameter.{name[:40]}",
            f"parameter.{name[:40]} {_show(value)} is out of range for a number; send it as a string",
        )
    return text


def _due_ms(value: str | int) -> int | None:
    field = "parameter.executionTimestamp"
    if type(value) is int:
        due = value
    elif type(value) is str and len(value) == 13 and value.isascii() and value.isdigit():
        due = int(value)
    else:
        due = _whole(field, value, f"give Unix milliseconds such as {_EXAMPLE_MS}")
    if MIN_DUE_MS <= due <= MAX_DUE_MS:
        return due
    if due == 0:
        return None
    mend = f"give Unix milliseconds such as {_EXAMPLE_MS}"
    if due < 0:
        why = "is negative;"
    elif _SECONDS_FROM <= due < MIN_DUE_MS:
        why = "looks like seconds; multiply by 1000 to"
    elif _MICROSECONDS_FROM <= due < _MICROSECONDS_TO:
        why = "looks like microseconds; divide by 1000 to"
    elif _MICROSECONDS_TO <= due < _NANOSECONDS_TO:
        why = "looks like nanoseconds; divide by 1000000 to"
    else:
        why = "is outside 10^11 to 10^14;"
    raise InvalidTask(field, f"{field} {_show(value)} {why} {mend}")


def _delay_ms(value: str | int) -> int:
    field = "parameter.delay"
    if type(value) is str and value[-1:].isalpha():
        return duration_ms(field, value)
    delay = (
        value if type(value) is int else _whole(field, value, 'give milliseconds such as 1500, or text such as "3s"')
    )
    if delay < 0:
        raise InvalidTask(field, f"{field} {_show(value)} is negative; give milliseconds from now, 0 or more")
    if delay > MAX_DELAY_MS:
        raise InvalidTask(
            field, f"{field} {_show(value)} is more than 10^13 ms (317 years); give milliseconds from now"
        )
    return delay


def _whole(field: str, value: str | int, mend: str) -> int:
    """The exact integer that ``value`` spells, in digits or as ``1.7e12``."""
    text = str(value)
    if _WHOLE.fullmatch(text):
        return int(text)
    if not text:
        raise InvalidTask(field, f"{field} is empty; {mend}, or leave it out to run at once")
    exact = decimal_of(text) if _DECIMAL.fullmatch(text) else None
    if exact is None:
        raise InvalidTask(field, f"{field} {_show(value)} is not a number in range; {mend}")
    numerator, denominator = exact.as_integer_ratio()
    if denominator != 1:
        raise InvalidTask(field, f"{field} {_show(value)} is not a whole number; {mend}")
    return numerator


def _queue(text: str) -> str:
    if QUEUE.fullmatch(text) is None:
        raise InvalidTask(
            "parameter.queue",
            f"parameter.queue {_show(text)} is not a queue name; use {QUEUE_FORM}",
        )
    return text


def _priority(text: str) -> Priority:
    found = PRIORITY_NAMES.get(text)
    if found is None:
        raise InvalidTask(
            "parameter.priority",
            f"parameter.priority {_show(text)} is not a priority; use low, normal, high or critical",
        )
    return found


def _key(raw: bytes) -> str:
    if not 1 <= len(raw) <= MAX_KEY_BYTES:
        raise InvalidTask(
            "parameter.idempotencyKey",
            f"parameter.idempotencyKey has {len(raw)} bytes; use 1 to {MAX_KEY_BYTES}, or leave it out",
        )
    return raw.decode()


def _fairness_key(text: str) -> str:
    if not 1 <= len(text.encode()) <= MAX_FAIRNESS_KEY_BYTES or any(c < " " or c == "\x7f" for c in text):
        raise InvalidTask(
            "parameter.fairnessKey",
            f"parameter.fairnessKey {_show(text)} is not a fairness key; use {FAIRNESS_KEY_FORM}",
        )
    return text


def _fairness_weight(text: str, *, keyed: bool) -> float:
    field = "parameter.fairnessWeight"
    try:
        # Python reads digits of other scripts, and 1_0 as ten.
        weight = float(text) if text.isascii() and "_" not in text else 0.0
    except ValueError:
        weight = 0.0
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        raise InvalidTask(field, f"{field} {_show(text)} is no weight; give {MIN_WEIGHT:g} to {MAX_WEIGHT:g}")
    if not keyed:
        raise InvalidTask(field, f"{field} is given and no fairnessKey; give that as well, or leave it out")
    return weight


def _payload(pyload: str | None, payload: str | None, limit: int) -> bytes:
    if pyload is None:
        return b"" if payload is None else decode_base64("payload", payload, limit)
    data = decode_base64("pyload", pyload, limit)
    if payload is not None and payload != pyload and decode_base64("payload", payload, limit) != data:
        raise InvalidTask(
            "payload",
            "pyload and payload are both given and differ; give one of them",
        )
    return data


_BASE64 = frozenset(string.ascii_letters + string.digits + "+/=\r\n")


def decode_base64(field: str, text: str, limit: int, *, as_go: bool = True) -> bytes:
    """Standard base64, padded. InvalidTask, PayloadTooLarge.

    ``as_go``: as Go's StdEncoding reads it, with line breaks anywhere and any bits after the last byte. Without it
    bytes have one spelling: no line breaks, and those bits are 0.
    """
    data = _decode(text)
    if as_go:
        if data is None and ("\n" in text or "\r" in text):
            data = _decode(text.translate(_LINE_BREAKS))
    elif data is not None and text.endswith("=") and b64encode(data[-(len(data) % 3) :]).decode() != text[-4:]:
        data = None
    if data is None:
        mend = "use the alphabet with + and / and pad with ="
        if text.endswith("=") and _decode(text) is not None:
            mend = "the bits after the last byte must be 0, as encoders write them"
        if text and not text.translate(_LINE_BREAKS).strip("="):
            mend = "leave it out for an empty payload"
        # The error does not show the text: payloads may be secrets, and proxies and clients log answers.
        strange = next((at for at, char in enumerate(text) if char not in _BASE64), None)
        where = f"{text[strange]!r} at {strange}" if strange is not None else f"{len(text)} characters"
        raise InvalidTask(field, f"{field} ({where}) is not standard base64; {mend}")
    if len(data) > limit:
        raise PayloadTooLarge(
            field,
            f"{field} holds {len(data)} bytes, more than {limit}; store it elsewhere and send its address",
            limit=limit,
        )
    return data


def _decode(text: str) -> bytes | None:
    # CPython's strict mode passes surplus padding ("AAAA===="), hence the two checks before it.
    if len(text) % 4 or text.endswith("==="):
        return None
    try:
        return a2b_base64(text, strict_mode=True)
    except ValueError:
        return None


def _show(value: object) -> str:
    """A caller's value for a message: quoted when it was a string, and short."""
    text = str(value)
    cut = text if len(text) <= 40 else text[:37] + "..."
    return repr(cut) if type(value) is str else cut
