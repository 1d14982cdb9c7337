"""Fields of a task in ``/v1`` that say whose turn it is where there are fewer places than work."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from delaybox.core.limits import MAX_FAIRNESS_KEY_BYTES, MAX_WEIGHT, MIN_WEIGHT

FairnessKey = Annotated[
    str | None,
    Meta(
        description="where there are fewer places than work, keys of a queue take turns, so that none waits for the "
        "backlog of another: such as a customer's name",
        examples=["customer-17"],
        extra_json_schema={"minLength": 1, "maxLength": MAX_FAIRNESS_KEY_BYTES},
    ),
]
FairnessWeight = Annotated[
    int | float | None,
    Meta(
        description="the key's share beside other keys; 1 unless given",
        examples=[2],
        extra_json_schema={"x-is": {"type": ["number", "null"], "minimum": MIN_WEIGHT, "maximum": MAX_WEIGHT}},
    ),
]
