"""The OpenAPI document, made from the table of calls and from the types that parse and render."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

import delaybox
from delaybox.api import call_scopes
from delaybox.api.rest.v1 import dialect, others
from delaybox.api.rest.v1.call import ApiCall
from delaybox.api.rest.v1.routes import CALLS
from delaybox.core.limits import (
    DEFAULT_PAGE,
    LABEL,
    MAX_CURSOR,
    MAX_KEY_BYTES,
    MAX_LABEL_VALUE,
    MAX_LABELS,
    MAX_PAGE,
    NAME,
)
from delaybox.core.scaling import KINDS, MAX_PLACES, WORKER
from delaybox.wire.json import events, types
from delaybox.wire.json.queries import MAX_WAIT_MS

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_EVENTS = "text/event-stream"
_PROBLEM = "application/problem+json"
_MOMENT_TEXT = "RFC 3339 with an offset (in a URL write its + as %2B), or Unix ms"

_ALWAYS: Final[Mapping[int, str]] = {
    400: "something in the request is wrong: `detail` says what and how to mend it, `field` where",
    401: "the node asks for a token, and none or a wrong one came",
    403: "the token lacks the scope, the task type is switched off, or Host or Origin is not this node's",
    503: "the store is away or unsure: whether something was stored is unknown; see Retry-After",
}
_ABOUT = """Schedules one-time tasks that fire on the millisecond.

Unknown fields and parameters are refused by name. Errors are RFC 9457 problems with a stable `code`.
Send an idempotency key when you schedule, and a request that got no answer, or 503, can be sent again."""

_MOMENT = {"type": "string", "example": "2030-01-31T09:00:00+01:00"}
_QUERY: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "state": ("only tasks in this state", {"type": "string", "enum": list(types.STATES)}),
    "queue": ("only tasks of this queue", {"type": "string", "pattern": types.QUEUE_PATTERN}),
    "type": ("only tasks of this type", {"type": "string", "enum": list(types.TYPES)}),
    "label": (
        "only tasks with this label, as `name=value`; may be given more than once, all must hold",
        {
            "type": "array",
            "maxItems": MAX_LABELS,
            "items": {"type": "string", "pattern": rf"^{LABEL.pattern}=[^\x00-\x1f]{{0,{MAX_LABEL_VALUE}}}$"},
        },
    ),
    "due_from": (f"only tasks due at or after: {_MOMENT_TEXT}", _MOMENT),
    "ended_from": (f"only tasks that ended at or after: {_MOMENT_TEXT}", _MOMENT),
    "ended_to": (f"only tasks that ended before: {_MOMENT_TEXT}", _MOMENT),
    "due_to": (f"only tasks due before: {_MOMENT_TEXT}", _MOMENT),
    "free_key": (
        "true: the task's idempotency key may be used again at once",
        {"type": "boolean", "default": False},
    ),
    "running": (
        "true: also when it runs; then the worker that runs it, or the node that runs its command, is asked to stop it",
        {"type": "boolean", "default": False},
    ),
    "key": ("the idempotency key", {"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES}),
    "group": ("only tasks of this group", {"type": "string", "pattern": types.GROUP_PATTERN}),
    "wait": (
        f"for how long to wait for its end, in ms or as `30s`; at most `{MAX_WAIT_MS // 1000}s`",
        {"type": "string", "format": "delaybox-duration", "example": "100ms"},
    ),
    "cursor": ("the last page's cursor", {"type": "string", "maxLength": MAX_CURSOR}),
    "limit": (
        "tasks in a page",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
    ),
    "from": (f"{_MOMENT_TEXT}; now unless given", _MOMENT),
    "to": (f"{_MOMENT_TEXT}; a day after `from` unless given", _MOMENT),
    "step": (
        "whole buckets of the store (a minute), in ms or as `15m`; `1h` unless given",
        {"type": "string", "format": "delaybox-duration", "example": "15m"},
    ),
    "kind": (
        "only this kind of processes; `worker`: users' own workers",
        {"type": "string", "enum": [*KINDS, WORKER]},
    ),
    "function": ("only tasks of this function", {"type": "string", "pattern": f"^{NAME.pattern}$"}),
    "places": (
        "tasks that one worker runs at once; as many as the connected ones unless given",
        {"type": "integer", "minimum": 1, "maximum": MAX_PLACES},
    ),
    "lead": (
        "how far ahead to look, from `1s` to `60m`, in ms or as `30s`; `30s` unless given",
        {"type": "string", "format": "delaybox-duration", "example": "30s"},
    ),
    "clear": (
        "the time in which a backlog should be gone, as `lead`; `30s` unless given",
        {"type": "string", "format": "delaybox-duration", "example": "30s"},
    ),
}
_OWN: Final[Mapping[tuple[str, str], tuple[str, dict[str, Any]]]] = {
    ("followEvents", "kind"): (
        f"only these kinds of events, separated by commas: {', '.join(events.KINDS)}",
        {"type": "string", "pattern": f"^({'|'.join(events.KINDS)})(,({'|'.join(events.KINDS)}))*$"},
    ),
    ("followEvents", "after"): (
        "the id of the last event that was seen",
        {"type": "string", "pattern": r"^[0-9]{1,19}-[0-9]{1,19}\.[0-9]{1,19}$"},
    ),
}
"""By call and parameter, where a name means something else than in other calls."""
_ANY_QUEUE = rf"^({types.QUEUE_PATTERN[1:-1]}|\*)$"
_PATH: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "id": ("the task's id", {"type": "string", "format": "uuid", "pattern": types.ID_PATTERN}),
    "queue": ("the queue's name; `*` where rules of all others are meant", {"type": "string", "pattern": _ANY_QUEUE}),
}
_HEADER: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "Idempotency-Key": (
        "as `idempotency_key` in the body, give one of them; visible ASCII, bare or in double quotes",
        {"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES + 2, "pattern": r"^[!-~]([ -~]*[!-~])?$"},
    ),
    "Last-Event-ID": (
        "as `after`, which it goes before; browsers send it when they connect again",
        {"type": "string", "pattern": r"^[0-9]{1,19}-[0-9]{1,19}\.[0-9]{1,19}$"},
    ),
    "traceparent": (
        "the trace of this request (W3C Trace Context), which travels with the task; what is no trace is passed over",
        {"type": "string", "example": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
    ),
}
_RETRY_AFTER = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "format": "int64"}}}
_ID_EXAMPLE = "01a2b3c4-d5e6-8001-9f00-112233445566"


def document(root: str, *, tokens: bool) -> bytes:
    """The document as JSON. ``root``: the context path. ``tokens``: whether this node asks for one."""
    return msgspec.json.encode(build(root, tokens=tokens))


def build(root: str, *, tokens: bool) -> dict[str, Any]:
    """The document."""
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    paths |= others.PATHS
    schemas = {name: dialect.translate(one) for name, one in (_schemas() | others.SCHEMAS).items()}
    doc: dict[str, Any] = {
        "openapi": dialect.VERSION,
        "info": {
            "title": "DelayBox",
            "version": semantic(delaybox.__version__),
            "description": _ABOUT,
            "license": {"name": "MIT"},
        },
        "servers": [{"url": root or "/"}],
        "tags": [{"name": name} for name in dict.fromkeys((*(call.tag for call in CALLS), *others.TAGS))],
        "paths": paths,
        "components": {
            "schemas": schemas | {name: dialect.NAMED[name] for name in sorted(_names(paths, schemas))},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "one of the node's `auth.tokens`"}
            },
        },
    }
    # Also without tokens, because a client that was generated from this node may call one that needs them.
    doc["security"] = [{"token": []}] if tokens else [{}, {"token": []}]
    return doc


def semantic(version: str) -> str:
    """A Python version as semver: ``0.1.0.dev0`` -> ``0.1.0-dev.0``, ``1.2.0rc1`` -> ``1.2.0-rc.1``."""
    found = re.fullmatch(r"(\d+\.\d+\.\d+)(?:\.?(dev|a|b|rc|post)(\d+))?(?:\+(.*))?", version)
    if found is None:
        return version
    base, kind, number, local = found.groups()
    return base + (f"-{kind}.{number}" if kind else "") + (f"+{local}" if local else "")


def _names(*parts: Any) -> set[str]:
    """The named schemas that these refer to."""
    used = set(re.findall(r"#/components/schemas/(\w+)", msgspec.json.encode(parts).decode()))
    return used & dialect.NAMED.keys()


def _schemas() -> dict[str, Any]:
    bodies: Iterable[type[Struct]] = dict.fromkeys(
        kind for call in CALLS for kind in (call.body, *(body for _, body in call.answers.values())) if kind is not None
    )
    _, components = msgspec.json.schema_components((*bodies, types.Problem), ref_template=_REF)
    tidy: dict[str, Any] = {name: _tidy(schema) for name, schema in sorted(components.items())}
    return tidy


def _tidy(node: Any) -> Any:
    """Replaces what msgspec made of a Python type by what the type declares itself (``x-is``)."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "properties" in node:
        # Under "properties" every name is a field's, even if it looks like a keyword of schemas.
        node = {**node, "properties": {name: _tidy(one) for name, one in node["properties"].items()}}
    out = {
        name: item if name == "properties" else _tidy(item)
        for name, item in node.items()
        if name not in ("x-is", "title")
    }
    if "x-is" in node:
        out.pop("type", None)
        out.pop("anyOf", None)
        out.pop("additionalProperties", None)
        out.update(node["x-is"])
    if out.get("default", 0) in (None, ""):
        # Such a field is left out of answers; for a client "" would be a value of an enum that has none.
        del out["default"]
    if out.get("required") == []:
        del out["required"]
    return out


def _operation(call: ApiCall) -> dict[str, Any]:
    out: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.summary,
        "tags": [call.tag],
        "responses": _responses(call),
    }
    rule = call_scopes.rule(call.method, call.path)
    assert not isinstance(rule, call_scopes.WithoutToken)
    scope = f"Where the node asks for tokens it takes the scope `{rule.value}`."
    out["description"] = f"{call.about} {scope}".lstrip()
    parameters = [
        {"name": name, "in": "path", "required": True, **_parameter(_PATH[name]), "example": _example(name)}
        for name in re.findall(r"{(\w+)}", call.path)
    ]
    parameters += [
        {"name": name, "in": "query", **_parameter(_OWN.get((call.name, name)) or _QUERY[name])} for name in call.query
    ]
    parameters += [{"name": name, "in": "header", **_parameter(_HEADER[name])} for name in call.headers]
    if parameters:
        out["parameters"] = parameters
    if call.body is not None:
        content: dict[str, Any] = {"schema": {"$ref": _REF.format(name=call.body.__name__)}}
        if call.examples:
            content["examples"] = {name: {"value": value} for name, value in call.examples.items()}
        out["requestBody"] = {"required": True, "content": {_JSON: content}}
    return out


def _parameter(described: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"description": described[0], "schema": dialect.translate(described[1])}


def _example(name: str) -> str:
    return _ID_EXAMPLE if name == "id" else "mail"


def _responses(call: ApiCall) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for status, (text, body) in sorted(call.answers.items()):
        answer: dict[str, Any] = {"description": text}
        if body is not None:
            answer["content"] = {
                _EVENTS if call.streams else _JSON: {"schema": {"$ref": _REF.format(name=body.__name__)}}
            }
        if call.path == "/v1/tasks" and call.method == "POST":
            answer["headers"] = {"Location": {"description": "the task's address", "schema": {"type": "string"}}}
        out[str(status)] = answer
    for status, text in sorted({**_ALWAYS, **call.refusals}.items()):
        refusal: dict[str, Any] = {
            "description": text,
            "content": {_PROBLEM: {"schema": {"$ref": _REF.format(name="Problem")}}},
        }
        if status in (429, 503):
            refusal["headers"] = _RETRY_AFTER
        out[str(status)] = refusal
    return out
