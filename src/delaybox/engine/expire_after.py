"""Tasks that are later than they allow."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from delaybox.core.delivery import Delivery
from delaybox.wire import body as wire_body


def is_expired(d: Delivery, now_ms: float) -> bool:
    """Whether a task is late by more than its ``expire_after``."""
    try:
        allowed = wire_body.decode(d.body).expire_after_ms
    except DecodeError:
        return False  # the target reports what is wrong with it
    return 0 < allowed < now_ms - (d.first_due_ms or d.due_ms)
