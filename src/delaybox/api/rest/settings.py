"""What the API process needs to know. The node writes it as one JSON line, the process reads it back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from ipaddress import ip_address
from typing import Any

from delaybox.core.access import Access, Token
from delaybox.core.errors import ConfigError
from delaybox.store.connect import ServerSettings

DEFAULT_PAYLOAD_LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Frozen settings of one API process. Byte limits count decoded payload and body as received."""

    server: ServerSettings = field(default_factory=ServerSettings)
    prefix: str = "delaybox"
    host: str = "127.0.0.1"
    port: int = 8088
    """0 takes any free port; the ready line says which."""
    context_path: str = "/"
    payload_limit: int = DEFAULT_PAYLOAD_LIMIT
    tokens: tuple[Token, ...] = ()
    """Who may call; empty means that no token is asked for."""
    allowed_hosts: tuple[str, ...] = ()
    """Names beyond the loopback ones that Host and Origin may carry. Off loopback they are checked only when set."""
    shell: bool = False
    """Payloads may be shell commands."""
    shell_commands: tuple[str, ...] = ()
    """Names of the commands that shell tasks may name."""
    node_id: str = ""
    metrics_dir: str = ""
    log_format: str = "text"
    body_timeout_s: float = 30.0
    header_timeout_s: float = 30.0
    """For slow headers and, as granian counts them the same, connections that idle between requests."""
    grace_s: float = 10.0
    """How long requests in flight may take to finish when the process is stopped."""
    backlog: int = 2048

    @property
    def body_limit(self) -> int:
        """Bytes a request body may have: base64 with escaped line breaks, and room for the parameters."""
        return self.payload_limit * 3 // 2 + 128 * 1024

    @property
    def root(self) -> str:
        """The context path without a slash at its end: ``/api``, ``/api/`` and ``api`` are the same."""
        inner = self.context_path.strip("/")
        return f"/{inner}" if inner else ""

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    def to_json(self) -> str:
        """One line. It holds the secrets: for the child's stdin only, never for a log or a command line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str | bytes) -> ApiSettings:
        """Reads ``to_json``; ConfigError for anything else."""
        try:
            raw = json.loads(line)
            server = ServerSettings(**_fields(ServerSettings, raw["server"]))
            tokens = tuple(_token(entry) for entry in raw["tokens"])
            return cls(**_fields(cls, raw) | {"server": server, "tokens": tokens})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"the API process got settings that it cannot read ({type(error).__name__}); start it through the node"
            ) from None


def _token(raw: Mapping[str, Any]) -> Token:
    given = _fields(Token, raw)
    return Token(**given | {"scopes": tuple(Access(scope) for scope in given["scopes"])})


def _fields(cls: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(cls)}
    if unknown := raw.keys() - known:
        raise KeyError(min(unknown))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
