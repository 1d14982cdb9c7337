"""CloudEvents 1.0 in Kafka records: binary mode (``ce_`` headers) and structured mode (one JSON object). Pure.

After "Kafka Protocol Binding for CloudEvents" and "JSON Event Format", both version 1.0.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from delaybox.core.errors import InvalidTask
from delaybox.wire import controls

CONTENT_TYPE: Final = "content-type"
STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
PARTITION_KEY: Final = "ce_partitionkey"
"""The extension attribute "partitioning", as a header of binary mode."""

_BATCHES: Final = "application/cloudevents-batch"
_ANY: Final = "application/cloudevents"
_IS_BINARY: Final = "ce_specversion"
_REQUIRED: Final = ("id", "source", "type")
_HEEDED: Final = (*controls.OF_EVENT, PARTITION_KEY)


def media_type(header: Mapping[str, bytes]) -> str:
    """The record's content type, in lower case and without parameters; "" where it has none."""
    stated = next((raw for name, raw in header.items() if name.lower() == CONTENT_TYPE), b"")
    return stated.decode("ascii", "replace").partition(";")[0].strip().lower()


def attributes(value: bytes, header: Mapping[str, bytes]) -> Mapping[str, bytes] | None:
    """Those attributes of an event that mean something here, named as the headers of binary mode.

    None for a record that is no event. InvalidTask for a record that claims to be an event and cannot be read as one.
    """
    if _IS_BINARY in header:
        return {name: header[name] for name in _HEEDED if name in header}
    kind = media_type(header)
    if not kind.startswith(_ANY):
        return None
    if kind != STRUCTURED:
        mend = "send its events one by one" if kind.startswith(_BATCHES) else f"send it as {STRUCTURED}"
        raise InvalidTask(CONTENT_TYPE, f"an event of the content-type {kind[:80]} cannot be read; {mend}")
    try:
        event = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidTask("value", f"the content-type is {STRUCTURED}, but the value is no JSON object") from None
    if (version := _text(event, "specversion")) != "1.0":
        raise InvalidTask("specversion", f"the event's specversion is {version[:20]!r}; only 1.0 can be read")
    for name in _REQUIRED:
        if not _text(event, name):
            raise InvalidTask(name, f"the event has no {name}; every CloudEvent has id, source, specversion and type")
    found = {name: _text(event, name.removeprefix(controls.EVENT)) for name in _HEEDED}
    return {name: text.encode() for name, text in found.items() if text}


def _text(event: Mapping[str, msgspec.Raw], name: str) -> str:
    """An attribute as text; "" where it is missing or null. Attributes are strings, integers or booleans."""
    raw = event.get(name)
    if raw is None:
        return ""
    try:
        value = msgspec.json.decode(raw, type=str | int | bool | None)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InvalidTask(name, f"the event's attribute {name} is no string, integer or boolean") from None
    return "" if value is None else str(value)
