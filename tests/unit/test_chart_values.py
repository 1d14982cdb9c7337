"""The chart's schema knows each of its values, and no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "deploy/helm/delaybox"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    found = SCHEMA["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    assert isinstance(found, dict)
    return found


def named(part: dict[str, Any], above: str = "") -> Iterator[str]:
    """Each value that the schema names, by its path."""
    for name, inner in resolved(part).get("properties", {}).items():
        yield f"{above}{name}"
        yield from named(inner, f"{above}{name}.")


def given(values: dict[str, Any], part: dict[str, Any], above: str = "") -> Iterator[str]:
    """Each value of values.yaml; what stands in a free part, such as resources, is the cluster's business."""
    properties = resolved(part).get("properties", {})
    for name, value in values.items():
        yield f"{above}{name}"
        if isinstance(value, dict) and "properties" in resolved(properties.get(name, {})):
            yield from given(value, properties[name], f"{above}{name}.")


def test_the_schema_and_the_values_are_the_same() -> None:
    # `global` is what Helm adds where the chart is a part of another one.
    assert set(given(VALUES, SCHEMA)) == set(named(SCHEMA)) - {"global"}


def test_a_misspelt_value_is_refused() -> None:
    def closed(part: dict[str, Any]) -> Iterator[bool]:
        part = resolved(part)
        if "properties" in part:
            yield part["additionalProperties"] is False
            for inner in part["properties"].values():
                yield from closed(inner)

    assert all(closed(SCHEMA))
