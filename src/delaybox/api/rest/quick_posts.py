"""The short way of a POST of one task whose body came with its head: no ASGI, no task and no coroutine of its own.

It takes what is usual, and leaves everything else to the ASGI callable, so that each refusal has one place and its
words. What both do (reading, checking who may call, storing, writing the answer) is the same code.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

from delaybox.api import call_scopes
from delaybox.api.rest import problems
from delaybox.api.rest.answer_headers import AnswerHeaders
from delaybox.api.rest.answered import Answered
from delaybox.api.rest.asgi import Headers
from delaybox.api.rest.edge import Edge
from delaybox.api.rest.http1.head import Head
from delaybox.api.rest.http1.server import Reply
from delaybox.api.rest.request_body import RequestBodies
from delaybox.api.rest.routing import Answer
from delaybox.core.errors import DelayBoxError
from delaybox.core.scopes import Grant
from delaybox.core.task import NewTask, Submitted
from delaybox.service import Service

_log = logging.getLogger("delaybox.api")


@dataclass(frozen=True, slots=True)
class QuickPost:
    """One route. ``read``: the task of a body, or None where the short way is none for it. ``write``: the answer to a
    stored task, without waiting. ``problems``: how errors are written."""

    name: str
    rule: call_scopes.Rule
    read: Callable[[bytes, Headers, Grant], NewTask | None]
    write: Callable[[NewTask, Submitted], Answer]
    problems: problems.Problems


class QuickPosts:
    """Of one process. ``posts``: by path. One that is sent with escapes is left to the callable's router."""

    def __init__(
        self,
        service: Service,
        edge: Edge,
        bodies: RequestBodies,
        answered: Answered,
        posts: Mapping[str, QuickPost],
    ) -> None:
        self._service = service
        self._edge = edge
        self._bodies = bodies
        self._answered = answered
        self._posts = {path.encode(): post for path, post in posts.items()}
        self._headers = AnswerHeaders()

    def take(self, head: Head, body: bytes, reply: Reply) -> bool:
        """See `http1.server.Quick`."""
        post = self._posts.get(head.raw_path)
        if post is None or head.method != "POST" or head.query:
            return False
        began = perf_counter()
        shedding = self._service.shedding
        try:
            headers = self._edge.headers(head.headers)
            self._edge.origin(headers)
            grant = self._edge.caller(headers)
            call_scopes.admit(grant, post.rule)
            if shedding.full:
                answer = post.problems.error(shedding.refusal())
                self._answered.one("POST", post.name, answer.status, perf_counter() - began, head.headers)
                # Not at once: the next request may have come already, and would be refused within this call.
                asyncio.get_running_loop().call_soon(reply, answer.status, self._headers.of(answer), answer.body)
                return True
            if not self._bodies.usual(headers, len(body)):
                return False
            task = post.read(body, headers, grant)
            if task is None:
                return False
        except Exception:  # noqa: BLE001 - a refusal, or a defect: the callable finds it too, and answers it
            return False

        def then(stored: Submitted | BaseException) -> None:
            shedding.answered()
            try:
                answer = self._answer(post, task, stored)
                self._answered.one("POST", post.name, answer.status, perf_counter() - began, head.headers)
                reply(answer.status, self._headers.of(answer), answer.body)
            except Exception:  # noqa: BLE001 - those who share the round trip must get their answers
                _log.exception("POST %s could not be answered", post.name)

        try:
            taken = self._service.submit_soon(task, then)
        except Exception:  # noqa: BLE001 - likewise: nothing has been handed to the store
            return False
        shedding.under_way += taken
        return taken

    def _answer(self, post: QuickPost, task: NewTask, stored: Submitted | BaseException) -> Answer:
        if isinstance(stored, DelayBoxError):
            return post.problems.error(stored)
        if isinstance(stored, BaseException):
            defect = stored
        else:
            try:
                return post.write(task, stored)
            except Exception as error:  # noqa: BLE001 - whatever it was, the caller gets an answer
                defect = error
        # The body is not logged: payloads are the callers' secrets.
        _log.error("POST %s failed", post.name, exc_info=defect)
        return post.problems.defect()
