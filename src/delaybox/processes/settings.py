"""Settings on their way from a node to its child: a frozen dataclass as one JSON line, and back."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import msgspec

from delaybox.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """The settings that every child gets, whatever its kind."""

    log_format: str = "text"
    log_level: str = "info"
    collector: str | None = None
    """Where its traces go; "": as OpenTelemetry's environment variables say; None: nowhere, and nothing is traced."""
    logs_to: str | None = None
    """Where its log goes as well, likewise."""
    otlp_protocol: str = ""
    """By which protocol these are sent; "": as the environment says."""
    guarded: bool = False
    """Shell commands run as the same user, so they must not read this process."""
    node_id: str = ""
    """The id of the node that started it; "" for a process on its own, as in tests."""
    number: int = 1
    """Its number among the node's processes of this kind, from 1."""
    again: bool = False
    """Whether it replaces one that died."""
    listening: int | None = None
    """The file descriptor of the socket to accept from; the parent holds it."""
    grace_s: float = 10.0
    """How long work in flight may take to finish when the process is stopped."""


Settings = TypeVar("Settings", bound=ProcessSettings)


def encode(settings: ProcessSettings) -> bytes:
    """One line. It holds secrets, so it is for the child's stdin only, never for a log or a command line."""
    return msgspec.json.encode(settings)


def decode(kind: type[Settings], line: bytes | str) -> Settings:
    """Reads what `encode` wrote; ConfigError for anything else, a field too few or too many included."""
    try:
        names = msgspec.json.decode(line, type=dict[str, msgspec.Raw]).keys()
        if names != {field.name for field in fields(kind)}:
            raise ValueError("its fields are others")
        return msgspec.json.decode(line, type=kind)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"this process got settings that it cannot read ({type(error).__name__}); start it through the node"
        ) from None
