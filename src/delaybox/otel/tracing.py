"""Whether this process traces what it does. Off unless it was turned on; whoever makes spans asks here first."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from delaybox.otel.spans import Spans

spans: Spans | None = None
"""None: nothing is traced, and nothing of OpenTelemetry was loaded."""

latest: Final[ContextVar[bytes]] = ContextVar("delaybox_latest_span", default=b"")
"""The ``traceparent`` of the last span that the running call made."""


def turn(made: Spans | None) -> None:
    """Traces with these from now on; None: no more."""
    global spans
    spans = made
