"""Webhooks as CloudEvents 1.0: attributes in headers, attributes in the body, and what may stand in them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from delaybox.core.errors import InvalidTask
from delaybox.core.webhook import Webhook, WebhookRules
from delaybox.wire.http_event import as_event

ON = WebhookRules(enabled=True)
DUE = 1_800_000_000_123


def event(
    form: str, header: Mapping[str, bytes] | None = None, payload: bytes = b"", method: str = "POST"
) -> tuple[Mapping[str, bytes], bytes]:
    return as_event(form, method, header or {}, payload, event_id="id-1", queue="mail", time_ms=DUE)


def structured(header: Mapping[str, bytes] | None = None, payload: bytes = b"") -> dict[str, Any]:
    made, body = event("structured", header, payload)
    assert made["content-type"] == b"application/cloudevents+json; charset=utf-8"
    found: dict[str, Any] = json.loads(body)
    return found


MADE = {
    "specversion": "1.0",
    "id": "id-1",
    "source": "/delaybox/queues/mail",
    "type": "io.delaybox.task.due",
    "time": "2027-01-15T08:00:00.123Z",
}


def test_binary_leaves_the_body_and_puts_attributes_into_headers():
    header, body = event("binary", {"content-type": b"text/plain", "x-own": b"1"}, b"hello")
    assert body == b"hello"
    assert header == {"content-type": b"text/plain", "x-own": b"1"} | {f"ce-{k}": v.encode() for k, v in MADE.items()}


def test_headers_of_the_task_are_attributes_and_count_first():
    own = {"Ce-Type": b"com.example.order", "ce-subject": b"17%20%C3%A9", "ce-source": b"/shop", "ce-id": b"own"}
    header, _ = event("binary", own)
    assert {name.lower(): value for name, value in header.items() if name.lower() in ("ce-type", "ce-id")} == {
        "ce-type": b"com.example.order",
        "ce-id": b"own",
    }
    assert sum(name.lower() == "ce-type" for name in header) == 1
    found = structured({**own, "x-own": b"1"})
    assert found == MADE | {"type": "com.example.order", "subject": "17 é", "source": "/shop", "id": "own"}
    header, _ = event("structured", {**own, "x-own": b"1"})
    assert header.keys() == {"x-own", "content-type"}


@pytest.mark.parametrize(
    ("kind", "payload", "data"),
    [
        (b"application/json", b'{"a": [1, null]}', {"data": {"a": [1, None]}}),
        (b"application/json; charset=utf-8", b" 17 ", {"data": 17}),
        (b"application/vnd.shop+json", b'"text"', {"data": "text"}),
        (b"application/json", b"{", None),
        (b"application/json", b'1, "id": "forged"', None),
        (b"application/json", b'1}, {"id": "forged"', None),
        (b"application/json", b"NaN", None),
        (b"application/json", b'"\xff"', None),
        (b"application/json", b"[" * 100_000, None),
        (b"text/plain", "é".encode(), {"data": "é"}),
        (b"text/plain; charset=UTF-8", b"a", {"data": "a"}),
        (b"text/plain; charset=latin-1", b"a", None),
        (b"text/plain", b"\xff", None),
        (b"image/png", b"\x89PNG", None),
    ],
)
def test_structured_holds_the_body_as_what_it_is(kind: bytes, payload: bytes, data: dict[str, Any] | None):
    found = structured({"Content-Type": kind}, payload)
    if data is None:
        data = {"data_base64": base64.b64encode(payload).decode()}
    assert found == MADE | {"datacontenttype": kind.decode()} | data


def test_without_a_content_type_the_body_is_bytes_and_without_a_body_there_is_no_data():
    assert structured(payload=b"x") == MADE | {"datacontenttype": "application/octet-stream", "data_base64": "eA=="}
    assert structured() == MADE


def test_what_is_no_event_and_what_is_one_already_stays_as_it_is():
    for form in ("", "none"):
        assert event(form, {"a": b"b"}, b"x") == ({"a": b"b"}, b"x")
    already = {"content-type": b"application/cloudevents+json; charset=utf-8"}
    for form in ("binary", "structured"):
        assert event(form, already, b'{"specversion": "1.0"}') == (already, b'{"specversion": "1.0"}')


def test_a_request_without_a_body_is_binary():
    header, body = event("structured", method="GET")
    assert header["ce-id"] == b"id-1" and body == b""


@pytest.mark.parametrize(
    ("webhook", "header", "field", "words"),
    [
        (Webhook("https://example.com/", cloudevents="json"), {}, "cloudevents", "binary, structured, none"),
        (Webhook("https://example.com/", "GET", cloudevents="structured"), {}, "cloudevents", "give binary, or POST"),
        (Webhook("https://example.com/", cloudevents="binary"), {"ce-a_b": b"1"}, "headers.ce-a_b", "letters"),
        (Webhook("https://example.com/", cloudevents="binary"), {"ce-": b"1"}, "headers.ce-", "letters"),
        (
            Webhook("https://example.com/", cloudevents="structured"),
            {"ce-data": b"1"},
            "headers.ce-data",
            "no attribute",
        ),
        (
            Webhook("https://example.com/", cloudevents="structured"),
            {"ce-specversion": b"2"},
            "headers.ce-specversion",
            "1.0",
        ),
        (Webhook("https://example.com/", cloudevents="binary"), {"ce-type": b" "}, "headers.ce-type", "empty"),
    ],
)
def test_wrong_input_is_refused_with_field_and_mend(webhook: Webhook, header: dict[str, bytes], field: str, words: str):
    with pytest.raises(InvalidTask, match=words) as caught:
        ON.check(webhook, header, b"")
    assert caught.value.field == field


def test_what_is_fine():
    fine = {"Ce-Type": b"a", "ce-specversion": b"1.0", "x": b"1"}
    ON.check(Webhook("https://example.com/", "GET", cloudevents="binary"), fine, b"")
    ON.check(Webhook("https://example.com/", cloudevents="none"), {"ce-a_b": b"1"}, b"")
    ON.check(Webhook("https://example.com/"), {"ce-a_b": b"1"}, b"")
