"""A form for a task, with the lines that would do the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from delaybox.api import call_scopes
from delaybox.api.dashboard import filters, lines
from delaybox.api.dashboard.frame import Frames
from delaybox.api.dashboard.settings import DashboardSettings
from delaybox.api.dashboard.visit import Visit
from delaybox.api.rest.routing import Answer
from delaybox.core.errors import DelayBoxError, Denied, InvalidTask, StoreUnavailable
from delaybox.core.task import PRIORITY_NAMES
from delaybox.service import Service
from delaybox.wire.json import tasks
from delaybox.wire.json.tasks import TYPE_NAMES, TaskRules

PAYLOADS = ("text", "json", "base64")


class SchedulePages:
    """The form. It is read as a body of ``POST /v1/tasks`` is, so it takes and refuses the same."""

    def __init__(
        self, frames: Frames, service: Service, rules: TaskRules, own: DashboardSettings, *, commands: Sequence[str]
    ) -> None:
        self._own = own
        self._frames = frames
        self._service = service
        self._rules = rules
        self._commands = commands

    async def form(self, visit: Visit) -> Answer:
        """The empty form, or one that a link fills in."""
        return self._form(visit, visit.query or {"delay": "15m"})

    async def send(self, visit: Visit) -> Answer:
        """Schedules the task; a form that does not fit is shown again with the reason."""
        try:
            task = tasks.parse_task(json.dumps(_body(visit.form)).encode(), self._rules)
            call_scopes.require_type(visit.grant, task.type)
            stored = await self._service.submit(task)
        except Denied:
            raise
        except StoreUnavailable as error:
            # Whoever has typed it shall not have to type it again.
            why = f"{error}. The form below is as you sent it: send it again when the store is back."
            if "idempotency_key" not in visit.form:
                why += " If it was stored all the same, there are two such tasks then: it has no idempotency key."
            return self._form(visit, visit.form, problem=why, status=503)
        except DelayBoxError as error:
            field = error.field if isinstance(error, InvalidTask) else ""
            return self._form(visit, visit.form, problem=str(error), field=field, status=400)
        note = "The task is scheduled." if stored.created else "The idempotency key named this task already."
        if stored.warning:
            note += f" But {stored.warning}."
        if "read" not in visit.grant:
            note += f" Its id is {stored.task_id}."
        return self._frames.done(visit, f"/tasks/{stored.task_id}", note)

    async def lines(self, visit: Visit) -> Answer:
        """The lines for what the form has now."""
        return self._frames.page(visit, "lines.html", **self._lines(visit, visit.form))

    def _form(
        self, visit: Visit, form: Mapping[str, str], *, problem: str = "", field: str = "", status: int = 200
    ) -> Answer:
        return self._frames.page(
            visit, "schedule.html", status=status, form=form, problem=problem, wrong=field, types=list(TYPE_NAMES),
            priorities=list(PRIORITY_NAMES), payloads=PAYLOADS, commands=self._commands, **self._lines(visit, form),
        )  # fmt: skip

    def _lines(self, visit: Visit, form: Mapping[str, str]) -> dict[str, Any]:
        try:
            body = _body(form)
        except InvalidTask as error:
            return {"curl": "", "python": "", "why_not": str(error)}
        own = self._own
        here = visit.headers.get(b"host", b"localhost:8088").decode("latin-1")
        host = here if here.endswith("]") or ":" not in here else here.rpartition(":")[0]
        scheme = "https" if visit.headers.get(b"origin", b"").startswith(b"https://") else "http"
        root = self._frames.base.removesuffix("/dashboard")
        token = not self._frames.open
        return {
            "curl": lines.curl(
                body,
                f"http://{host}:{own.rest_port}{root}" if own.rest_port else f"{scheme}://{here}{root}",
                token=token,
            ),
            "python": lines.python(body, f"{host}:{own.grpc_port}", token=token, tls=own.grpc_tls),
            "why_not": "",
        }


def _body(form: Mapping[str, str]) -> dict[str, Any]:
    """The form as a body of ``POST /v1/tasks``; what is empty is left out. InvalidTask."""
    kind = form.get("type", "pub_sub")
    tasks.type_of("type", kind)
    body: dict[str, Any] = {} if kind == "pub_sub" else {"type": kind}
    for name in ("delay", "queue", "group", "idempotency_key", "timeout", "expire_after", "keep_result"):
        if form.get(name, "").strip():
            body[name] = form[name].strip()
    if body.get("queue") == "default":
        del body["queue"]
    if form.get("at", "").strip():
        body["at"] = _zoned(form["at"].strip())
    if kind in ("worker", "shell") and form.get("name", "").strip():
        body["name"] = form["name"].strip()
    if kind == "http":
        body["url"] = form.get("url", "").strip()
        if form.get("method", "POST") != "POST":
            body["method"] = form["method"]
    if form.get("priority", "normal") != "normal":
        body["priority"] = form["priority"]
    if labels := filters.labels("labels", form.get("labels", "")):
        body["labels"] = labels
    if attempts := form.get("max_attempts", "").strip():
        if not (attempts.isascii() and attempts.isdigit() and len(attempts) < 9):
            raise InvalidTask("max_attempts", f"max_attempts {attempts[:20]!r} is no number; give attempts in all")
        body["retry"] = {"max_attempts": int(attempts)}
    if payload := form.get("payload", ""):
        # Forms send line ends as CR LF, whatever was typed.
        payload = payload.replace("\r\n", "\n")
        how = form.get("payload_as", "text")
        if how == "json":
            try:
                body["payload_json"] = json.loads(payload)
            except (ValueError, RecursionError) as error:
                raise InvalidTask(
                    "payload", f"the payload is no JSON ({error}); correct it, or send it as text"
                ) from None
        else:
            body["payload_base64" if how == "base64" else "payload"] = payload.strip() if how == "base64" else payload
    return body


def _zoned(text: str) -> str:
    if len(text) == 16:
        text += ":00"
    return f"{text}Z" if len(text) == 19 else text
