"""Whether this process traces what it does. Off unless it was turned on; whoever makes spans asks here first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from delaybox.otel.spans import Spans

spans: Spans | None = None
"""None: nothing is traced, and nothing of OpenTelemetry was loaded."""


def turn(made: Spans | None) -> None:
    """Traces with these from now on; None: no more."""
    global spans
    spans = made
