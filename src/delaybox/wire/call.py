"""Function calls and their results as bytes: what a client writes, a worker reads, and the other way round.

A payload is, by the task's header ``content-type``:

* ``application/json``, or no such header: JSON. ``{"args": [...], "kwargs": {...}}`` (either may be missing) is both
  kinds of arguments; any other object is keyword arguments; an array is positional ones; another value is the only
  argument; an empty payload is no arguments. So any language can call with the JSON that it has at hand.
* ``application/octet-stream``: the bytes are the only argument.
* another: decoded by the codec that is registered for it.

A result is JSON, or bytes when the function returned bytes; its content type tells which. Nothing is ever pickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from delaybox.core.errors import InvalidTask, NotDecodable, NotEncodable
from delaybox.core.limits import MAX_NAME, NAME, NAME_FORM
from delaybox.wire import calls as many
from delaybox.wire.calls import CallPart

CONTENT_TYPE: Final = "content-type"
"""The header that names a payload's form."""
JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
NAME_ATTRIBUTE: Final = "delaybox_name"
"""Attribute of a worker's function: the name it is scheduled by."""
OPTIONS_ATTRIBUTE: Final = "delaybox_options"
"""Optional attribute of a worker's function: options for a client's call, unless the call gives its own."""

_FORM: Final = frozenset(("args", "kwargs"))


class Call:
    """The arguments of one call: ``Call(1, 2, key="value")``."""

    __slots__ = ("args", "kwargs")

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and self.args == other.args and self.kwargs == other.kwargs

    __hash__ = None  # type: ignore[assignment]  # arguments may be lists

    def __repr__(self) -> str:
        parts = [repr(value) for value in self.args] + [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"Call({', '.join(parts)})"


class Calls:
    """Several calls of one function, one after the other: `delaybox.wire.calls`."""

    __slots__ = ("calls",)

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls


class Outcomes:
    """The encoded outcome of each of several calls."""

    __slots__ = ("form", "parts")

    def __init__(self, parts: list[CallPart], form: str = "") -> None:
        self.parts = parts
        self.form = form


class Encoded(NamedTuple):
    """Bytes and their form; ``content_type`` is empty for JSON, the default."""

    data: bytes
    content_type: str = ""


class Codec(NamedTuple):
    """A codec: a form of values as bytes. An exception of either function becomes the reason of a refusal; only
    MemoryError is raised on."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


class Codecs:
    """Forms by content type: JSON and plain bytes, and those that are added."""

    __slots__ = ("_named",)

    def __init__(self) -> None:
        self._named: dict[str, Codec] = {JSON: Codec(_to_json, _from_json)}

    def add(self, content_type: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> None:
        """Adds a codec of your own, the same on both sides. It gets the values that JSON would get: a list, a dict, a
        value."""
        kind = _kind(content_type)
        if kind in (JSON, BYTES) or "/" not in kind:
            raise ValueError(f"content type {content_type!r} cannot be added; name a new one such as application/cbor")
        self._named[kind] = Codec(encode, decode)

    def call(self, arguments: object, content_type: str = "") -> Encoded:
        """The payload of a call. NotEncodable.

        ``arguments``: a Call; or a mapping (keyword arguments), a list or tuple (positional ones), bytes (the only
        argument, as it stands), None (none), or another value (the only argument).
        """
        match arguments:
            case Call():
                value = _plain(arguments)
                if type(value) is bytes:
                    return Encoded(value, BYTES)
            case bytes() | bytearray() | memoryview():
                return Encoded(bytes(arguments), BYTES)
            case None:
                return Encoded(b"")
            case Mapping():
                value = _keywords(dict(arguments))
            case tuple():
                value = list(arguments)
            case _:
                value = arguments
        if type(value) is list and not value:
            return Encoded(b"")
        return self._encode("the arguments", value, content_type)

    def several(self, calls: Sequence[Encoded]) -> Encoded:
        """One payload of several calls, all of one form or bytes. ValueError."""
        forms = {call.content_type for call in calls} - {BYTES}
        if len(forms) > 1:
            raise ValueError(f"calls in one payload have one form, not {sorted(forms)}")
        parts = [CallPart(many.BYTES if call.content_type == BYTES else many.VALUE, call.data) for call in calls]
        return Encoded(many.join(parts), many.typed(many.CALLS, "".join(forms)))

    def arguments(self, payload: bytes, headers: Mapping[str, bytes]) -> Call | Calls:
        """The call in a payload, or the calls. NotDecodable."""
        kind = ""
        if headers and (stated := headers.get(CONTENT_TYPE)):
            kind = stated.decode("utf-8", "replace")
            if kind.startswith(many.CALLS):
                form = many.form(kind)
                return Calls(
                    [
                        Call(part.data) if part.kind == many.BYTES else self.one(part.data, form)
                        for part in many.split("the payload", payload)
                    ]
                )
        return self.one(payload, kind)

    def one(self, payload: bytes, kind: str = "") -> Call:
        """The one call in a payload; ``kind``: its content type, where one is stated. NotDecodable."""
        if not payload and (not kind or _kind(kind) == JSON):
            return Call()
        if kind:
            value = self._decode("the payload", payload, kind)
        else:
            # The common case, without the codecs, because a worker does this for every task.
            try:
                value = _from_json(payload)
            except (ValueError, RecursionError):
                value = self._decode("the payload", payload, kind)
        if type(value) is list:
            return Call(*value)
        if type(value) is not dict:
            return Call(value)
        if value and value.keys() <= _FORM:
            args, kwargs = value.get("args", []), value.get("kwargs", {})
            if type(args) is list and type(kwargs) is dict:
                return Call(*args, **kwargs)
        return Call(**value)

    def result(self, value: object, content_type: str = "") -> Encoded:
        """Encodes what a function returned, to be kept. NotEncodable."""
        if isinstance(value, Outcomes):
            return Encoded(many.join(value.parts), many.typed(many.RESULTS, value.form))
        if value is None:
            return Encoded(b"")
        if isinstance(value, bytes | bytearray | memoryview):
            return Encoded(bytes(value), BYTES)
        return self._encode("the result", value, content_type)

    def returned(self, output: bytes, content_type: str = "") -> Any:
        """Decodes what a function returned. NotDecodable."""
        if not output and (not content_type or _kind(content_type) == JSON):
            return None
        return self._decode("the result", output, content_type)

    def _encode(self, what: str, value: object, content_type: str) -> Encoded:
        kind = _kind(content_type) if content_type else JSON
        if kind == BYTES:
            raise NotEncodable(f"{what} cannot be sent as {BYTES}: it is {type(value).__name__}, not bytes")
        codec = self._codec(kind, NotEncodable, f"{what} cannot be sent")
        try:
            data = codec.encode(value)
        except MemoryError:
            raise
        except Exception as error:
            mend = (
                "pass plain JSON values (of an array its tolist()) or bytes, or add a codec"
                if kind == JSON
                else "give what its codec takes"
            )
            raise NotEncodable(f"{what} cannot be sent as {kind} ({_why(error)}); {mend}") from error
        if type(data) is not bytes:
            if not isinstance(data, bytes | bytearray | memoryview):
                raise NotEncodable(f"{what} cannot be sent as {kind}: its codec made {type(data).__name__}, not bytes")
            data = bytes(data)
        return Encoded(data, "" if kind == JSON else kind)

    def _decode(self, what: str, data: bytes, content_type: str) -> Any:
        kind = _kind(content_type) if content_type else JSON
        if kind == BYTES:
            return data
        codec = self._codec(kind, NotDecodable, f"{what} cannot be read")
        try:
            return codec.decode(data)
        except MemoryError:
            raise
        except Exception as error:
            mend = f"; bytes travel with {CONTENT_TYPE} {BYTES}" if kind == JSON else ""
            raise NotDecodable(f"{what} is not {kind}: {_why(error)}{mend}") from error

    def _codec(self, kind: str, error: type[NotEncodable] | type[NotDecodable], what: str) -> Codec:
        found = self._named.get(kind)
        if found is None:
            known = ", ".join((*self._named, BYTES))
            raise error(f"{what}: no codec for {kind[:80]!r} was added here; there are {known}")
        return found


def name_of(function: object) -> str:
    """The name that a function is scheduled by: the argument itself if it is text, else the name from its worker.
    InvalidTask."""
    name = function if isinstance(function, str) else getattr(function, NAME_ATTRIBUTE, None)
    if not isinstance(name, str):
        raise InvalidTask(
            "name", f"{function!r} is no function of a worker; decorate it with @worker.task, or give its name as text"
        )
    return check_name(name)


def check_name(name: str) -> str:
    """``name`` when a function can have it. InvalidTask."""
    if NAME.fullmatch(name) is None:
        raise InvalidTask(
            "name",
            f"name {name[: MAX_NAME + 12]!r} is not a function's name; use {NAME_FORM}",
        )
    return name


def _plain(call: Call) -> Any:
    """The shortest JSON value that reads as this call; bytes when they are the only argument."""
    if not call.kwargs:
        if len(call.args) == 1 and isinstance(call.args[0], bytes | bytearray | memoryview):
            return bytes(call.args[0])
        return list(call.args)
    if call.args:
        return {"args": list(call.args), "kwargs": call.kwargs}
    return _keywords(call.kwargs)


def _keywords(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in kwargs:
        if not isinstance(name, str):
            raise NotEncodable(
                f"the arguments have {name!r} for a name; keyword arguments are named by text "
                "(a mapping that is itself an argument goes into a list)"
            )
    # Otherwise a call of a function with a parameter called `args` would be misread.
    return {"kwargs": kwargs} if kwargs.keys() <= _FORM else kwargs


def _why(error: Exception) -> str:
    """The text of a codec's error. Making it may raise, because it is users' code, too."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    try:
        words = str(error)
    except Exception as worse:  # noqa: BLE001 - whatever it is, the value cannot be sent or read
        words = f"its words cannot be read, {type(worse).__name__}"
    if isinstance(error, TypeError | ValueError):
        return words or type(error).__name__
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is not JSON")


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_decoder = json.JSONDecoder(parse_constant=_no_constant)
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]


def _to_json(value: object) -> bytes:
    return _encoder.encode(value).encode()


def _from_json(data: bytes) -> Any:
    text = data.decode()
    # `decode` looks for white space on both sides first, which takes as long as reading a small payload.
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        return _decoder.decode(text)
    return value if end == len(text) else _decoder.decode(text)
