"""How every process of a node logs: readable text, or one JSON object a line, on stderr."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog


def set_up(log_format: Literal["text", "json"] | str) -> None:
    """Sends the standard library's loggers through structlog; called once at a process's start."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[structlog.typing.Processor]
    if log_format == "json":
        ending = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        ending = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending]
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
