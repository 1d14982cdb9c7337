"""The REST routes as one raw ASGI callable. ``POST /task`` is the hot one and stays thin."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from delaybox import metrics
from delaybox.api import call_scopes
from delaybox.api.dashboard.site import Dashboard
from delaybox.api.metrics_refresh import ShownMetrics
from delaybox.api.readiness import Probe
from delaybox.api.rest import problems
from delaybox.api.rest.answer_headers import AnswerHeaders, headers_of
from delaybox.api.rest.answered import Answered
from delaybox.api.rest.asgi import Headers, Receive, Scope, Send
from delaybox.api.rest.edge import Edge
from delaybox.api.rest.http1.answers import GUARDS
from delaybox.api.rest.http1.head import BadHead
from delaybox.api.rest.http1.server import RefusedHead
from delaybox.api.rest.quick_posts import QuickPost, QuickPosts
from delaybox.api.rest.refusal import CLOSE, Refusal
from delaybox.api.rest.request_body import Disconnected, RequestBodies
from delaybox.api.rest.routing import Answer, Route, Router
from delaybox.api.rest.settings import ApiSettings
from delaybox.api.rest.traces import trace_of_request
from delaybox.api.rest.v1.docs import pages
from delaybox.api.rest.v1.quick import quick_create
from delaybox.api.rest.v1.routes import routes
from delaybox.core.errors import DelayBoxError, Denied
from delaybox.core.limits import DEFAULT_PAGE, MAX_PAGE
from delaybox.core.scopes import Grant
from delaybox.core.task import NewTask, Submitted, TaskType
from delaybox.service import Service
from delaybox.service.shedding import Shed
from delaybox.wire.in_trace import with_trace
from delaybox.wire.original import answer, request

if TYPE_CHECKING:
    from delaybox.worker.figures import WorkerCondition

_log = logging.getLogger("delaybox.api")


AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_BROKEN = "the body ended before it was complete, or its chunks cannot be read; send it again, whole"


def build_app(
    service: Service, settings: ApiSettings, *, bodies: RequestBodies | None = None, answered: Answered | None = None
) -> AsgiApp:
    """The ASGI callable for ``service``. Pass ``bodies`` to start and stop their clock yourself, and ``answered`` where
    others answer requests as well."""
    edge = Edge(settings)
    bodies = bodies or RequestBodies(settings)
    answered = answered or Answered()
    api = _Api(service, settings, bodies, answered)
    root = settings.root
    router = Router()
    dashboard = None if settings.dashboard is None else Dashboard(service, edge, bodies, settings, settings.dashboard)
    alone = settings.dashboard is not None and settings.dashboard.alone
    task = Route("/task", {"POST": api.create, "GET": api.list, "HEAD": api.list})
    ping = Route("/ping", {"GET": api.ping, "HEAD": api.ping})
    if dashboard is not None:
        router.add(dashboard.routes(), root)
        for at in {"", root}:
            router.add(dashboard.front(), at)
    if not settings.probes_only and not alone:
        # The Go original accepts a slash at the end too.
        router.add((task, ping), root)
        router.add((task, ping), root, slash=True)
        router.add(routes(service, bodies, settings), root)
        router.add(pages(settings))
    probes = (("/healthz", api.live), ("/livez", api.live), ("/readyz", api.ready), ("/metrics", api.metrics))
    for path, handler in probes:
        router.add((Route(path, {"GET": handler, "HEAD": handler}),))
    v1 = f"{root}/v1"
    apart = settings.probes_only or alone
    task_path = "" if apart else f"{root}/task"
    known_paths = "/livez, /readyz or /metrics" if apart else f"{v1}/tasks or {root}/task, and see /docs"
    create = api.create
    create_rule = task.rules["POST"]
    response_headers = AnswerHeaders()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = perf_counter()
        path = scope["path"]
        name = "/task"
        unread = False
        try:
            if path == task_path and scope["method"] == "POST":
                headers = edge.headers(scope["headers"])
                edge.origin(headers)
                scope["auth"] = grant = edge.caller(headers)
                call_scopes.admit(grant, create_rule)
                answer = await create(scope, headers, receive)
            else:
                route = router.find(scope)
                name = route.name if route else "other"
                if dashboard is not None and (dashboard.owns(path) if route is None else route.browser):
                    answer = await dashboard.answer(route, scope, receive)
                else:
                    answer = await _dispatch(route, edge, scope, receive, known_paths)
        except Refusal as refusal:
            answer = problems.family(path, v1).refusal(refusal)
            unread = True
        except DelayBoxError as error:
            answer = problems.family(path, v1).error(error)
            unread = isinstance(error, Denied | Shed)
        except Disconnected:
            # Chunks that cannot be read look the same; then the caller is still there, and gets the reason.
            answer = problems.family(path, v1).refusal(Refusal(400, _BROKEN, CLOSE))
        except Exception:  # noqa: BLE001 - whatever it was, the caller gets an answer
            # The body is not logged: payloads are the callers' secrets.
            _log.exception("%s %s failed", scope["method"], name)
            answer = problems.family(path, v1).defect()
        if answer.parts is not None:
            answered.one(scope["method"], name, answer.status, perf_counter() - began, scope["headers"])
            await _stream(answer, answer.parts, send)
            return
        answered.one(scope["method"], name, answer.status, perf_counter() - began, scope["headers"])
        await send({"type": "http.response.start", "status": answer.status, "headers": response_headers.of(answer)})
        await send({"type": "http.response.body", "body": answer.body})
        if unread:
            await bodies.drain(receive)

    return app


async def _stream(answer: Answer, parts: AsyncGenerator[bytes, None], send: Send) -> None:
    headers = [(b"content-type", answer.content_type), *GUARDS, *answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    async with contextlib.aclosing(parts):
        async for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})


def quick_posts(service: Service, settings: ApiSettings, bodies: RequestBodies, answered: Answered) -> QuickPosts:
    """What answers the usual POSTs of one task without the ASGI callable."""
    posts: dict[str, QuickPost] = {}
    if not settings.probes_only and not (settings.dashboard is not None and settings.dashboard.alone):
        original = _Original(settings)
        posts[f"{settings.root}/task"] = QuickPost(
            "/task", call_scopes.rule("POST", "/task"), original.read, original.written, problems.COMPATIBLE
        )
        posts[f"{settings.root}/v1/tasks"] = quick_create(service, bodies, settings)
    return QuickPosts(service, Edge(settings), bodies, answered, posts)


def refusals(settings: ApiSettings) -> Callable[[BadHead], RefusedHead]:
    """Answers bytes that are no request, in the form of the routes under its path, where that is known."""
    v1 = f"{settings.root}/v1"

    def refuse(error: BadHead) -> RefusedHead:
        refusal = Refusal(error.status, error.message)
        answer = problems.family(error.path or v1, v1).refusal(refusal, _BAD_HEADS.get(error.status, ""))
        return answer.status, tuple(headers_of(answer)), answer.body

    return refuse


_BAD_HEADS: Final = {408: "head_too_slow", 431: "head_too_large", 503: "too_many_connections"}
PROBES: Final = frozenset(
    route.encode() for (_, route), rule in call_scopes.RULES.items() if rule is call_scopes.WithoutToken.PROBE
)
"""The paths that are answered when callers hold every connection."""


async def _dispatch(route: Route | None, edge: Edge, scope: Scope, receive: Receive, known_paths: str) -> Answer:
    """Answers one request. The handler finds what its caller may do in ``scope["auth"]``."""
    headers = edge.headers(scope["headers"])
    method = scope["method"]
    rule = None
    if route is not None:
        rule = route.rules.get(method) or next(iter(route.rules.values()))
    if rule is not call_scopes.WithoutToken.PROBE:
        edge.origin(headers)
        if rule is not call_scopes.WithoutToken.PAGE:
            scope["auth"] = edge.caller(headers)
    if route is None:
        raise Refusal(404, f"there is no such path here; use {known_paths}")
    handler = route.handlers.get(method)
    if handler is None:
        allowed = ", ".join(route.handlers)
        raise Refusal(
            405, f"{route.name} does not take this method; use one of {allowed}", ((b"allow", allowed.encode()),)
        )
    if rule is not None:
        call_scopes.admit(scope.get("auth", frozenset()), rule)
    return await handler(scope, headers, receive)


class _Original:
    """How ``POST /task`` is read and answered."""

    def __init__(self, settings: ApiSettings) -> None:
        types = {TaskType.PUB_SUB, TaskType.SHELL_CMD} if settings.shell else {TaskType.PUB_SUB}
        self._rules = request.OriginalRules(max_payload_bytes=settings.payload_limit, types=frozenset(types))

    def read(self, body: bytes, headers: Headers, grant: Grant) -> NewTask:
        """The task that a body asks for. DelayBoxError."""
        task = with_trace(request.parse_task(body, self._rules), trace_of_request(headers))
        call_scopes.require_type(grant, task.type)
        return task

    def written(self, task: NewTask, stored: Submitted) -> Answer:
        """The answer to a stored task."""
        return Answer(200, answer.render_created(stored.task_id))


class _Api:
    """The handlers. Each parses, asks the service and renders."""

    def __init__(self, service: Service, settings: ApiSettings, bodies: RequestBodies, answered: Answered) -> None:
        self._service = service
        self._answered = answered
        self._bodies = bodies
        self._original = _Original(settings)
        self._probe = Probe(service)
        self._node_id = settings.node_id
        self._shown = ShownMetrics(service, self._probe)
        self._worker: Callable[[], WorkerCondition] | None = None
        if settings.beside_worker:
            # Only here, because the worker's modules bring much that a node does not need.
            from delaybox.worker.worker_metrics import condition

            self._worker = condition

    async def create(self, scope: Scope, headers: Headers, receive: Receive) -> Answer:
        self._service.shedding.admit()
        body = await self._bodies.read_json(headers, receive)
        with self._service.shedding.taken():
            task = self._original.read(body, headers, scope["auth"])
            return self._original.written(task, await self._service.submit(task))

    async def list(self, scope: Scope, headers: Headers, receive: Receive) -> Answer:
        query = dict(_query(scope))
        limit = _limit(query.get("limit"))
        page = _page(query.get("offset"))
        return Answer(200, answer.render_tasks(await self._service.list_pending(limit=limit, skip=(page - 1) * limit)))

    async def ping(self, scope: Scope, headers: Headers, receive: Receive) -> Answer:
        return _text(200, "pong")

    async def live(self, scope: Scope, headers: Headers, receive: Receive) -> Answer:
        stands = self._worker().stands if self._worker else ""
        return _text(503, stands) if stands else _text(200, "ok")

    async def ready(self, scope: Scope, headers: Headers, receive: Receive) -> Answer:
        state = await self._probe.ask()
        if not state.ok:
            return _text(503, state.reason)
        # No process shows itself where a worker cannot share what it counts; then the store alone decides.
        if self._worker and (worker := self._worker()).processes and worker.wrong:
            return _text(503, worker.wrong)
        # Tasks are still accepted, and wait. If the probe failed, the balancer would drop every node at once.
        return _text(200, f"ready; but {state.reason}" if state.reason else "ready")

    async def metrics(self, scope: Scope, headers: Headers, receive: Receive) -> Answer:
        part = _part(scope, self._node_id)
        await self._shown.refresh()
        self._answered.add()
        body, content_type = metrics.render_as(headers.get(b"accept", b"").decode("latin-1"), self._shown.node, part)
        return Answer(200, body, content_type=content_type.encode())


def _text(status: int, text: str) -> Answer:
    return Answer(status, text.encode(), content_type=b"text/plain; charset=utf-8")


def _part(scope: Scope, node_id: str) -> metrics.MetricPart:
    """The part of the metrics that a scrape asks for."""
    query = dict(_query(scope))
    match query.get("of", ""):
        case "" | "node" | "store" as of:
            pass
        case other:
            raise Refusal(400, f"of {other[:40]!r} is no part of the metrics; give node or store, or leave it out")
    if (label := query.get("label", "")) not in ("", "node"):
        raise Refusal(400, f"label {label[:40]!r} is none that a node can add; give node, or leave it out")
    return metrics.MetricPart(of, node_id if label else "")


def _query(scope: Scope) -> list[tuple[str, str]]:
    try:
        return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise Refusal(400, "the query has too many fields; use limit and offset") from None


def _limit(text: str | None) -> int:
    if not text:
        return DEFAULT_PAGE
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    if not 1 <= limit <= MAX_PAGE:
        raise Refusal(400, f"limit {text[:40]!r} is not in range; give a number from 1 to {MAX_PAGE}")
    return limit


def _page(text: str | None) -> int:
    """A page from 1; 0 and nonsense are 1, as the original had it."""
    if not text or not (text.isascii() and text.isdigit() and len(text) <= 9):
        return 1
    return max(1, int(text))
