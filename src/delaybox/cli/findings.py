"""What `delaybox doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Word = Literal["ok", "warning", "problem", "skipped"]

SKEW_MS = 500
"""A clock that is off by more is worth a word."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``do``: what to do about it, empty where it is well."""

    name: str
    word: Word
    says: str
    do: str = ""
