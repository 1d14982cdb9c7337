"""The section ``events``: the feed of what happens to tasks."""

from __future__ import annotations

from pydantic import Field

from delaybox.config.sections import Duration, Section, Size
from delaybox.core.events import BUFFER, KEEP_MS, MOST_BYTES, MOST_EVENTS, EventRules
from delaybox.core.limits import TOPIC


class EventsSection(Section):
    """Events are written while somebody reads them, and for five minutes afterwards. ``always``: at any time."""

    enabled: bool = Field(default=True, description="true or false")
    always: bool = Field(default=False, description="true or false")
    keep: Duration = Field(
        default=KEEP_MS, ge=60_000, le=7 * 86_400_000, description="a duration with its unit from 1m to 7d"
    )
    entries: int = Field(default=MOST_EVENTS, ge=1_000, le=100_000_000, description="a number of events, 1000 or more")
    bytes: Size = Field(default=MOST_BYTES, ge=1 << 20, description="a size of 1MiB or more, such as 64MiB")
    buffer: int = Field(default=BUFFER, ge=1_000, le=1_000_000, description="a number of events from 1000 to 1000000")
    kafka_topic: str = Field(default="", pattern=f"^({TOPIC.pattern})?$", description="a topic's name, or nothing")

    def rules(self) -> EventRules:
        """What these settings mean."""
        return EventRules(
            enabled=self.enabled,
            always=self.always,
            keep_ms=self.keep,
            entries=self.entries,
            bytes=self.bytes,
            buffer=self.buffer,
        )
