"""The section ``history``: what is remembered of tasks that have ended."""

from __future__ import annotations

from pydantic import Field

from delaybox.config.sections import Duration, Section, Size
from delaybox.core.history import KEEP_FAILED_MS, KEEP_MS, MOST_BYTES, MOST_ENTRIES, MOST_FAILURE_BYTES, HistoryRules


class HistorySection(Section):
    """Past ``entries`` or ``bytes`` the oldest ends go first, whatever ``keep`` is."""

    keep: Duration = Field(
        default=KEEP_MS, ge=0, le=90 * 86_400_000, description="a duration with its unit up to 90d, or 0s for none"
    )
    keep_failed: Duration = Field(
        default=KEEP_FAILED_MS, ge=0, le=90 * 86_400_000, description="a duration with its unit up to 90d"
    )
    entries: int = Field(default=MOST_ENTRIES, ge=1, le=100_000_000, description="a number of tasks, 1 or more")
    bytes: Size = Field(default=MOST_BYTES, ge=1 << 10, description="a size of 1KiB or more, such as 64MiB")
    failures: Size = Field(
        default=MOST_FAILURE_BYTES, ge=0, le=1 << 40, description="a size such as 16MiB, or 0 for none"
    )

    def rules(self) -> HistoryRules:
        """What these settings mean."""
        return HistoryRules(
            keep_ms=self.keep,
            keep_failed_ms=self.keep_failed,
            entries=self.entries,
            bytes=self.bytes,
            failures=self.failures,
        )
