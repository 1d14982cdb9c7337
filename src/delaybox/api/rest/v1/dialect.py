"""Translates schemas to OpenAPI 3.0, which every generator of clients reads. Not all read 3.1.

There a null is ``nullable``, a type is one type, and an integer says how large it may get: without ``int64`` clients in
Go and Java fail on a due time, after the task is stored. Enums and unions that occur often get names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from delaybox.core.limits import MAX_DELAY_MS, MAX_DUE_MS, MIN_DUE_MS
from delaybox.wire.json import types
from delaybox.wire.json.bulk_types import PENDING_STATES

VERSION: Final = "3.0.3"
_NULL: Final = {"type": "null"}
_ONLY_3_1: Final = ("propertyNames", "contentEncoding")

NAMED: Final[Mapping[str, dict[str, Any]]] = {
    "TaskType": {"type": "string", "enum": list(types.TYPES)},
    "Priority": {"type": "string", "enum": list(types.PRIORITIES)},
    "TaskState": {"type": "string", "enum": list(types.STATES)},
    "PendingState": {"type": "string", "enum": list(PENDING_STATES)},
    "Moment": {
        "description": "RFC 3339 with an offset, or Unix ms",
        "anyOf": [
            {"type": "string", "format": "date-time"},
            {"type": "integer", "format": "int64", "minimum": MIN_DUE_MS, "maximum": MAX_DUE_MS},
        ],
    },
    "Duration": {
        "description": "ms, or text such as `15m`, `1h30m` or `PT15M`",
        "anyOf": [
            {"type": "string", "format": "delaybox-duration"},
            {"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_DELAY_MS},
        ],
    },
    "ParameterValue": {"anyOf": [{"type": "string"}, {"type": "number"}]},
}
"""Schemas with a name of their own; `translate` puts a reference where one of them stands."""


def translate(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of JSON Schema 2020-12, as msgspec writes it, in OpenAPI 3.0."""
    out: dict[str, Any] = {}
    nullable = False
    for word, value in schema.items():
        match word:
            case "properties":
                out[word] = {name: translate(one) for name, one in value.items()}
            case "items" | "additionalProperties" if isinstance(value, dict):
                out[word] = translate(value)
            case "anyOf":
                out[word] = [translate(one) for one in value if one != _NULL]
                nullable = nullable or _NULL in value
            case "type" if isinstance(value, list):
                kinds = [kind for kind in value if kind != "null"]
                nullable = nullable or "null" in value
                out |= {"type": kinds[0]} if len(kinds) == 1 else {"anyOf": [{"type": kind} for kind in kinds]}
            case "enum":
                out[word] = [one for one in value if one is not None]
                nullable = nullable or None in value
            case "const":
                out |= {"type": "string", "enum": [value]}
            case "examples":
                out["example"] = value[0]
            case "format" if value == "delaybox-base64":
                out[word] = "byte"
            case _ if word not in _ONLY_3_1:
                out[word] = value
    if len(out.get("anyOf", ())) == 1:
        out = {**out.pop("anyOf")[0], **out}
    if out.get("type") == "integer":
        out.setdefault("format", "int64")
    return _nullable(_named(out), nullable=nullable)


def _named(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, with a reference in place of what has a name."""
    for name, one in NAMED.items():
        word = "enum" if "enum" in one else "anyOf"
        if word in schema and _alike(schema[word], one[word]):
            rest = {key: value for key, value in schema.items() if key not in ("type", word)}
            return (
                {"allOf": [{"$ref": f"#/components/schemas/{name}"}], **rest}
                if rest
                else {"$ref": f"#/components/schemas/{name}"}
            )
    return schema


def _alike(these: list[Any], those: list[Any]) -> bool:
    """Whether they are the same but for the least duration, of which some are 0 and some 1."""
    if len(these) != len(those):
        return False
    for this, that in zip(these, those, strict=True):
        if isinstance(that, dict) and "minimum" in that and that["minimum"] < 10:
            if {**this, "minimum": 0} != that:
                return False
        elif this != that:
            return False
    return True


def _nullable(schema: dict[str, Any], *, nullable: bool) -> dict[str, Any]:
    """The same, for which null stands too. What stands beside a reference is not read, so it is wrapped."""
    if not nullable:
        return schema
    if "$ref" in schema:
        return {"allOf": [schema], "nullable": True}
    return {**schema, "nullable": True}
