"""The common parts of configuration sections: durations, sizes, lists in text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import AliasGenerator, BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel


class Mistake(ValueError):
    """What is wrong with a value and how to mend it, in a text without secrets, which follows the key's name."""


DURATION_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def quantity(units: Mapping[str, int], *, bare: int | None) -> Callable[[object], object]:
    """Reads a number with one of the units; ``bare``: what a number without any counts in, None to refuse it."""

    def parse(value: object) -> object:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value).lower())
        factor = None if match is None else (bare if not match[2] else units.get(match[2]))
        if match is None or factor is None:
            raise ValueError("unit")
        return round(float(match[1]) * factor)

    return parse


def split(value: object) -> object:
    """Text with commas as a list; anything else as it is."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def mapping(value: object) -> Mapping[object, object]:
    """Names with values, as YAML has them or, in text, as JSON. ValueError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except RecursionError:
            raise ValueError("nested") from None
    if not isinstance(value, Mapping):
        raise ValueError("mapping")
    return value


Duration = Annotated[int, BeforeValidator(quantity(DURATION_UNITS, bare=None))]
Milliseconds = Annotated[int, BeforeValidator(quantity(DURATION_UNITS, bare=1))]
Size = Annotated[int, BeforeValidator(quantity(_SIZE_UNITS, bare=1))]


class Section(BaseModel):
    """A section: its keys are in camelCase, and no others are known."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        alias_generator=AliasGenerator(validation_alias=to_camel),
        validate_by_name=True,
    )
