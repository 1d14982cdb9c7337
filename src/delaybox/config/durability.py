"""The section ``durability``: when callers are answered that their tasks are stored."""

from __future__ import annotations

from pydantic import Field

from delaybox.config.sections import Duration, Section
from delaybox.core.durability import MOST_REPLICAS, WITHIN_MS, Durability, DurabilityMode


class DurabilitySection(Section):
    """A node does not start where its server cannot keep the mode."""

    mode: DurabilityMode = Field(default=DurabilityMode.FAST, description="fast, durable or strict")
    replicas: int = Field(default=1, ge=1, le=MOST_REPLICAS, description=f"a number from 1 to {MOST_REPLICAS}")
    within: Duration = Field(
        default=WITHIN_MS, ge=10, le=WITHIN_MS, description="a duration with its unit from 10ms to 2s"
    )

    def rules(self) -> Durability:
        """What these settings mean."""
        return Durability(mode=self.mode, replicas=self.replicas, within_ms=self.within)
