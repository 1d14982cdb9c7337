"""The checks before every route: who may call, and from where. Bodies are read by `request_body`."""

from __future__ import annotations

from ipaddress import ip_address

from delaybox.api.rest.asgi import Headers
from delaybox.api.rest.refusal import CLOSE, Refusal, shown
from delaybox.api.rest.settings import ApiSettings
from delaybox.api.tokens import Tokens
from delaybox.core.scopes import Grant

_ONCE = frozenset({b"host", b"content-type", b"content-encoding", b"authorization", b"origin", b"idempotency-key"})
_CACHE_CAP = 1024


class Edge:
    """All guards of one API process."""

    def __init__(self, settings: ApiSettings) -> None:
        self._allowed = frozenset(name.lower().strip("[]") for name in settings.allowed_hosts)
        self._check_hosts = settings.on_loopback or bool(self._allowed)
        self._loopback_names = settings.on_loopback
        self._tokens = Tokens(settings.tokens)
        self._good_hosts: set[bytes] = set()

    def headers(self, pairs: list[tuple[bytes, bytes]]) -> Headers:
        """The request's headers by name; refuses those whose repetition could mean two things."""
        out = dict(pairs)
        if len(out) != len(pairs):
            names = [name for name, _ in pairs]
            for name in _ONCE:
                if names.count(name) > 1:
                    raise Refusal(400, f"the header {name.decode()} is given more than once; send it once", CLOSE)
        return out

    def origin(self, headers: Headers) -> None:
        """Refuses requests that a web page elsewhere could send here: DNS rebinding and cross-site calls."""
        if not self._check_hosts:
            return
        host = headers.get(b"host", b"")
        if host not in self._good_hosts:
            if not self._allows(host):
                raise Refusal(
                    403,
                    f"Host {shown(host)} is not a name of this node; "
                    "call it as localhost or 127.0.0.1, or add the name to httpServer.allowedHosts",
                )
            if len(self._good_hosts) < _CACHE_CAP:
                self._good_hosts.add(host)
        origin = headers.get(b"origin")
        if origin is not None and not self._allows(origin.partition(b"://")[2]):
            raise Refusal(
                403,
                f"Origin {shown(origin)} may not call this node; "
                "add its host name to httpServer.allowedHosts if it should",
            )

    def _allows(self, host: bytes) -> bool:
        name = _name_of(host)
        if name in self._allowed:
            return True
        if not self._loopback_names or not name:
            return False
        if name == "localhost":
            return True
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return False

    def caller(self, headers: Headers) -> Grant:
        """What the caller's bearer token allows. Unauthenticated."""
        return self._tokens.grant(headers.get(b"authorization", b""))


def _name_of(host: bytes) -> str:
    """The name in ``name:port`` or ``[v6]:port``, in small letters; empty when it is neither."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        port = port.removeprefix(":") if bracket else "-"
    else:
        name, _, port = text.partition(":")
    return name if not port or (port.isascii() and port.isdigit()) else ""
