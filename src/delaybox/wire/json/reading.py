"""Decodes bodies of ``/v1`` into the types, or reports what is wrong with them.

msgspec decodes in about a microsecond. Bodies that it refuses, or with mistakes that it would not notice (a name twice,
half surrogates), go to the strict reader, which reports what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Generic, NoReturn, TypeVar, get_args

import msgspec
from msgspec import Raw, Struct

from delaybox.core.errors import InvalidTask
from delaybox.core.words import show, unknown
from delaybox.wire import strictjson
from delaybox.wire.strictjson import Number, has_escapes, kind_of

T = TypeVar("T", bound=Struct)

_PATH = re.compile(r" - at `([^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_EXPECTED = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")

_encode: Final = msgspec.json.Encoder().encode

_WANTED: Final[Mapping[str, str]] = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
}
_MEANT: Final[dict[str, str]] = {
    "tasktype": "type",
    "pyload": "payload",
    "payload_text": "payload",
    "executiontimestamp": "at",
    "due": "at",
    "due_ms": "at",
    "run_at": "at",
    "eta": "at",
    "countdown": "delay",
    "delay_ms": "delay",
    "ttl": "expire_after",
    "idempotencykey": "idempotency_key",
    "key": "idempotency_key",
    "parameter": "headers",
    "header": "headers",
    "retries": "retry",
    "attempts": "max_attempts",
    "tags": "labels",
    "command": "name",
    "function": "name",
    "timeout_ms": "timeout",
}
"""Names that callers use who come from the compatible API or another scheduler, and the right ones."""


class JsonReader(Generic[T]):
    """Decodes one type of body. ``where``: how an unknown name at the top is called, "a field of a task"."""

    def __init__(self, kind: type[T], *, where: str, max_containers: int = 20_000) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._kind = kind
        self._where = where
        self._max_containers = max_containers

    def __call__(self, body: bytes | Raw) -> T:
        """The decoded body; names that come twice are not looked for (`strictly` does). InvalidTask."""
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self.strictly(bytes(body))
            self._explain(str(error), bytes(body))

    def strictly(self, body: bytes) -> Any:
        """The body as the strict reader sees it; InvalidTask for a name twice, half surrogates and what is no JSON."""
        return strictjson.loads(body, max_containers=self._max_containers)

    def check_names(self, body: bytes, value: T) -> None:
        """Refuses a name that comes twice and half surrogates: InvalidTask. ``value``: what ``body`` was decoded to.

        The value is encoded again and the colons are counted. If no name came twice, their number is the same: one
        for each name, and those inside strings, which only an escape could hide. The type must omit defaults; a null
        only costs time.
        """
        if has_escapes(body) or body.count(b":") != _encode(value).count(b":"):
            self.strictly(body)

    def _explain(self, message: str, body: bytes) -> NoReturn:
        found = _PATH.search(message)
        path = found[1] if found else "$"
        if found:
            message = message[: found.start()]
        names = [name or number for name, number in _STEP.findall(path)]
        field = ".".join(name for name in names if name != "..." and not name.isdigit())
        if match := _UNKNOWN.match(message):
            kind = self._kind_at(names)
            full = f"{field}.{match[1]}" if field else match[1]
            where = f"a field of {field}" if field else self._where
            known = kind.__struct_fields__ if kind else ()
            # A guess must be a field of the object at hand.
            meant = {spelling: name for spelling, name in _MEANT.items() if name in known}
            raise InvalidTask(full[:100], unknown(match[1], known, meant, where=where))
        if match := _MISSING.match(message):
            full = f"{field}.{match[1]}" if field else match[1]
            raise InvalidTask(full, f"{full} is missing; add it")
        if match := _EXPECTED.match(message):
            name, value = self._value_at(body, names)
            wanted = [_WANTED[kind] for kind in ("object", "array", "bool", "str", "float", "int")
                      if kind in match[1].split(" | ")]  # fmt: skip
            if "a number" in wanted and "a whole number" in wanted:
                wanted.remove("a whole number")
            what = field or "body"
            if names and names[-1] == "...":
                what = f"{field}: the value of {show(name)}"
            mend = "; give JSON as payload_json" if names and names[-1] == "payload" else ""
            raise InvalidTask(field or "body", f"{what} must be {' or '.join(wanted)}, not {value}{mend}")
        if message == "Number out of range":
            what = f"{field or 'body'} holds a number that is out of range"
            raise InvalidTask(field or "body", f"{what}; give one that a 64-bit float can hold")
        raise InvalidTask(field or "body", f"{field or 'body'}: {message}")

    def _kind_at(self, names: list[str]) -> type[Struct] | None:
        kind: type[Struct] = self._kind
        for name in names:
            of = next((field.type for field in msgspec.structs.fields(kind) if field.name == name), None)
            inner = next(_structs_in(of), None)
            if inner is None:
                return None
            kind = inner
        return kind

    def _value_at(self, body: bytes, names: list[str]) -> tuple[str, str]:
        """The last name on the way to the wrong value, and what kind of value that is."""
        value, last = self.strictly(body), ""
        for name in names:
            if name == "...":
                wrong = ((n, v) for n, v in value.items() if not isinstance(v, str) or isinstance(v, Number))
                last, value = next(wrong, ("", None))
            elif isinstance(value, dict):
                last, value = name, value.get(name)
        return last, kind_of(value)


def _structs_in(kind: Any) -> Iterator[type[Struct]]:
    """The objects that a field may hold: itself, or inside of Annotated and of unions."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        yield kind
    for inner in get_args(kind):
        yield from _structs_in(inner)


def check_json(field: str, raw: Raw | bytes, max_depth: int = strictjson.MAX_DEPTH) -> None:
    """Refuses JSON that readers treat differently: names that come twice, numbers beyond a float, great depth."""
    body = bytes(raw)
    try:
        if not has_escapes(body) and body.count(b":") == _colons(msgspec.json.decode(body), max_depth):
            return
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if "out of range" in str(error):
            raise InvalidTask(field, f"{field} holds a number that is out of range; send it as a string") from None
    try:
        strictjson.loads(body)
    except InvalidTask as error:
        raise InvalidTask(field, f"{field}: {error}") from None


def _colons(value: object, depth: int) -> int:
    """The colons of a value's JSON when no name comes twice; RecursionError for what is too deep."""
    if isinstance(value, str):
        return value.count(":")
    if depth <= 0 and isinstance(value, dict | list):
        raise RecursionError
    if isinstance(value, dict):
        inside: int = sum(k.count(":") + _colons(v, depth - 1) for k, v in value.items())
        return len(value) + inside
    if isinstance(value, list):
        return sum(_colons(v, depth - 1) for v in value)
    return 0
