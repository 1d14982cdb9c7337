"""`delaybox token`: a new bearer token, and what stands for it in the configuration."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence

import typer

from delaybox.core.access import DEFAULT_SCOPES, Access, Token
from delaybox.core.errors import ConfigError

PREFIX = "dbx_"
"""Lets scanners for leaked secrets know one."""
_BYTES = 32


def make(*, name: str, scopes: Sequence[str], as_json: bool) -> None:
    """Prints a token of 256 random bits, and the entry of auth.tokens that accepts it without holding it."""
    if unknown := [scope for scope in scopes if scope not in set(Access)]:
        raise ConfigError(f"--scope {unknown[0]}: scopes are {', '.join(Access)}")
    allowed = tuple(dict.fromkeys(Access(scope) for scope in scopes)) or DEFAULT_SCOPES
    secret = PREFIX + secrets.token_urlsafe(_BYTES)
    digest = f"sha256:{Token.of(secret).digest}"
    if as_json:
        typer.echo(json.dumps({"token": secret, "name": name, "hash": digest, "scopes": list(allowed)}))
        return
    entry = ", ".join([*([f"name: {json.dumps(name)}"] if name else []), f'hash: "{digest}"'])
    typer.echo(f"token, for the caller; it is not shown again:\n\n    {secret}\n")
    typer.echo("for the node's configuration, which need not hold the token itself:\n")
    typer.echo(f"auth:\n  tokens:\n    - {{{entry}, scopes: [{', '.join(allowed)}]}}")
