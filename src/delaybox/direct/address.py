"""The addresses that lead to Redis, for clients and workers: URLs of a server, or the folder of an embedded one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from delaybox.core.durability import FAST, MOST_REPLICAS, Durability, DurabilityMode
from delaybox.core.errors import ConfigError
from delaybox.core.limits import MAX_PARTITIONS, MAX_PREFIX, PREFIX
from delaybox.embedded.folder import default_data_dir
from delaybox.store.address import ServerSettings

DEFAULT_PREFIX: Final = "delaybox"
_OPTIONS: Final = ("prefix", "durability", "replicas", "partitions")
"""Options of a URL that are not the server's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectAddress:
    """Where a store lies: on a ``server``, or, where that is None, on the embedded server of a ``folder``.
    ``partitions``: of a store that is made there; None: the usual number."""

    server: ServerSettings | None = None
    folder: Path = Path()
    prefix: str = DEFAULT_PREFIX
    durability: Durability = FAST
    partitions: int | None = None

    def describe(self) -> str:
        """For people, without credentials."""
        return f"the embedded server of {self.folder}" if self.server is None else self.server.describe()


def direct_address(
    url: str,
    *,
    token: str | None = None,
    tls: bool = False,
    ca_file: str | Path | None = None,
    cert_file: str | Path | None = None,
    key_file: str | Path | None = None,
) -> DirectAddress:
    """Reads a URL: one of the server's (``store.address``) or ``file:`` and a folder; both take ``?prefix=``,
    ``?durability=`` (fast, durable, strict), ``?replicas=`` and ``?partitions=``.

    ConfigError, which never shows a password.
    """
    if token is not None:
        raise ConfigError(
            "a token is what a node asks for, and this address leads to Redis itself: leave the token out, and write "
            "the server's user and password into the URL"
        )
    url, options = _without_options(url)
    own: dict[str, Any] = {
        "prefix": _prefix(options), "durability": _durability(options), "partitions": _partitions(options),
    }  # fmt: skip
    files = {"tls_ca_file": ca_file, "tls_cert_file": cert_file, "tls_key_file": key_file}
    given: dict[str, Any] = {name: str(path) for name, path in files.items() if path is not None}
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        if given or tls:
            raise ConfigError("file: addresses lead to a socket on this machine, where there is no TLS; leave it out")
        path = unquote(rest.removeprefix("//"))
        return DirectAddress(folder=Path(path) if path else default_data_dir(), **own)
    server = ServerSettings.from_url(url)
    if given or tls:
        if server.unix_path:
            raise ConfigError("unix:// addresses lead to a socket on this machine, where there is no TLS; leave it out")
        server = replace(server, tls=True, **given)
    return DirectAddress(server=server, **own)


def _without_options(url: str) -> tuple[str, dict[str, str]]:
    """The URL without the options that are not the server's, and those."""
    start, mark, query = url.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&")] if mark else []
    mine = {name: unquote(value) for name, _, value in pairs if name in _OPTIONS}
    others = ["".join(pair) for pair in pairs if pair[0] not in _OPTIONS]
    return (f"{start}?{'&'.join(others)}" if others else start), mine


def _prefix(options: Mapping[str, str]) -> str:
    prefix = options.get("prefix", DEFAULT_PREFIX)
    if PREFIX.fullmatch(prefix) is None:
        raise ConfigError(
            f"prefix {prefix[:80]!r} is not one; give 1 to {MAX_PREFIX} letters, digits, or . _ : - characters"
        )
    return prefix


def _partitions(options: Mapping[str, str]) -> int | None:
    given = options.get("partitions")
    if given is None:
        return None
    count = _number(given)
    if not 1 <= count <= MAX_PARTITIONS or count & (count - 1):
        raise ConfigError(f"partitions is {given[:80]!r}; give a power of two from 1 to {MAX_PARTITIONS}")
    return count


def _durability(options: Mapping[str, str]) -> Durability:
    mode, replicas = options.get("durability", FAST.mode.value), options.get("replicas", "1")
    if mode not in list(DurabilityMode):
        raise ConfigError(f"durability {mode[:80]!r} is not one; give fast, durable or strict")
    count = _number(replicas)
    if not 1 <= count <= MOST_REPLICAS:
        raise ConfigError(f"replicas is {replicas[:80]!r}; give a number from 1 to {MOST_REPLICAS}")
    return Durability(mode=DurabilityMode(mode), replicas=count)


def _number(text: str) -> int:
    """0 for what is no number, or far too long for one."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
