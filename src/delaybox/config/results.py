"""The section ``results``: what is kept of what workers answer, and how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from delaybox.config.sections import DURATION_UNITS, Duration, Section, Size, mapping, quantity
from delaybox.core.limits import QUEUE

QUEUE_FORMS = "queues with a duration each, such as {reports: 1d, mail: 0s}, as YAML or (in a variable) as JSON"
_duration = quantity(DURATION_UNITS, bare=None)


def _queues(value: object) -> object:
    found = mapping(value)
    if not all(isinstance(name, str) and QUEUE.fullmatch(name) for name in found):
        raise ValueError("queues")
    return {name: span if isinstance(span, int) else _duration(span) for name, span in found.items()}


class Results(Section):
    """A task's own ``keep_result`` comes before its queue's, and that before ``keep``."""

    keep: Duration = Field(default=0, ge=0, description="a duration with its unit such as 1h, or 0s to keep none")
    queues: Annotated[Mapping[str, int], BeforeValidator(_queues)] = Field(default={}, description=QUEUE_FORMS)
    max_bytes: Size = Field(default=64 << 10, ge=1, le=1 << 20, description="a size from 1 byte to 1MiB, such as 64KiB")

    def keep_ms(self, queue: str, own_ms: int) -> int:
        """How long the result of a task of ``queue`` is kept; 0: not at all. ``own_ms``: what the task says, or 0."""
        return own_ms or self.queues.get(queue, self.keep)
