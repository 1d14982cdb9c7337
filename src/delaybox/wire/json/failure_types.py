"""Why an attempt failed, in ``/v1``."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

_DATE_TIME = {"format": "date-time"}


class FailedAttempt(Struct, omit_defaults=True, gc=False):
    """Why one attempt failed."""

    attempt: Annotated[int, Meta(description="1, and one more for each that failed before it")]
    failed: Annotated[str, Meta(extra_json_schema=_DATE_TIME)]
    failed_ms: Annotated[int, Meta(description="Unix ms", extra_json_schema={"minimum": 0})]
    fired: Annotated[str, Meta(description="when it was handed out", extra_json_schema=_DATE_TIME)] = ""
    fired_ms: Annotated[int, Meta(description="Unix ms", extra_json_schema={"minimum": 0})] = 0
    node: Annotated[str, Meta(description="the member that had it")] = ""
    reason: str = ""
    traceback: Annotated[
        str, Meta(description="of a function; of a command the end of what it printed, where that was kept")
    ] = ""
