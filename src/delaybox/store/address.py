"""The address of a Redis or Valkey server, and its spellings. It imports no client library, because the parent needs
none."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from delaybox.core.errors import ConfigError

URL_FORMS = (
    "redis://[user:password@]host[:6379][/db], rediss://... for TLS, "
    "redis+sentinel://[user:password@]host[:26379][,host...]/name (rediss+sentinel://... for TLS), "
    "or unix:///path/to/socket[?db=0]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Where the server is. A ``unix_path`` wins over host and port. The password never shows in repr or `describe`."""

    host: str = "127.0.0.1"
    port: int = 6379
    unix_path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_ca_file: str | None = None
    """File of the only authorities that are trusted; when empty, those of the system."""
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    """File of the key of the client's certificate, if the server asks for one; None: the key is in the certificate's
    file."""
    more: tuple[tuple[str, int], ...] = ()
    """Further servers (host, port) that are asked where the first does not answer: of the same cluster, or further
    sentinels."""
    sentinel: str = ""
    """The name of the primary that sentinels know; host, port and ``more`` are then those of the sentinels."""
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    """What sentinels ask for, which need not be what the servers ask for."""

    @classmethod
    def from_url(cls, url: str) -> ServerSettings:
        """Parse one of `URL_FORMS`, where valkey may stand for redis; ConfigError (which never repeats the password)
        for anything else."""
        url = url.strip()
        if url.startswith("valkey"):
            url = "redis" + url.removeprefix("valkey")
        url, others = _first_host(url)
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
        except ValueError:
            # The error's text repeats what stands where the port should be, which may be the beginning of a password
            # with a slash.
            raise ConfigError(f"the server's URL has a bad host or port; write {URL_FORMS}. {_ENCODE}") from None
        if "@" in parts.path + parts.query + parts.fragment and parts.scheme != "unix":
            raise ConfigError(f"the server's URL has an @ behind its host; write {URL_FORMS}. {_ENCODE}")
        query = dict(pair.partition("=")[::2] for pair in parts.query.split("&") if pair)
        sentinel = parts.scheme in ("redis+sentinel", "rediss+sentinel")
        known = {"db"} if parts.scheme == "unix" else {"db", *_TLS_OPTIONS, *(_SENTINEL_OPTIONS if sentinel else ())}
        if unknown := query.keys() - known:
            raise ConfigError(f"the server's URL has an unknown option {min(unknown)!r}; write {URL_FORMS}")
        username = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        if parts.scheme == "unix":
            if not parts.path or host:
                raise ConfigError("a unix socket's URL has three slashes: unix:///path/to/socket")
            return cls(
                unix_path=unquote(parts.path), db=_db(query.get("db", "0")), username=username, password=password
            )
        if parts.scheme not in ("redis", "rediss") and not sentinel:
            # Without a scheme it can be a user's name or a password.
            start = repr(parts.scheme) if "://" in url else "no scheme"
            raise ConfigError(f"the server's URL starts with {start}; write {URL_FORMS}")
        usual = 26379 if sentinel else 6379
        name, _, number = parts.path.strip("/").partition("/") if sentinel else ("", "", parts.path.strip("/"))
        if sentinel and not name:
            raise ConfigError(
                "the server's URL names sentinels and not whom to ask them for; write "
                "redis+sentinel://host:26379,host:26379/NAME with the name of `sentinel monitor NAME` in their "
                "configuration"
            )
        options = _TLS_OPTIONS | (_SENTINEL_OPTIONS if sentinel else {})
        return cls(
            host=host or "127.0.0.1",
            port=usual if port is None else port,
            more=tuple((one, usual if its is None else its) for one, its in others),
            db=_db(query.get("db") or number or "0"),
            username=username,
            password=password,
            tls=parts.scheme.startswith("rediss"),
            sentinel=unquote(name),
            **{name: unquote(query[option]) for option, name in options.items() if query.get(option)},
        )

    @classmethod
    def from_address(
        cls, address: str, *, db: int = 0, username: str | None = None, password: str | None = None
    ) -> ServerSettings:
        """From ``host``, ``host:port`` or ``[v6]:port``, as the original's redisHost writes it."""
        try:
            parts = urlsplit(f"//{address.strip()}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            why = "" if "@" in address else f" ({error})"
            raise ConfigError(f"bad server address {without_credentials(address)!r}{why}; write host:port") from None
        if "@" in address:
            raise ConfigError(
                f"bad server address {without_credentials(address)!r}: user and password do not stand in it; set "
                f"storage.redisUser and storage.redisPass, or give a URL: {URL_FORMS}"
            )
        if not host or parts.path or parts.query:
            raise ConfigError(f"bad server address {address!r}; write host:port, or give a URL: {URL_FORMS}")
        return cls(host=host, port=6379 if port is None else port, db=db, username=username, password=password)

    def describe(self) -> str:
        """The server in words for logs and errors, without credentials."""
        how = "TLS with a client certificate" if self.tls_cert_file else "TLS"
        tls = f" ({how})" if self.tls else ""
        hosts = ", ".join(f"{host}:{port}" for host, port in ((self.host, self.port), *self.more))
        place = f"unix socket {self.unix_path}" if self.unix_path else f"{hosts}{tls}"
        if self.sentinel:
            place = f"the primary {self.sentinel!r} of the sentinels {place}"
        return f"{place}, db {self.db}" if self.db else place


_ENCODE = "In a password / ? # @ and % are written %2F %3F %23 %40 and %25"


def without_credentials(address: str) -> str:
    """An address for an error: what stands before its last @ may be a password."""
    return f"***@{address.rpartition('@')[2]}" if "@" in address else address


_SENTINEL_OPTIONS = {"sentinel_username": "sentinel_username", "sentinel_password": "sentinel_password"}
_TLS_OPTIONS = {"ssl_ca_certs": "tls_ca_file", "ssl_certfile": "tls_cert_file", "ssl_keyfile": "tls_key_file"}


def _first_host(url: str) -> tuple[str, list[tuple[str, int | None]]]:
    """The URL with only the first of its hosts, and the others with their ports."""
    scheme, separator, rest = url.partition("://")
    end = next((i for i, c in enumerate(rest) if c in "/?#"), len(rest))
    user, at, hosts = rest[:end].rpartition("@")
    first, *others = hosts.split(",")
    if not others or scheme == "unix":
        return url, []
    found: list[tuple[str, int | None]] = []
    for other in others:
        try:
            parts = urlsplit(f"//{other}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host:
            raise ConfigError(f"the server's URL has a bad host or port in its list; write {URL_FORMS}")
        found.append((host, port))
    return f"{scheme}{separator}{user}{at}{first}{rest[end:]}", found


def _db(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"the database in the server's URL is {text!r}; it must be a number such as 0")
    return int(text)
