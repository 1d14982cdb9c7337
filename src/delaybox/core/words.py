"""Words callers' values and mistakes, for error messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

PRIORITY_MEANT: Mapping[str, str] = MappingProxyType(
    {"medium": "normal", "default": "normal", "urgent": "critical", "highest": "critical"}
)
"""What callers write for a priority, and which one they mean."""

_LONGEST = 40


def show(value: object) -> str:
    """A caller's value for a message: quoted when it was a string, and short."""
    text = str(value)
    cut = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return repr(cut) if type(value) is str else cut


def unknown(name: str, known: Iterable[str], meant: Mapping[str, str], *, where: str) -> str:
    """The message that refuses a name: what it was taken for, what was probably meant, what there is."""
    names = list(known)
    folded = name.lower()
    guess = meant.get(folded) or next(iter(get_close_matches(folded, names, 1, 0.75)), None)
    hint = f"did you mean {guess}? " if guess else ""
    return f"{show(name)} is not {where}; {hint}there are {', '.join(names)}"
