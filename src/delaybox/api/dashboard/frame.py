"""What all pages share: the frame around them, cookies, messages to the next page, and pages of errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from msgspec.structs import replace

from delaybox.api.dashboard import render
from delaybox.api.dashboard.sessions import LASTS_S, Session, Sessions
from delaybox.api.dashboard.visit import Visit
from delaybox.api.rest.asgi import Headers
from delaybox.api.rest.routing import Answer

_NAV: Final = (
    ("", "Now", "read"),
    ("/queues", "Queues", "read"),
    ("/tasks", "Tasks", "read"),
    ("/dead", "Dead letters", "read"),
    ("/nodes", "Nodes and workers", "read"),
    ("/schedule", "Schedule", "schedule"),
)


class Frames:
    """Makes answers out of templates. ``base``: the path of the first page."""

    def __init__(self, sessions: Sessions, base: str, *, read_only: bool) -> None:
        self._sessions = sessions
        self.base = base
        self.open = sessions.open
        self._read_only = read_only

    def page(self, visit: Visit, template: str, *, status: int = 200, **values: Any) -> Answer:
        """A page of a template."""
        values |= self._common(visit)
        return Answer(status, render.page(template, values), render.HEADERS, render.HTML)

    def problem(
        self,
        visit: Visit | None,
        status: int,
        text: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        *,
        away: bool = False,
        form_at: str = "",
    ) -> Answer:
        """A page that says what is wrong. ``away``: the store is, so the page tries again by itself. ``form_at``: it
        answers a form, and that is the address of the page that has it. A form is not sent again by itself."""
        values = {"status": status, "title": HTTPStatus(status).phrase, "text": text, "away": away, "form_at": form_at}
        values |= self._common(visit)
        return Answer(status, render.page("problem.html", values), (*render.HEADERS, *headers), render.HTML)

    def done(self, visit: Visit, path: str, note: str) -> Answer:
        """Leads to a page, which shows a message. ``path`` below the first page."""
        if "read" not in visit.grant:
            return self.page(visit, "done.html", text=note)
        cookie = self._set(f"{self.cookie(visit.headers)}-note", self._sessions.note(note), 30, visit.headers)
        answer = see_other(self.base + path)
        return replace(answer, headers=(*answer.headers, cookie))

    def cookie(self, headers: Headers) -> str:
        """The session cookie's name. Browsers share cookies between the ports of a host, so it names the port."""
        port = headers.get(b"host", b"").rpartition(b":")[2].decode("latin-1")
        return f"delaybox-{port}" if port.isascii() and port.isdigit() else "delaybox"

    def session_cookie(self, headers: Headers, session: Session) -> tuple[bytes, bytes]:
        """The header that sets a session."""
        return self._set(self.cookie(headers), self._sessions.encode(session), LASTS_S, headers)

    def over(self, visit: Visit) -> bool:
        """Whether the session of who looks has ended since, or its token."""
        session = visit.session
        return session is not None and not self.open and not self._sessions.lasts(session)

    def with_cookies(self, visit: Visit, answer: Answer) -> Answer:
        """The answer, with a new session's cookie, and without the message that was shown."""
        added: list[tuple[bytes, bytes]] = []
        names = {name for name, _ in answer.headers}
        if answer.content_type == render.HTML:
            if visit.fresh and visit.session is not None and b"set-cookie" not in names:
                added.append(self.session_cookie(visit.headers, visit.session))
            if visit.note and answer.status == 200 and not visit.partly:
                added.append(self._set(f"{self.cookie(visit.headers)}-note", "", 0, visit.headers))
        return replace(answer, headers=(*answer.headers, *added)) if added else answer

    def _set(self, name: str, value: str, lasts_s: int, headers: Headers) -> tuple[bytes, bytes]:
        # A browser tells with each form whether it reached us, or the proxy before us, by TLS.
        secure = "; Secure" if headers.get(b"origin", b"").startswith(b"https://") else ""
        path = self.base.removesuffix("/dashboard") or "/"
        text = f"{name}={value}; Path={path}; Max-Age={lasts_s}; HttpOnly; SameSite=Strict{secure}"
        return b"set-cookie", text.encode()

    def _common(self, visit: Visit | None) -> dict[str, Any]:
        grant = visit.grant if visit is not None else frozenset()
        session = visit.session if visit is not None else None
        logged_in = bool(session and session.token) and bool(grant)
        return {
            "base": self.base,
            "visit": visit,
            "may": visit.may if visit is not None else _nothing,
            "nav": [(path, name) for path, name, scope in _NAV if scope in grant] if grant else [],
            "form_token": self._sessions.form_token(session) if session is not None else "",
            "note": visit.note if visit is not None else "",
            "read_only": self._read_only,
            "logged_in": logged_in,
        }


def _nothing(access: str) -> bool:
    return False


def see_other(address: str) -> Answer:
    """Leads the browser to another page, which it asks for with GET."""
    return Answer(303, b"", ((b"location", address.encode("ascii", "ignore")), *render.HEADERS), render.HTML)
