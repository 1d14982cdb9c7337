"""`delaybox token`: a new bearer token, and its entry for the configuration."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence

import typer

from delaybox.core.durations import duration_ms
from delaybox.core.errors import ConfigError, InvalidTask
from delaybox.core.scopes import DEFAULT_SCOPES, Access, Token
from delaybox.wire.json.moments import moment_ms, render_moment

PREFIX = "dbx_"
"""Begins every token, so that scanners for leaked secrets recognise one."""
_BYTES = 32


def make(*, name: str, scopes: Sequence[str], expires: str, as_json: bool) -> None:
    """Prints a token of 256 random bits, and the entry of auth.tokens that accepts it without holding it.

    ``expires``: how long from now, or when; empty: never.
    """
    if unknown := [scope for scope in scopes if scope not in set(Access)]:
        raise ConfigError(f"--scope {unknown[0]}: scopes are {', '.join(Access)}")
    allowed = tuple(dict.fromkeys(Access(scope) for scope in scopes)) or DEFAULT_SCOPES
    secret = PREFIX + secrets.token_urlsafe(_BYTES)
    digest = f"sha256:{Token.of(secret).digest}"
    until = _until(expires) if expires else None
    if as_json:
        typer.echo(
            json.dumps({"token": secret, "name": name, "hash": digest, "scopes": list(allowed), "expires": until})
        )
        return
    entry = ", ".join([*([f"name: {json.dumps(name)}"] if name else []), f'hash: "{digest}"'])
    typer.echo(f"token, for the caller; it is not shown again:\n\n    {secret}\n")
    typer.echo("for the node's configuration, which need not hold the token itself:\n")
    end = f', expires: "{until}"' if until else ""
    typer.echo(f"auth:\n  tokens:\n    - {{{entry}, scopes: [{', '.join(allowed)}]{end}}}")


def _until(text: str) -> str:
    """RFC 3339 of a moment, or of a duration from now. ConfigError for what is neither, or is past."""
    now_ms = time.time_ns() // 1_000_000
    try:
        ms = moment_ms("--expires", text) if "-" in text[1:] else now_ms + duration_ms("--expires", text)
    except InvalidTask as error:
        raise ConfigError(str(error)) from None
    if ms <= now_ms:
        raise ConfigError(f"--expires {text} is past; give a later moment, or how long from now such as 90d")
    return render_moment(ms)
