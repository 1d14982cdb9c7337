"""Fields of a task in ``/v1`` that say what its idempotency key does."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from delaybox.core.task import ON_CONFLICT, UNIQUE_WHILE

OnConflictIn = Annotated[
    str | None,
    Meta(
        description="what is done where the idempotency key names a task already. keep: the first one stays. "
        "replace: this one takes its place (debounce); a pending one keeps its id, one that runs is never tried "
        "again",
        extra_json_schema={"enum": list(ON_CONFLICT)},
    ),
]
UniqueWhileIn = Annotated[
    str | None,
    Meta(
        description="the idempotency key is a lock, free again as soon as its task is no more pending (waits to be "
        "handed out for the first time) or no more running, in whatever way it ends",
        extra_json_schema={"enum": list(UNIQUE_WHILE)},
    ),
]
