"""Logging in by token, in a form, and out."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from msgspec.structs import replace

from delaybox.api.dashboard.frame import Frames, see_other
from delaybox.api.dashboard.sessions import Brake, Sessions
from delaybox.api.dashboard.visit import Visit
from delaybox.api.rest.edge import Edge
from delaybox.api.rest.routing import Answer
from delaybox.core.errors import Unauthenticated
from delaybox.core.scopes import Token

_log = logging.getLogger("delaybox.api")


class Login:
    """The page with the form."""

    def __init__(self, frames: Frames, sessions: Sessions, edge: Edge, accepted: Sequence[Token]) -> None:
        self._frames = frames
        self._sessions = sessions
        self._edge = edge
        self._brake = Brake()

    async def page(self, visit: Visit) -> Answer:
        """The form; whoever needs none is led on."""
        if self._sessions.grant(visit.session) is not None:
            return see_other(self._next(visit.query.get("next", "")))
        return self._form(visit)

    async def enter(self, visit: Visit) -> Answer:
        """Takes the token."""
        wait = self._brake.wait_s(visit.client)
        if wait > 0:
            return self._form(
                visit,
                status=429,
                problem=f"too many wrong tokens came from your address; try again in {math.ceil(wait)} s",
                headers=((b"retry-after", b"%d" % math.ceil(wait)),),
            )
        token = visit.form.get("token", "").strip()
        try:
            self._edge.caller({b"authorization": b"Bearer " + token.encode("utf-8", "replace")})
        except Unauthenticated as error:
            self._brake.failed(visit.client)
            _log.warning("a wrong token came to the dashboard's login from %s", visit.client)
            expired = "expired" in str(error)
            return self._form(
                visit, status=401, problem=str(error) if expired else "this is not one of the node's tokens"
            )
        self._brake.succeeded(visit.client)
        answer = see_other(self._next(visit.form.get("next", "")))
        # A new session: one that was there before the login, and that others may know, must not become a good one.
        session = self._sessions.begin(token)
        return replace(answer, headers=(*answer.headers, self._frames.session_cookie(visit.headers, session)))

    async def leave(self, visit: Visit) -> Answer:
        """Ends the session in this browser."""
        answer = see_other(f"{self._frames.base}/login")
        cookie = self._frames.session_cookie(visit.headers, self._sessions.begin())
        return replace(answer, headers=(*answer.headers, cookie))

    def _form(
        self, visit: Visit, *, status: int = 200, problem: str = "", headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> Answer:
        there = visit.form.get("next", "") or visit.query.get("next", "")
        answer = self._frames.page(visit, "login.html", status=status, problem=problem, there=self._next(there))
        return replace(answer, headers=(*answer.headers, *headers))

    def _next(self, there: str) -> str:
        """A page of ours; nobody is led elsewhere by a link."""
        base = self._frames.base
        good = there == base or (there.startswith(f"{base}/") and "//" not in there and "\\" not in there)
        return there if good and there.isprintable() and there.isascii() else base
