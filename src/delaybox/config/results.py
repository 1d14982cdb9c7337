"""The section ``results``: how long the results of worker functions are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from delaybox.config.sections import DURATION_UNITS, Duration, Section, Size, mapping, quantity
from delaybox.core.limits import QUEUE
from delaybox.core.queue import QueueRules, RuleBook

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

    def rules(self) -> RuleBook:
        """What these settings mean for each queue."""
        return RuleBook(
            default=QueueRules(keep_result_ms=self.keep),
            named={name: QueueRules(keep_result_ms=ms) for name, ms in self.queues.items()},
        )
