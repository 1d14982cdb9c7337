"""The fields of ``/v1`` that only http tasks have; see `delaybox.wire.json.types`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from delaybox.core.webhook import CLOUDEVENTS, MAX_RETRY_ON, MAX_URL, METHODS

WebhookUrl = Annotated[
    str | None,
    Meta(
        description="of an http task, required: what is called, with `headers` and the payload as the body",
        examples=["https://example.com/hooks/orders"],
        extra_json_schema={"maxLength": MAX_URL},
    ),
]


def _callback(when: str) -> Meta:
    return Meta(
        description=f"of an http task: called when it {when}, by a task of its own, with id, state and reason as JSON",
        examples=["https://example.com/hooks/ended"],
        extra_json_schema={"maxLength": MAX_URL},
    )


OnSuccess = Annotated[str | None, _callback("has ended well")]
OnFailure = Annotated[str | None, _callback("became a dead letter")]
WebhookMethod = Annotated[
    str | None,
    Meta(description="of an http task; POST unless given", extra_json_schema={"enum": [*METHODS, None]}),
]
_STATUSES = {
    "type": "array",
    "items": {"type": "integer", "minimum": 400, "maximum": 499},
    "maxItems": MAX_RETRY_ON,
}
RetryOn = Annotated[
    list[int | float] | None,
    Meta(
        description="of an http task: statuses from 400 to 499 that are tried again; 408, 425 and 429 are anyhow",
        examples=[[404, 409]],
        extra_json_schema={"x-is": {"anyOf": [_STATUSES, {"type": "null"}]}},
    ),
]
CloudEvents = Annotated[
    str | None,
    Meta(
        description="of an http task: whether its request is a CloudEvent 1.0, with attributes in headers (binary) or "
        "in the body (structured); headers ce-… are attributes of it. Unless given as the node is set",
        extra_json_schema={"enum": [*CLOUDEVENTS, None]},
    ),
]
