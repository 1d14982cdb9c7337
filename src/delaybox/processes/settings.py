"""Settings on their way from a node to its child: a frozen dataclass as one JSON line, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def to_line(settings: DataclassInstance) -> str:
    """One line, sets as lists. It holds the secrets: for the child's stdin only, never for a log or a command line."""
    return json.dumps(asdict(settings), separators=(",", ":"), default=sorted)


def known_fields(cls: type[DataclassInstance], raw: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``cls`` in a JSON object, lists as tuples; KeyError for a name that it does not have."""
    known = {f.name for f in fields(cls)}
    if unknown := raw.keys() - known:
        raise KeyError(min(unknown))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
