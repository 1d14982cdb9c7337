"""The findings of `delaybox doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Word = Literal["ok", "warning", "problem", "skipped"]

SKEW_MS = 500
"""A clock that is off by more than this is a finding."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked. ``do``: what to do about it, empty where it is well."""

    name: str
    word: Word
    says: str
    do: str = ""
