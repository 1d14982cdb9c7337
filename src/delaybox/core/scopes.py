"""Scopes, and the tokens that carry them. Which call needs which one: `delaybox.api.call_scopes`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum


class Access(StrEnum):
    """What a token may be allowed. None includes another."""

    READ = "read"
    SCHEDULE = "schedule"
    CANCEL = "cancel"
    ADMIN = "admin"
    WORKER = "worker"
    """To take WORKER tasks and report on them."""
    SHELL = "shell"
    """Beside SCHEDULE: tasks that run a command."""


Grant = frozenset[Access]
EVERYTHING: Grant = frozenset(Access)
DEFAULT_SCOPES = (Access.READ, Access.SCHEDULE, Access.CANCEL, Access.ADMIN, Access.WORKER)
"""Scopes of a token that names none. SHELL must be named."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token that is accepted; only its digest is kept. ``name`` is for people."""

    digest: str = field(repr=False)
    """SHA-256 of the token, 64 small hex digits."""
    scopes: tuple[Access, ...] = DEFAULT_SCOPES
    name: str = ""
    expires_ms: int = 0
    """Unix ms from which it is refused; 0: never."""

    @classmethod
    def of(cls, secret: str, scopes: tuple[Access, ...] = DEFAULT_SCOPES, name: str = "", expires_ms: int = 0) -> Token:
        """From the token itself."""
        return cls(hashlib.sha256(secret.encode()).hexdigest(), scopes, name, expires_ms)
