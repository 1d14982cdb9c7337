"""The part of the OpenAPI document about the routes beside ``/v1``: the Go original's, and those for machines.

It is written by hand, because these routes have readers of their own: names match without regard to case, and unknown
ones are ignored. The schemas refuse no more than the node does.
"""

from __future__ import annotations

from typing import Any, Final

from delaybox.core.limits import DEFAULT_PAGE, MAX_PAGE

_COMPATIBLE: Final = "compatible with the Go original"
_PROBES: Final = "probes"
_TEXT: Final = {"text/plain": {"schema": {"type": "string"}}}
_TEXT_OR_NUMBER: Final = {"type": ["string", "number"]}

SCHEMAS: Final[dict[str, Any]] = {
    "CompatibleTask": {
        "type": "object",
        "description": "A task as the Go original takes it; names match in any case, others are passed over.",
        "properties": {
            "taskType": {"type": ["string", "null"], "description": "PUB_SUB unless given; SHELL_CMD where enabled"},
            "parameter": {
                "type": ["object", "null"],
                "description": "travels with the task as its header",
                "properties": {
                    "executionTimestamp": {**_TEXT_OR_NUMBER, "description": "Unix ms; past, 0 or not given: at once"},
                    "delay": {**_TEXT_OR_NUMBER, "description": "ms from now; excludes executionTimestamp"},
                    "queue": _TEXT_OR_NUMBER,
                    "priority": {"enum": ["low", "normal", "high", "critical"]},
                    "idempotencyKey": _TEXT_OR_NUMBER,
                },
                "additionalProperties": _TEXT_OR_NUMBER,
            },
            "pyload": {
                "type": ["string", "null"],
                "contentEncoding": "base64",
                "format": "delaybox-base64",
                "description": "the payload as base64; spelled as the original spells it, `payload` does the same",
            },
            "payload": {"type": ["string", "null"], "contentEncoding": "base64", "format": "delaybox-base64"},
        },
        "example": {
            "taskType": "PUB_SUB",
            "parameter": {"executionTimestamp": "1896076800000"},
            "pyload": "VGVzdCBKYXkK",
        },
    },
    "CompatibleCreated": {
        "type": "object",
        "required": ["message", "taskUuid"],
        "properties": {"message": {"const": "task created"}, "taskUuid": {"type": "string", "format": "uuid"}},
    },
    "CompatibleView": {
        "type": "object",
        "required": ["taskUuid", "pyload", "status"],
        "properties": {
            "taskUuid": {"type": "string", "format": "uuid"},
            "parameter": {"type": "object", "additionalProperties": {"type": "string"}},
            "pyload": {"type": "string", "contentEncoding": "base64"},
            "status": {"type": "string"},
        },
    },
    "CompatibleError": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string", "description": "what was wrong and how to mend it"}},
    },
}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _refusals(**texts: str) -> dict[str, Any]:
    return {
        status.lstrip("_"): {"description": text, "content": _json(_ref("CompatibleError"))}
        for status, text in texts.items()
    }


_GUARDED: Final = {
    "_400": "something in the request is wrong",
    "_401": "the node asks for a token, and none or a wrong one came",
    "_403": "the token lacks the scope, the task type is switched off, or Host or Origin is not this node's",
}
_AWAY: Final = {"_503": "the store is away or unsure"}


def _probe(name: str, about: str, answers: dict[str, Any]) -> dict[str, Any]:
    return {
        # At the root, whatever the context path, and without a token: machines ask.
        "servers": [{"url": "/"}],
        "get": {
            "operationId": f"get{name.capitalize()}",
            "summary": about,
            "tags": [_PROBES],
            "security": [],
            "responses": {**answers, **_refusals(_400="a header is given twice")},
        },
    }


TAGS: Final = (_COMPATIBLE, _PROBES)
PATHS: Final[dict[str, Any]] = {
    "/task": {
        "post": {
            "operationId": "originalSchedule",
            "summary": "Schedule a task as the original did",
            "description": "Answered after the task is stored.",
            "tags": [_COMPATIBLE],
            "requestBody": {"required": True, "content": _json(_ref("CompatibleTask"))},
            "responses": {
                "200": {"description": "stored", "content": _json(_ref("CompatibleCreated"))},
                **_refusals(
                    **_GUARDED,
                    _408="the body did not come within 30 s",
                    _409="the idempotency key belongs to another task",
                    _413="the body, the payload or the parameters are too large",
                    _415="the body is not application/json",
                    _429="too much waits already",
                    **_AWAY,
                ),
            },
        },
        "get": {
            "operationId": "originalList",
            "summary": "List pending tasks as the original did",
            "description": "Soonest due first.",
            "tags": [_COMPATIBLE],
            "parameters": [
                {
                    "name": "limit",
                    "in": "query",
                    "description": "tasks in a page",
                    "schema": {
                        "type": "integer",
                        "format": "int64",
                        "minimum": 1,
                        "maximum": MAX_PAGE,
                        "default": DEFAULT_PAGE,
                    },
                },
                {
                    "name": "offset",
                    "in": "query",
                    "description": "the page, from 1; what is no page is the first",
                    "schema": {"type": "integer", "format": "int64", "default": 1},
                },
            ],
            "responses": {
                "200": {"description": "a page", "content": _json({"type": "array", "items": _ref("CompatibleView")})},
                **_refusals(**_GUARDED, **_AWAY),
            },
        },
    },
    "/ping": {
        "get": {
            "operationId": "ping",
            "summary": "Answers pong",
            "tags": [_COMPATIBLE],
            "responses": {"200": {"description": "pong", "content": _TEXT}, **_refusals(**_GUARDED)},
        },
    },
    "/healthz": _probe("healthz", "The same as /livez", {"200": {"description": "ok", "content": _TEXT}}),
    "/livez": _probe("livez", "Whether the process serves", {"200": {"description": "ok", "content": _TEXT}}),
    "/readyz": _probe(
        "readyz",
        "Whether this node can take and fire tasks",
        {
            "200": {"description": "ready", "content": _TEXT},
            "503": {"description": "not ready; the text says why", "content": _TEXT},
        },
    ),
    "/metrics": _probe(
        "metrics",
        "What this node counts, in Prometheus's text format",
        {"200": {"description": "the metrics", "content": _TEXT}},
    ),
}
"""Path items by path; the probes' are at the root."""
