"""Finding tasks, and one task with its life and what can be done with it."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from delaybox.api.dashboard import filters, life, render, showing
from delaybox.api.dashboard.frame import Frames, see_other
from delaybox.api.dashboard.visit import Visit
from delaybox.api.rest.routing import Answer
from delaybox.core import ids
from delaybox.core.durations import duration_ms
from delaybox.core.errors import DelayBoxError, InvalidTask, StoreUnavailable, TaskFinished, TaskNotFound, TaskRunning
from delaybox.core.history import ENDED, HistoryPage
from delaybox.core.limits import MAX_CURSOR
from delaybox.core.query import Page
from delaybox.core.task import TaskState, TaskView
from delaybox.service import Service
from delaybox.wire.json import rendering
from delaybox.wire.json.tasks import TYPE_NAMES

PAGE: Final = 50
IN_TIME_S: Final = 0.15
"""A list, or a step of a change of many, that has looked through tasks for so long shows what it found, and offers to
go on: its page is there within 300 ms, however much waits."""


class TaskPages:
    """The list with its filter, and one task."""

    def __init__(self, frames: Frames, service: Service) -> None:
        self._frames = frames
        self._service = service

    async def find(self, visit: Visit) -> Answer:
        """Tasks by filter. An id or an idempotency key leads to its task."""
        if wanted := visit.query.get("id", "").strip():
            try:
                return see_other(f"{self._frames.base}/tasks/{await self._id_of(wanted)}")
            except (InvalidTask, TaskNotFound) as error:
                return self._list(visit, Page([]), problem=str(error), status=404)
        problem, found, cursor = "", Page([]), visit.query.get("cursor", "")
        try:
            if len(cursor) > MAX_CURSOR:
                raise InvalidTask("cursor", "this page's address is not whole; begin the list again")
            chosen = filters.filter_of(visit.query)
            found = await self._service.list_tasks(chosen, cursor=cursor, limit=PAGE, in_time_s=IN_TIME_S)
            if chosen.state not in ENDED:
                found.items.sort(key=lambda task: task.due_ms)
        except InvalidTask as error:
            problem = str(error)
        return self._list(visit, found, problem=problem, status=400 if problem else 200)

    def _list(self, visit: Visit, found: Page, *, problem: str, status: int) -> Answer:
        return self._frames.page(
            visit, "tasks.html", status=status, form=visit.query, found=found, problem=problem,
            states=filters.STATES, types=list(TYPE_NAMES), type_names=rendering.NAME_OF_TYPE,
            further=bool(visit.query.get("cursor")),
            next=filters.query_of(visit.query, cursor=found.cursor) if found.cursor else "",
            pending=visit.query.get("state") in (None, "scheduled", "ready"),
        )  # fmt: skip

    async def _id_of(self, text: str) -> str:
        """The id that somebody typed, or that of the task with this idempotency key. InvalidTask, TaskNotFound."""
        with suppress(InvalidTask):
            return ids.render(ids.parse(text))
        return await self._service.id_of_key(text)

    async def ended(self, visit: Visit) -> Answer:
        """Tasks that have ended, as long as that is remembered, newest first."""
        problem, found, cursor = "", HistoryPage(items=[]), visit.query.get("cursor", "")
        try:
            if len(cursor) > MAX_CURSOR:
                raise InvalidTask("cursor", "this page's address is not whole; begin the list again")
            found = await self._service.history(filters.ends_of(visit.query), cursor=cursor, limit=PAGE)
        except InvalidTask as error:
            problem = str(error)
        return self._frames.page(
            visit, "ended.html", status=400 if problem else 200, form=visit.query, found=found, problem=problem,
            states=[state.value for state in ENDED], types=list(TYPE_NAMES), type_names=rendering.NAME_OF_TYPE,
            next=filters.query_of(visit.query, cursor=found.cursor) if found.cursor else "",
            beyond={state.value: count for state, count in found.beyond.items() if count},
        )  # fmt: skip

    async def one(self, visit: Visit) -> Answer:
        """One task."""
        return await self._one(visit)

    async def payload(self, visit: Visit) -> Answer:
        """The payload's bytes, to be kept as a file: a browser never shows them as a page."""
        task = await self._service.get(visit.params["id"])
        name = f'attachment; filename="{task.task_id}.bin"'.encode()
        return Answer(200, task.payload, ((b"content-disposition", name), *render.HEADERS), b"application/octet-stream")

    async def run(self, visit: Visit) -> Answer:
        """Makes it due now."""
        try:
            await self._service.run_now(visit.params["id"])
        except DelayBoxError as error:
            return await self._refused(visit, error)
        return self._done(visit, "It is due now.")

    async def move(self, visit: Visit) -> Answer:
        """Moves it to another moment, or by so much from now."""
        try:
            due_ms, delay_ms = when_of(visit)
            due = await self._service.reschedule(visit.params["id"], due_ms=due_ms, delay_ms=delay_ms)
        except DelayBoxError as error:
            return await self._refused(visit, error)
        return self._done(visit, f"It is due at {showing.moment(due)} now.")

    async def cancel(self, visit: Visit) -> Answer:
        """Cancels it before it runs."""
        try:
            await self._service.cancel(visit.params["id"], free_key="free_key" in visit.form)
        except DelayBoxError as error:
            return await self._refused(visit, error)
        return self._done(visit, "It is cancelled and will not run.")

    async def stop(self, visit: Visit) -> Answer:
        """Asks its worker, or the node that runs its command, to stop it."""
        try:
            asked = await self._service.cancel(visit.params["id"], running=True)
        except DelayBoxError as error:
            return await self._refused(visit, error)
        return self._done(
            visit, "Whoever runs it was asked to stop it." if asked else "It was still waiting, and is cancelled."
        )

    async def replay(self, visit: Visit) -> Answer:
        """Brings a dead letter back."""
        try:
            await self._service.replay(visit.params["id"])
        except DelayBoxError as error:
            return await self._refused(visit, error)
        return self._done(visit, "It was brought back, and is due now.")

    async def discard(self, visit: Visit) -> Answer:
        """Deletes a dead letter."""
        try:
            await self._service.discard(visit.params["id"])
        except DelayBoxError as error:
            return await self._refused(visit, error)
        return self._frames.done(visit, "/dead", f"Task {visit.params['id']} was deleted for good.")

    def _done(self, visit: Visit, note: str) -> Answer:
        return self._frames.done(visit, f"/tasks/{_segment(visit.params['id'])}", note)

    async def _refused(self, visit: Visit, error: DelayBoxError) -> Answer:
        """The task as it is now, with the reason why nothing was done: it may have fired since the form was shown."""
        if isinstance(error, StoreUnavailable) or "read" not in visit.grant:
            raise error
        status = 409 if isinstance(error, TaskNotFound | TaskRunning) else 400
        return await self._one(visit, problem=f"Nothing was changed: {error}", status=status)

    async def _one(self, visit: Visit, *, problem: str = "", status: int = 200) -> Answer:
        try:
            task = await self._service.get(visit.params["id"])
        except (TaskFinished, TaskNotFound) as error:
            return self._frames.page(
                visit, "gone.html", status=status if problem else 404, task_id=visit.params["id"], problem=problem,
                text=str(error), finished=isinstance(error, TaskFinished),
            )  # fmt: skip
        headers = {
            name: showing.plain(value.decode("utf-8", "backslashreplace")) for name, value in task.header.items()
        }
        return self._frames.page(
            visit, "task.html", status=status, task=task, problem=problem, life=life.of(task), headers=headers,
            payload=showing.shown_bytes(b"" if visit.partly else task.payload, visit.query.get("as", "")),
            output=_output(task),
            type_name=rendering.NAME_OF_TYPE[task.type], waiting=task.state in (TaskState.SCHEDULED, TaskState.READY),
        )  # fmt: skip


def _output(task: TaskView) -> showing.ShownBytes | None:
    """What the task printed or returned, but for a traceback that is shown already."""
    result = task.result
    if (
        result is None
        or not result.output
        or result.output.decode("utf-8", "replace").strip() == task.traceback.strip()
    ):
        return None
    return showing.shown_bytes(result.output)


def when_of(visit: Visit) -> tuple[int | None, int | None]:
    """(due ms, delay ms) of a form: exactly one of them. InvalidTask."""
    at, delay = visit.form.get("at", "").strip(), visit.form.get("delay", "").strip()
    if bool(at) == bool(delay):
        raise InvalidTask("at", "give either how long from now or a moment, and not both")
    return (filters.moment("at", at), None) if at else (None, duration_ms("delay", delay))


def _segment(task_id: str) -> str:
    """An id as a part of a path; what is none stays out of it."""
    return "".join(c for c in task_id[:60] if c.isascii() and (c.isalnum() or c == "-")) or "none"
