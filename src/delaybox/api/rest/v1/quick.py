"""The short way of ``POST /v1/tasks`` (`quick_posts`)."""

from __future__ import annotations

from delaybox.api import call_scopes, disclosure
from delaybox.api.rest import problems
from delaybox.api.rest.asgi import Headers
from delaybox.api.rest.quick_posts import QuickPost
from delaybox.api.rest.request_body import RequestBodies
from delaybox.api.rest.routing import Answer
from delaybox.api.rest.settings import ApiSettings
from delaybox.api.rest.v1.routes import calls
from delaybox.core.scopes import Grant
from delaybox.core.task import NewTask, Submitted
from delaybox.service import Service
from delaybox.wire.json.rendering import encode


def quick_create(service: Service, bodies: RequestBodies, settings: ApiSettings) -> QuickPost:
    """The short way of ``POST /v1/tasks``: of tasks without a key, for callers who may see the whole answer."""
    v1 = calls(service, bodies, settings)

    def read(body: bytes, headers: Headers, grant: Grant) -> NewTask | None:
        if b"idempotency-key" in headers or not disclosure.whole(grant):
            return None
        # Most of what the callable will have to read is seen without reading it twice.
        if b'"worker"' in body or b'"idempotency_key"' in body:
            return None
        task = v1.new_task(body, headers, grant)
        return None if task.idempotency_key is not None else task

    def write(task: NewTask, stored: Submitted) -> Answer:
        reply = v1.created(task, stored)
        assert reply.value is not None
        return Answer(reply.status, encode(reply.value), reply.headers)

    return QuickPost("/v1/tasks", call_scopes.rule("POST", "/v1/tasks"), read, write, problems.V1)
