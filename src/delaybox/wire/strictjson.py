"""JSON read strictly: exact numbers, no duplicate names, no NaN, bounded depth.

The second reader: it is slower than msgspec, but it loses nothing and reports what is wrong.
Every refusal is ``InvalidTask("body", ...)``.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import NoReturn

from delaybox.core.errors import InvalidTask

MAX_DEPTH = 32
_MAX_CONTAINERS = 20_000
"""Most objects and lists in a body. A task has two; 460,000 empty lists would hold the event loop for 0.1 s."""
MAX_VALUES = 600_000
"""Most values in a body: more than a payload of 1 MiB can hold. 8 million numbers in a batch would take a gigabyte."""
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_MAX_LITERAL = 400
_MAX_EXPONENT = 307
"""The largest power of ten that every float holds: beyond it other JSON readers see Infinity."""

_BACKSLASH = ord("\\")


class Number(str):
    """A JSON number exactly as it was written."""

    __slots__ = ()


def loads(body: bytes, *, max_containers: int = _MAX_CONTAINERS) -> object:
    """The value in ``body``: dict, list, str, Number, bool or None."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(f"body is not UTF-8 (byte {error.start}); send JSON encoded as UTF-8") from None
    if text.startswith("\ufeff"):
        raise _invalid("body starts with a byte order mark; send JSON as UTF-8 without one")
    if not text or text.isspace():
        raise _invalid('body is empty; send a JSON object such as {"payload":"VGVzdA=="}')
    if body.count(b"[") + body.count(b"{") > max_containers:
        raise _invalid(f"body holds more than {max_containers} lists and objects; a task needs a few")
    if body.count(b",") > MAX_VALUES and _STRING.sub(b"", body).count(b",") > MAX_VALUES:
        raise _invalid(f"body holds more than {MAX_VALUES} values; a task needs a few")
    try:
        value: object = json.loads(
            text, object_pairs_hook=_object, parse_int=Number, parse_float=Number, parse_constant=_constant
        )
    except json.JSONDecodeError as error:
        raise _invalid(
            f"body is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}; mend it there"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    _check(value, surrogates=b"\\u" in body)
    return value


def has_escapes(body: bytes) -> bool:
    r"""Whether a ``\u`` is in it. One byte is found fourteen times faster than two."""
    return _BACKSLASH in body and b"\\u" in body


def decimal_of(literal: str) -> Decimal | None:
    """The exact value of a number's literal; None when a float would overflow or its digits are too many."""
    if len(literal) > _MAX_LITERAL:
        return None
    try:
        value = Decimal(literal)
    except InvalidOperation:
        return None
    if not value.is_finite() or (value and abs(value.adjusted()) > _MAX_EXPONENT):
        return None
    return value


def decimal_text(literal: str) -> str | None:
    """The number in plain decimal digits, exactly; None as ``decimal_of``.

    As it was written when it has no exponent (``1.10`` stays ``1.10``), spelled out otherwise.
    """
    value = decimal_of(literal)
    if value is None:
        return None
    if "e" in literal or "E" in literal:
        return format(value, "f") if value else "0"
    return "0" if literal == "-0" else literal


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _invalid(f"body names {name[:40]!r} twice in one object; keep one of them")
            seen.add(name)
    return out


def _constant(name: str) -> NoReturn:
    raise _invalid(f"body holds {name}, which is not JSON; send a finite number")


def _check(value: object, *, surrogates: bool) -> None:
    """Bounds the depth and refuses half surrogate pairs, which no UTF-8 can carry."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
                if surrogates:
                    below.extend(item)
            elif isinstance(item, list):
                below.extend(item)
            elif surrogates and type(item) is str:
                _encodable(item)
        if not below:
            return
        level = below
    raise _too_deep()


def _encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _invalid(
            f"body holds half a surrogate pair (\\u{ord(text[error.start]):04x}); send both halves or the character"
        ) from None


def _too_deep() -> InvalidTask:
    return _invalid(f"body is nested deeper than {MAX_DEPTH} levels; a task needs a few")


def _invalid(message: str) -> InvalidTask:
    return InvalidTask("body", message)


def kind_of(value: object) -> str:
    """A JSON value in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Number():
            return f"the number {value[:40]}"
        case str():
            # The value is not named, because it may be a secret at the wrong place.
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"
