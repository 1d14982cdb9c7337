"""Cursors of lists: the phase in which a page ended, and the place in it."""

from __future__ import annotations

import base64
import json
from typing import Any

from delaybox.core.errors import InvalidTask

_PHASES = ("running", "waiting", "failed", "succeeded", "group", "label")
_PLACES = {
    "running": [int, str, int],
    "waiting": [int] * 5,
    "failed": [int, str],
    "succeeded": [int, str],
    "group": [int, str],
    "label": [str, int, str],
}
"""What a place in each phase is made of; see `encode`."""


def encode(phase: str, place: list[Any]) -> str:
    """The cursor of a place."""
    text = json.dumps([1, _PHASES.index(phase), *place], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str) -> tuple[str, list[Any]]:
    """(phase, place) of a cursor. InvalidTask."""
    try:
        version, phase, *place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if version != 1 or not 0 <= phase < len(_PHASES):
            raise ValueError
        name = _PHASES[phase]
        # The server is asked with these numbers: what it would call an error of ours is the caller's.
        if [type(part) for part in place] != _PLACES[name] or any(type(n) is int and not 0 <= n < 2**64 for n in place):
            raise ValueError
    except (ValueError, TypeError):
        raise bad(cursor) from None
    return name, place


def label_of(cursor: str) -> str:
    """The label by whose index the chunks came that end at a cursor; "" where they came by none. InvalidTask."""
    phase, place = decode(cursor)
    return str(place[0]) if phase == "label" else ""


def place_in(cursor: str, phase: str) -> Any:
    """The place of a cursor that must be of this phase; None for none. InvalidTask."""
    if not cursor:
        return None
    found, place = decode(cursor)
    try:
        if found == phase:
            if isinstance(place[-1], str):
                bytes.fromhex(place[-1])
            return place
    except ValueError:
        pass
    raise bad(cursor)


def bad(cursor: str) -> InvalidTask:
    """The error of a cursor that is none of ours."""
    return InvalidTask("cursor", f"cursor {cursor[:40]!r} is not one of this list; start again without a cursor")
