"""The dashboard in a REST process: who looks, whether a form is genuine, and which page answers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

from msgspec.structs import replace

from delaybox.api import call_scopes
from delaybox.api.dashboard import filters, render
from delaybox.api.dashboard.frame import Frames, see_other
from delaybox.api.dashboard.login import Login
from delaybox.api.dashboard.pages.dead import DeadPages
from delaybox.api.dashboard.pages.many import ManyPages
from delaybox.api.dashboard.pages.now import NowPages
from delaybox.api.dashboard.pages.queues import QueuePages
from delaybox.api.dashboard.pages.schedule import SchedulePages
from delaybox.api.dashboard.pages.tasks import TaskPages
from delaybox.api.dashboard.pages.webhooks import WebhookPages
from delaybox.api.dashboard.sessions import Session, Sessions
from delaybox.api.dashboard.settings import DashboardSettings
from delaybox.api.dashboard.shared_secret import SharedSecret
from delaybox.api.dashboard.visit import Visit, cookies_of, fields_of
from delaybox.api.errors import DEFECT_TEXT, outside
from delaybox.api.rest import problems
from delaybox.api.rest.asgi import Headers, Receive, Scope
from delaybox.api.rest.edge import Edge
from delaybox.api.rest.refusal import Refusal
from delaybox.api.rest.request_body import Disconnected, RequestBodies
from delaybox.api.rest.routing import Answer, Handler, Route
from delaybox.api.rest.settings import ApiSettings
from delaybox.core.errors import DelayBoxError, StoreFull, StoreUnavailable, Unauthenticated, Unconfirmed
from delaybox.core.scopes import Grant
from delaybox.service import Service
from delaybox.wire.json.tasks import TaskRules
from delaybox.wire.shell_rules import ShellRules

_log = logging.getLogger("delaybox.api")

BASE: Final = "/dashboard"
_FILES: Final = "/static/{file}"
FORM: Final = b"application/x-www-form-urlencoded"
STALE_FORM: Final = (
    "this form is from another session, or from a page elsewhere, so nothing was changed; open the page again, and "
    "send the form from there"
)
READ_ONLY: Final = "this dashboard only shows (dashboard.read_only); change it by REST, the command line or Python"

Page = Callable[[Visit], Awaitable[Answer]]


class Dashboard:
    """All pages of one process."""

    def __init__(
        self, service: Service, edge: Edge, bodies: RequestBodies, settings: ApiSettings, own: DashboardSettings
    ) -> None:
        self._edge = edge
        self._bodies = bodies
        self._own = own
        self._base = settings.root + BASE
        self._limit = settings.body_limit
        self._sessions = Sessions(own.secret, settings.tokens)
        self._shared = None if own.secret else SharedSecret(service, self._sessions)
        self._frames = frames = Frames(self._sessions, self._base, read_only=own.read_only)
        shell = ShellRules(payloads=settings.shell, commands=frozenset(settings.shell_commands))
        rules = TaskRules(max_payload_bytes=settings.payload_limit, shell=shell, webhooks=settings.webhooks)
        self._login = Login(frames, self._sessions, edge, settings.tokens)
        self._now = NowPages(frames, service)
        self._queues = QueuePages(frames, service)
        self._tasks = TaskPages(frames, service)
        self._many = ManyPages(frames, service)
        self._dead = DeadPages(frames, service)
        self._webhooks = WebhookPages(frames)
        self._schedule = SchedulePages(frames, service, rules, own, commands=settings.shell_commands)

    def routes(self) -> list[Route]:
        """The pages, below the context path."""
        gets: dict[str, Page] = {
            "": self._now.page,
            "/live": self._now.live,
            "/store": self._now.store,
            "/forecast": self._now.forecast,
            "/login": self._login.page,
            _FILES: self._file,
            "/queues": self._queues.every,
            "/queues/{queue}": self._queues.one,
            "/tasks": self._tasks.find,
            "/ended": self._tasks.ended,
            "/tasks/{id}": self._tasks.one,
            "/tasks/{id}/payload": self._tasks.payload,
            "/dead": self._dead.page,
            "/nodes": self._now.nodes,
            "/webhooks": self._webhooks.hosts,
            "/schedule": self._schedule.form,
        }
        posts: dict[str, Page] = {
            "/login": self._login.enter,
            "/logout": self._login.leave,
            "/queues/{queue}/rules": self._queues.change,
            "/queues/{queue}/pause": self._queues.pause,
            "/queues/{queue}/resume": self._queues.resume,
            "/queues/{queue}/unset": self._queues.unset,
            "/tasks/{id}/run": self._tasks.run,
            "/tasks/{id}/move": self._tasks.move,
            "/tasks/{id}/cancel": self._tasks.cancel,
            "/tasks/{id}/stop": self._tasks.stop,
            "/tasks/{id}/replay": self._tasks.replay,
            "/tasks/{id}/discard": self._tasks.discard,
            "/many/run": self._many.run,
            "/many/move": self._many.move,
            "/many/cancel": self._many.cancel,
            "/many/replay": self._many.replay,
            "/many/discard": self._many.discard,
            "/dead/replay": self._dead.replay,
            "/dead/discard": self._dead.discard,
            "/schedule": self._schedule.send,
            "/schedule/lines": self._schedule.lines,
        }
        made: dict[str, dict[str, Handler]] = {}
        for method, pages in (("GET", gets), ("POST", posts)):
            for path, page in pages.items():
                made.setdefault(path, {})[method] = _handler(page)
        return [Route(BASE + path, handlers, browser=True) for path, handlers in made.items()]

    def front(self) -> list[Route]:
        """The node's address itself, which leads browsers to the first page."""
        return [Route("/", {"GET": _handler(self._front)}, browser=True)]

    def owns(self, path: str) -> bool:
        """Whether a path that no route has lies among the pages."""
        return path.startswith(f"{self._base}/")

    async def answer(self, route: Route | None, scope: Scope, receive: Receive) -> Answer:
        """The answer to a browser. Callers that ask for something else than HTML get errors as problems of ``/v1``."""
        pairs: list[tuple[bytes, bytes]] = scope["headers"]
        reads_html = any(name == b"accept" and b"text/html" in value for name, value in pairs)
        try:
            return await self._answer(route, scope, receive)
        except Unauthenticated as error:
            if not reads_html:
                return problems.V1.error(error)
            there = quote(scope["path"], safe="/") if scope["method"] == "GET" else self._base
            address = f"{self._base}/login?next={there}"
            if any(name == b"hx-request" for name, _ in pairs):
                return Answer(401, b"", ((b"hx-redirect", address.encode()), *render.HEADERS), render.HTML)
            return see_other(address)
        except Refusal as refusal:
            if not reads_html:
                return problems.V1.refusal(refusal)
            return self._problem(scope, refusal.status, refusal.message, refusal.headers)
        except DelayBoxError as error:
            if not reads_html:
                return problems.V1.error(error)
            status = outside(error).http
            text = DEFECT_TEXT if status == 500 else str(error)
            # A store that is full or could not confirm answers.
            away = isinstance(error, StoreUnavailable) and not isinstance(error, StoreFull | Unconfirmed)
            return self._problem(scope, status, text, away=away)
        except Disconnected:
            raise
        except Exception:  # noqa: BLE001 - whatever it was, the browser gets a page
            _log.exception("%s %s failed", scope["method"], route.name if route else "other")
            return self._problem(scope, 500, DEFECT_TEXT) if reads_html else problems.V1.defect()

    async def _answer(self, route: Route | None, scope: Scope, receive: Receive) -> Answer:
        headers = self._edge.headers(scope["headers"])
        self._edge.origin(headers)
        if self._shared is not None and not (route is not None and route.name == BASE + _FILES):
            await self._shared.learn(cookies_of(headers).get(self._frames.cookie(headers), ""))
        scope["visit"] = visit = self._visit(scope, headers)
        if route is None and scope["method"] == "GET" and scope["path"].endswith("/"):
            return see_other(quote(scope["path"].rstrip("/"), safe="/"))
        if route is None:
            raise Refusal(404, f"there is no such page; begin at {self._base}")
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        handler = route.handlers.get(method)
        if handler is None:
            allowed = ", ".join(route.handlers)
            raise Refusal(405, f"this page takes {allowed} alone", ((b"allow", allowed.encode()),))
        rule = route.rules[method]
        if not isinstance(rule, call_scopes.WithoutToken):
            visit.grant = self._grant(visit.session, headers)
            call_scopes.admit(visit.grant, rule)
        if method == "POST":
            await self._take_form(visit, headers, receive)
            if self._own.read_only and not isinstance(rule, call_scopes.WithoutToken):
                raise Refusal(403, READ_ONLY)
        answer = await handler(scope, headers, receive)
        if scope["method"] == "HEAD" and answer.parts is not None:
            await answer.parts.aclose()
            answer = replace(answer, parts=None)
        return self._frames.with_cookies(visit, answer)

    def _visit(self, scope: Scope, headers: Headers) -> Visit:
        cookies = cookies_of(headers)
        name = self._frames.cookie(headers)
        session = self._sessions.read(cookies.get(name, ""))
        # A program that sends its token in a header has no cookie, and its requests are no form's.
        by_header = b"authorization" in headers
        fresh = session is None and not by_header
        return Visit(
            method=scope["method"],
            path=scope["path"],
            client=(scope.get("client") or ("local", 0))[0],
            params=scope.get("params") or {},
            query=fields_of(scope["query_string"]),
            headers=headers,
            grant=self._sessions.grant(session) or frozenset(),
            session=None if by_header else session or self._sessions.begin(),
            read_only=self._own.read_only,
            note=self._sessions.read_note(cookies.get(f"{name}-note", "")),
            fresh=fresh,
        )

    def _grant(self, session: Session | None, headers: Headers) -> Grant:
        if b"authorization" in headers:
            return self._edge.caller(headers)
        grant = self._sessions.grant(session)
        if grant is None:
            raise Unauthenticated("this node asks for a token; log in, or send one in Authorization", given=False)
        return grant

    async def _take_form(self, visit: Visit, headers: Headers, receive: Receive) -> None:
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != FORM:
            raise Refusal(415, f"a page takes forms: send Content-Type {FORM.decode()}")
        # A payload's text may grow threefold when it is encoded as a form.
        visit.form = fields_of(await self._bodies.read(headers, receive, limit=4 * self._limit))
        if visit.session is None:
            return
        # SameSite keeps the cookie from other sites' forms, Origin says where a form is from; the token proves it.
        host = headers.get(b"host", b"")
        origin = headers.get(b"origin")
        elsewhere = origin is not None and origin.partition(b"://")[2] != host
        if elsewhere or not self._sessions.genuine(visit.session, visit.form.get("form", "")):
            raise Refusal(403, STALE_FORM)

    def _problem(
        self, scope: Scope, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = (), *, away: bool = False
    ) -> Answer:
        visit: Visit | None = scope.get("visit")
        form_at = self._form_at(scope, visit) if scope["method"] == "POST" else ""
        return self._frames.problem(visit, status, text, headers, away=away, form_at=form_at)

    def _form_at(self, scope: Scope, visit: Visit | None) -> str:
        """The page whose form was sent to an address, as that of a task to ``/tasks/{id}/run``."""
        raw: bytes = scope["raw_path"]
        page = raw.decode("ascii", "ignore").rpartition("/")[0]
        if page == f"{self._base}/many":
            return f"{self._base}/tasks?{filters.query_of(visit.form if visit is not None else {})}"
        return page if page.startswith(self._base) else self._base

    async def _front(self, visit: Visit) -> Answer:
        if b"text/html" not in visit.headers.get(b"accept", b""):
            raise Refusal(404, f"there is no such path here; browsers find pages at {self._base}")
        return see_other(self._base)

    async def _file(self, visit: Visit) -> Answer:
        found = render.static(visit.params["file"])
        if found is None:
            raise Refusal(404, "there is no such file here")
        content, kind = found
        # The name carries the content's hash, so a browser need not ask again.
        return Answer(200, content, ((b"cache-control", b"public, max-age=31536000, immutable"),), kind)


def _handler(page: Page) -> Handler:
    async def handle(scope: Scope, headers: Headers, receive: Receive) -> Answer:
        return await page(scope["visit"])

    return handle
