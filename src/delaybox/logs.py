"""How every process of a node logs: readable text, or one JSON object a line, on stderr."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

from delaybox.core import texts
from delaybox.processes.logs import shown


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
        ending = [
            structlog.processors.format_exc_info,
            _harmless,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0),
        ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending]
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _harmless(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Callers have a part in what is logged (a worker's name, an error's words): it must not look like a record."""
    event["event"] = shown(str(event.get("logger", "")), str(event["event"]))
    if exception := event.get("exception"):
        event["exception"] = texts.block(f"    {exception}")
    return event
