"""The addresses that lead to Redis, for clients and workers: URLs of a server, or the folder of an embedded one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from delaybox.core.errors import ConfigError
from delaybox.core.limits import MAX_PREFIX, PREFIX
from delaybox.embedded.folder import default_data_dir
from delaybox.store.address import ServerSettings

DEFAULT_PREFIX: Final = "delaybox"
_OPTION: Final = "prefix="


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectAddress:
    """Where a store lies: on a ``server``, or, where that is None, on the embedded server of a ``folder``."""

    server: ServerSettings | None = None
    folder: Path = Path()
    prefix: str = DEFAULT_PREFIX

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
    """Reads a URL: one of the server's (``store.address``) or ``file:`` and a folder; both take ``?prefix=``.

    ConfigError, which never shows a password.
    """
    if token is not None:
        raise ConfigError(
            "a token is what a node asks for, and this address leads to Redis itself: leave the token out, and write "
            "the server's user and password into the URL"
        )
    url, prefix = _without_prefix(url)
    files = {"tls_ca_file": ca_file, "tls_cert_file": cert_file, "tls_key_file": key_file}
    given: dict[str, Any] = {name: str(path) for name, path in files.items() if path is not None}
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        if given or tls:
            raise ConfigError("file: addresses lead to a socket on this machine, where there is no TLS; leave it out")
        path = unquote(rest.removeprefix("//"))
        return DirectAddress(folder=Path(path) if path else default_data_dir(), prefix=prefix)
    server = ServerSettings.from_url(url)
    if given or tls:
        if server.unix_path:
            raise ConfigError("unix:// addresses lead to a socket on this machine, where there is no TLS; leave it out")
        server = replace(server, tls=True, **given)
    return DirectAddress(server=server, prefix=prefix)


def _without_prefix(url: str) -> tuple[str, str]:
    """The URL without the option ``prefix``, and that option."""
    start, mark, query = url.partition("?")
    options = query.split("&") if mark else []
    found = [unquote(option.removeprefix(_OPTION)) for option in options if option.startswith(_OPTION)]
    others = [option for option in options if not option.startswith(_OPTION)]
    prefix = found[-1] if found else DEFAULT_PREFIX
    if PREFIX.fullmatch(prefix) is None:
        raise ConfigError(
            f"prefix {prefix[:80]!r} is not one; give 1 to {MAX_PREFIX} letters, digits, or . _ : - characters"
        )
    return (f"{start}?{'&'.join(others)}" if others else start), prefix
