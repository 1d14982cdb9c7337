"""Fields of a task in ``/v1`` that say whose turn it is, what the task needs of its worker, and to what it belongs."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from delaybox.core.limits import (
    GROUP,
    MAX_COST,
    MAX_FAIRNESS_KEY_BYTES,
    MAX_NEED,
    MAX_NEEDS,
    MAX_WEIGHT,
    MIN_WEIGHT,
    NAME,
)

FunctionName = Annotated[
    str | None,
    Meta(description="the function or command that the tasks name", extra_json_schema={"pattern": f"^{NAME.pattern}$"}),
]
Group = Annotated[
    str | None,
    Meta(
        description="tasks of one group can be released, moved or cancelled together",
        examples=["order-17"],
        extra_json_schema={"pattern": f"^{GROUP.pattern}$"},
    ),
]
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
Cost = Annotated[
    int | None,
    Meta(
        description="how many places it takes of the worker that runs it, or of the process that runs its command or "
        "sends its webhook; 1 unless given",
        examples=[4],
        extra_json_schema={"x-is": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_COST}},
    ),
]
_LABELS_OF_WORKERS = {
    "type": ["array", "null"],
    "items": {"type": "string", "minLength": 1, "maxLength": MAX_NEED},
    "maxItems": MAX_NEEDS,
}
Requires = Annotated[
    list[str] | None,
    Meta(
        description="of a worker task: labels that its worker must have, a name (whatever its value) or name=value",
        examples=[["gpu", "zone=b"]],
        extra_json_schema={"x-is": _LABELS_OF_WORKERS},
    ),
]
Prefers = Annotated[
    list[str] | None,
    Meta(
        description="of a worker task: labels of workers that are asked first; where none of them has room, others run "
        "it",
        examples=[["zone=b"]],
        extra_json_schema={"x-is": _LABELS_OF_WORKERS},
    ),
]
