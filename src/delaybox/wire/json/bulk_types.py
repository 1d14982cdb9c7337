"""The bodies of changes of many tasks, dead letters too, over ``/v1``: as `types`, which these belong to."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from delaybox.core.limits import DEFAULT_REPLAY, MAX_REPLAY
from delaybox.wire.json.share_types import FunctionName
from delaybox.wire.json.types import (
    GROUP_PATTERN,
    QUEUE_PATTERN,
    TYPES,
    At,
    Count,
    Delay,
    DueFrom,
    DueTo,
    Labels,
)

PENDING_STATES = ("scheduled", "ready")
MAX_CHANGED = 1_000_000_000
"""Of the limit of one call; none is no limit."""


class SelectionRequest(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False, kw_only=True):
    """Which pending tasks; everything that is given must hold. It must name something, or say `all`."""

    state: Annotated[str | None, Meta(extra_json_schema={"enum": [*PENDING_STATES, None]})] = None
    queue: Annotated[str | None, Meta(extra_json_schema={"pattern": QUEUE_PATTERN})] = None
    type: Annotated[str | None, Meta(extra_json_schema={"enum": [*TYPES, None]})] = None
    function: FunctionName = None
    labels: Labels = None
    group: Annotated[
        str | None,
        Meta(
            description="found in time that grows with the group, not with what is pending",
            extra_json_schema={"pattern": GROUP_PATTERN},
        ),
    ] = None
    due_from: DueFrom = None
    due_to: DueTo = None
    all: Annotated[bool | None, Meta(description="true, and no filter: every pending task")] = None
    limit: Annotated[
        int | float | None,
        Meta(
            description="change at most this many; no limit unless given",
            extra_json_schema={"x-is": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_CHANGED}},
        ),
    ] = None
    dry_run: Annotated[bool | None, Meta(description="true: count and show a sample, change nothing")] = None


class CancelManyRequest(SelectionRequest, forbid_unknown_fields=True, omit_defaults=True, gc=False, kw_only=True):
    """Which pending tasks to cancel."""

    free_keys: Annotated[bool | None, Meta(description="true: their idempotency keys may be used again at once")] = None


class RescheduleManyRequest(SelectionRequest, forbid_unknown_fields=True, omit_defaults=True, gc=False, kw_only=True):
    """Which pending tasks to move, and to when: all to one moment."""

    at: At = None
    delay: Delay = None


class ChangedMany(Struct, omit_defaults=True, gc=False):
    """What became of the tasks that matched."""

    matched: Count
    changed: Annotated[int, Meta(description="0 in a dry run")] = 0
    skipped: Annotated[int, Meta(description="had begun to run, or ended, before they could be changed")] = 0
    sample_ids: Annotated[list[str], Meta(description="of up to ten of those that matched")] = []
    scanned: Annotated[
        bool,
        Meta(
            description="true: labels, or a function, without an index were asked for, so all that waits was looked "
            "through"
        ),
    ] = False


class DeadRequest(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False, kw_only=True):
    """Which dead letters; everything that is given must hold."""

    queue: Annotated[str | None, Meta(extra_json_schema={"pattern": QUEUE_PATTERN})] = None
    type: Annotated[str | None, Meta(extra_json_schema={"enum": [*TYPES, None]})] = None
    function: FunctionName = None
    labels: Labels = None
    group: Annotated[str | None, Meta(extra_json_schema={"pattern": GROUP_PATTERN})] = None
    due_from: DueFrom = None
    due_to: DueTo = None
    all: Annotated[bool | None, Meta(description="true, and no filter: every dead letter, as far as `limit`")] = None
    limit: Annotated[
        int | float | None,
        Meta(
            description=f"at most this many; {DEFAULT_REPLAY:,} unless given",
            extra_json_schema={"x-is": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_REPLAY}},
        ),
    ] = None
    dry_run: Annotated[bool | None, Meta(description="true: count and show a sample, change nothing")] = None


class ReplayRequest(DeadRequest, forbid_unknown_fields=True, omit_defaults=True, gc=False, kw_only=True):
    """Which dead letters to bring back; everything that is given must hold."""


class DiscardRequest(DeadRequest, forbid_unknown_fields=True, omit_defaults=True, gc=False, kw_only=True):
    """Which dead letters to delete for good; everything that is given must hold. It must name something, or say
    `all`."""


class Replayed(Struct, omit_defaults=True, gc=False):
    """How many dead letters were brought back."""

    replayed: Annotated[int, Meta(description="0 in a dry run", extra_json_schema={"minimum": 0})]
    matched: Annotated[int | None, Meta(description="in a dry run: how many match, as far as `limit`")] = None
    sample_ids: Annotated[list[str], Meta(description="in a dry run: of up to ten of those")] = []
