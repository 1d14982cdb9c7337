"""The request of a webhook as a CloudEvent 1.0: its attributes in headers (binary) or in the body (structured). Pure.

After "HTTP Protocol Binding for CloudEvents" and "JSON Event Format", both version 1.0.2. Headers of the task that
begin with ``ce-`` are attributes of its event, and count before those that are made here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import msgspec

from delaybox.core.webhook import BINARY, CE, CE_NAME, STRUCTURED, WITHOUT_BODY
from delaybox.wire import cloudevents
from delaybox.wire.json.moments import render_moment
from delaybox.wire.webhook import CONTENT_TYPE, UNSTATED_TYPE

DEFAULT_TYPE: Final = "io.delaybox.task.due"
"""The attribute ``type``, unless the task has a header ``ce-type``."""
_STRUCTURED_TYPE: Final = f"{cloudevents.STRUCTURED}; charset=utf-8".encode()
_JSON: Final = re.compile(r"[^/]+/(?:json|[^/]+\+json)")
_UTF_8: Final = re.compile(rb"charset\s*=\s*\"?utf-?8\"?", re.IGNORECASE)


def as_event(
    form: str,
    method: str,
    header: Mapping[str, bytes],
    payload: bytes,
    *,
    event_id: str,
    queue: str,
    time_ms: int,
) -> tuple[Mapping[str, bytes], bytes]:
    """Headers and body of the request. ``form``: `BINARY`, `STRUCTURED`, or anything else for no event.

    ``time_ms``: when the event was due. A body that is a structured event already stays as it is. A request without
    a body is binary.
    """
    if form not in (BINARY, STRUCTURED) or cloudevents.media_type(header) == cloudevents.STRUCTURED:
        return header, payload
    own = {name.lower() for name in header}
    made = {
        "specversion": "1.0",
        "id": event_id,
        "source": f"/delaybox/queues/{queue}",
        "type": DEFAULT_TYPE,
        "time": render_moment(time_ms),
    }
    if form == BINARY or method in WITHOUT_BODY:
        missing = {f"{CE}{name}": text.encode() for name, text in made.items() if f"{CE}{name}" not in own}
        return {**header, **missing}, payload
    rest: dict[str, bytes] = {}
    for name, raw in header.items():
        lower = name.lower()
        if CE_NAME.fullmatch(lower):
            if text := unquote(raw.decode("utf-8", "replace")):
                made[lower.removeprefix(CE)] = text
        elif lower != CONTENT_TYPE:
            rest[name] = raw
    rest[CONTENT_TYPE] = _STRUCTURED_TYPE
    return rest, _written(made, header, payload)


def _written(attributes: Mapping[str, str], header: Mapping[str, bytes], payload: bytes) -> bytes:
    """The event as one JSON object."""
    if not payload:
        return msgspec.json.encode(attributes)
    stated = next((raw for name, raw in header.items() if name.lower() == CONTENT_TYPE), UNSTATED_TYPE)
    event: dict[str, object] = {**attributes, "datacontenttype": stated.decode("utf-8", "replace")}
    kind = cloudevents.media_type({CONTENT_TYPE: stated})
    if _JSON.fullmatch(kind) and _is_json(payload):
        event["data"] = msgspec.Raw(payload)
    elif kind.startswith("text/") and (text := _text(stated, payload)) is not None:
        event["data"] = text
    else:
        event["data_base64"] = base64.b64encode(payload).decode()
    return msgspec.json.encode(event)


def _is_json(payload: bytes) -> bool:
    """Whether it is one JSON value and nothing else, so that it can stand inside another one."""
    try:
        payload.decode()
        msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _text(stated: bytes, payload: bytes) -> str | None:
    """The payload as text; None where it is in another character set than UTF-8."""
    if b"charset" in stated.lower() and _UTF_8.search(stated) is None:
        return None
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None
