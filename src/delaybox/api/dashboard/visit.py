"""One request of a browser: its form and query, who sent it, and what may be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from delaybox.api.dashboard.sessions import Session
from delaybox.api.rest.asgi import Headers
from delaybox.api.rest.refusal import Refusal
from delaybox.core.scopes import Access, Grant

_MAX_FIELDS = 200


@dataclass(slots=True, kw_only=True)
class Visit:
    """``session`` None: a program with a token in a header, which needs no form token. ``note``: a message that the
    page before left. ``fresh``: the session was begun with this request, so its cookie must be set."""

    method: str
    path: str
    client: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Headers
    grant: Grant
    session: Session | None
    read_only: bool
    form: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    fresh: bool = False

    def may(self, access: str) -> bool:
        """Whether the page may offer what needs this scope. Reading and scheduling apart, nothing is offered in
        read-only mode."""
        return Access(access) in self.grant and (not self.read_only or access == Access.READ)

    @property
    def partly(self) -> bool:
        """Whether htmx asks, which replaces a part of the page."""
        return b"hx-request" in self.headers


def fields_of(text: bytes) -> dict[str, str]:
    """The fields of a query or a form; of a name that comes twice the last one counts. Empty ones are left out.
    Refusal."""
    try:
        pairs = parse_qsl(text.decode("ascii"), max_num_fields=_MAX_FIELDS, errors="strict")
    except UnicodeDecodeError:
        raise Refusal(400, "the form is not percent-encoded UTF-8; encode it") from None
    except ValueError:
        raise Refusal(400, f"the form has more than {_MAX_FIELDS} fields; send fewer") from None
    return {name: value for name, value in pairs if value}


def cookies_of(headers: Headers) -> dict[str, str]:
    """The cookies of a request, as they were sent."""
    found: dict[str, str] = {}
    for part in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, equals, value = part.strip().partition("=")
        if equals:
            found.setdefault(name, value)
    return found
