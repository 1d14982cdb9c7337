"""A webhook: the HTTP request that a task makes at its time, and the rules of where requests may go. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network
from typing import Final, NamedTuple

from msgspec import Struct

from delaybox.core.addresses import Address, Network, literal, problem
from delaybox.core.errors import InvalidTask, TypeDisabled

MAX_URL: Final = 2_048
"""Characters of a URL."""
MAX_RETRY_ON: Final = 32
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
WITHOUT_BODY: Final = ("GET", "HEAD")
PORTS: Final = {"http": 80, "https": 443}
OURS: Final = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer"),
        *("expect", "proxy-connection", "proxy-authorization", "proxy-authenticate", "accept-encoding"),
    }
)
"""Headers that the node writes itself, or that would change how the request is read; so are those of `OUR_STARTS`."""
OUR_STARTS: Final = ("webhook-", "delaybox-")
BINARY: Final = "binary"
STRUCTURED: Final = "structured"
NO_EVENT: Final = "none"
CLOUDEVENTS: Final = (BINARY, STRUCTURED, NO_EVENT)
"""Whether a request is a CloudEvent: its attributes in headers, in the body, or no event."""
CE: Final = "ce-"
"""So begins a header that is an attribute of an event."""
CE_NAME: Final = re.compile(r"ce-(?!(?:data|data_base64|datacontenttype)$)[a-z0-9]{1,64}")
HOW_TO_ENABLE: Final = (
    "webhooks are sent only where nodes were started with webhooks.enabled: true (--set webhooks.enabled=true), and "
    "are scheduled over POST /v1/tasks, gRPC, Kafka or Python"
)

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>[/?][!-~]*)?"
)
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_NUMERIC = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Webhook(Struct, frozen=True, gc=False):
    """The request of an HTTP task; its headers and body are those of the task.

    ``retry_on``: statuses from 400 to 499 that are tried again, though they are final otherwise. ``on_success``,
    ``on_failure``: URLs that are called when the task has ended well, or became a dead letter; "" for none.
    ``cloudevents``: one of `CLOUDEVENTS`; "" for what the node that sends it is set to.
    """

    url: str
    method: str = "POST"
    retry_on: tuple[int, ...] = ()
    on_success: str = ""
    on_failure: str = ""
    cloudevents: str = ""


class Url(NamedTuple):
    """The parts of a URL. ``host``: in lower case and without brackets; ``path``: with the query, never empty."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def place(self) -> str:
        """Scheme, host and port: what of a URL may be written into logs and reasons."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == PORTS[self.scheme] else f":{self.port}")

    @property
    def header(self) -> str:
        """The value of the header Host."""
        return self.place.partition("://")[2]


@lru_cache(maxsize=4096)
def url_of(text: str) -> Url:
    """Reads a URL. InvalidTask, whose text shows no more of it than its host."""
    if not text:
        raise InvalidTask(
            "url", "url is missing; an http task names the URL that is called, such as https://example.com/"
        )
    if len(text) > MAX_URL:
        raise InvalidTask(
            "url", f"url has {len(text)} characters, more than {MAX_URL}; move what is long into the payload"
        )
    found = _URL.fullmatch(text)
    if found is None:
        raise InvalidTask("url", f"url {_why_no_url(text)}")
    scheme, host = found["scheme"].lower(), found["host"].lower()
    if scheme not in PORTS:
        raise InvalidTask("url", f"url has the scheme {scheme[:20]!r}; give https:// or http://")
    path = found["path"] or "/"
    if "#" in path:
        raise InvalidTask("url", "url has a fragment (#…), which is not sent; leave it out")
    port = int(found["port"]) if found["port"] else PORTS[scheme]
    if not 1 <= port <= 65_535:
        raise InvalidTask("url", f"url has the port {port}; give one from 1 to 65535")
    if host.startswith("["):
        host = host[1:-1]
        if ":" not in host or literal(host) is None:
            raise InvalidTask("url", f"url has the host [{host}], which is no IPv6 address; correct it")
    else:
        host = host.removesuffix(".")
        if literal(host) is None:
            _check_name(host)
    return Url(scheme, host, port, f"/{path}" if path.startswith("?") else path)


def _check_name(host: str) -> None:
    if _NUMERIC.fullmatch(host.rpartition(".")[2]):
        # The system's resolver takes 2130706433, 0x7f.1 and 0177.0.0.1 for addresses.
        raise InvalidTask("url", f"url has the host {host[:80]!r}, which is no address; write one as 203.0.113.7")
    if len(host) > 253 or _HOST.fullmatch(host) is None:
        raise InvalidTask("url", f"url has the host {host[:80]!r}, which is no host name; correct it")


def _why_no_url(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if not separator:
        return "has no scheme; give a whole URL such as https://example.com/hook"
    if re.search(r"[^!-~]", text):
        return "holds a space, a control character or one that is not ASCII; percent-encode it (host names: xn--…)"
    if "@" in authority:
        return "names a user or password; send them as the header authorization"
    if not authority or authority.startswith(":"):
        return "has no host; give a whole URL such as https://example.com/hook"
    return f"cannot be read as {scheme[:20]}://host[:port]/path; correct host and port"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRules:
    """Where this node sends webhooks. ``allow``: host names (``*.`` stands for any below), addresses and networks to
    which they may go though they are not public; such hosts may have any port. ``section``: where the configuration
    has these rules."""

    enabled: bool = False
    section: str = "webhooks"
    allow: tuple[str, ...] = ()
    ports: tuple[int, ...] = (80, 443)
    schemes: tuple[str, ...] = ("https", "http")

    def check(self, webhook: Webhook | None, header: Mapping[str, bytes], payload: bytes) -> Webhook:
        """The webhook of a task that is to be stored; InvalidTask, or TypeDisabled where none is sent."""
        if not self.enabled:
            raise TypeDisabled("type", f"webhooks are switched off: {HOW_TO_ENABLE}")
        if webhook is None:
            webhook = Webhook("")
        self._check_url("url", webhook.url)
        for field, url in (("on_success", webhook.on_success), ("on_failure", webhook.on_failure)):
            if url:
                self._check_url(field, url)
        if webhook.method not in METHODS:
            raise InvalidTask(
                "method", f"method {webhook.method[:20]!r} is not known; give one of {', '.join(METHODS)}"
            )
        if payload and webhook.method in WITHOUT_BODY:
            raise InvalidTask("method", f"method {webhook.method} has no body; leave the payload out, or give POST")
        if len(webhook.retry_on) > MAX_RETRY_ON or not all(400 <= status <= 499 for status in webhook.retry_on):
            raise InvalidTask("retry_on", f"retry_on holds at most {MAX_RETRY_ON} statuses from 400 to 499; correct it")
        _check_header(header)
        if webhook.cloudevents:
            _check_event(webhook, header)
        return webhook

    def _check_url(self, field: str, text: str) -> None:
        try:
            found = self.url_problem(url_of(text))
        except InvalidTask as error:
            # Its text begins with the field's name.
            raise InvalidTask(field, f"{field}{str(error).removeprefix('url')}") from None
        if found:
            raise InvalidTask(field, f"{field} {found}")

    def url_problem(self, url: Url) -> str:
        """Why nothing may be sent to the URL, and how to mend it; '' when it may, as far as can be seen from it."""
        if url.scheme not in self.schemes:
            return (
                f"has the scheme {url.scheme}, which is none of {self.section}.schemes "
                f"({', '.join(self.schemes)}); use one"
            )
        address = literal(url.host)
        if self.trusts(url.host, address):
            return ""
        # What must be in `allow` anyhow comes first: a host there may have any port.
        if address is not None and (found := self._address_problem(url.host, address)):
            return found
        if url.host == "localhost" or url.host.endswith(".localhost"):
            return (
                f"has the host localhost, which is this machine; if that is meant, add {url.host} to "
                f"{self.section}.allow"
            )
        if url.port not in self.ports:
            known = ", ".join(map(str, self.ports))
            return (
                f"has the port {url.port}, which is none of {self.section}.ports ({known}); use one of these, add the "
                f"port there, or the host to {self.section}.allow"
            )
        return ""

    def address_problem(self, url: Url, address: Address) -> str:
        """The same for an address that the URL's host has; sentences as `url_problem`'s."""
        if self.trusts(url.host, None):
            return ""
        return self._address_problem(url.host, address)

    def trusts(self, host: str, address: Address | None) -> bool:
        """Whether ``allow`` names the host, or a network in which its literal address is."""
        names, ends, networks = _allowed(self.allow)
        if host in names or host.endswith(ends):
            return True
        return address is not None and any(address.version == n.version and address in n for n in networks)

    def _address_problem(self, host: str, address: Address) -> str:
        found = problem(address, _allowed(self.allow)[2])
        if not found:
            return ""
        return (
            f"has the host {host} with the address {address}: {found}. If that is meant, add it to {self.section}.allow"
        )


NO_WEBHOOKS: Final = WebhookRules()
"""None is sent."""


@lru_cache(maxsize=16)
def _allowed(allow: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...], tuple[Network, ...]]:
    names: set[str] = set()
    ends: list[str] = []
    networks: list[Network] = []
    for entry in allow:
        text = entry.lower()
        try:
            networks.append(ip_network(text, strict=False))
        except ValueError:
            if text.startswith("*."):
                ends.append(text[1:])
            else:
                names.add(text)
    return frozenset(names), tuple(ends), tuple(networks)


def check_allowed(entry: str) -> None:
    """ValueError for text that ``allow`` cannot hold."""
    try:
        ip_network(entry, strict=False)
    except ValueError:
        if _HOST.fullmatch(entry.lower().removeprefix("*.")) is None:
            raise ValueError("allow") from None


def _check_header(header: Mapping[str, bytes]) -> None:
    seen: set[str] = set()
    for name, value in header.items():
        lower = name.lower()
        if _HEADER.fullmatch(name) is None:
            raise InvalidTask(
                "headers", f"headers: {name[:64]!r} is no name of an HTTP header; use letters, digits and -"
            )
        if lower in OURS or lower.startswith(OUR_STARTS):
            raise InvalidTask(f"headers.{name}", f"the header {name} is written by the node; leave it out")
        if lower in seen:
            raise InvalidTask(
                f"headers.{name}", f"the header {name} is given twice in different case; keep one of them"
            )
        if _BAD_VALUE.search(value):
            raise InvalidTask(
                f"headers.{name}", f"the value of the header {name} holds a line end or control character; take it out"
            )
        seen.add(lower)


def _check_event(webhook: Webhook, header: Mapping[str, bytes]) -> None:
    form = webhook.cloudevents
    if form not in CLOUDEVENTS:
        raise InvalidTask(
            "cloudevents", f"cloudevents {form[:20]!r} is not known; give one of {', '.join(CLOUDEVENTS)}"
        )
    if form == STRUCTURED and webhook.method in WITHOUT_BODY:
        raise InvalidTask(
            "cloudevents", f"a structured event is a body, and method {webhook.method} has none; give binary, or POST"
        )
    for name, value in header.items() if form != NO_EVENT else ():
        lower = name.lower()
        if not lower.startswith(CE):
            continue
        if CE_NAME.fullmatch(lower) is None:
            raise InvalidTask(
                f"headers.{name}",
                f"the header {name[:64]} is no attribute of an event: letters and digits follow ce-, and what the data "
                "is says content-type",
            )
        if lower == "ce-specversion" and value != b"1.0":
            raise InvalidTask(f"headers.{name}", f"the header {name} is not 1.0, the only version; leave it out")
        if not value.strip():
            raise InvalidTask(
                f"headers.{name}", f"the header {name} is empty; give the attribute a value, or leave it out"
            )
