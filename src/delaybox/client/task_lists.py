"""Lists of tasks, page by page: those that wait, run or failed, and how others ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from delaybox.client import calls
from delaybox.client.errors import Failure
from delaybox.client.models import EndedTask, Task
from delaybox.client.new_tasks import filter_of, history_of
from delaybox.client.retries import ClientSession, Repeating, Tries
from delaybox.client.steps import Emit, OpenStream, Pause, Receive, Steps
from delaybox.core.errors import InvalidTask
from delaybox.core.limits import MAX_PAGE
from delaybox.core.words import show
from delaybox.wire.gen import scheduler_pb2 as pb


def listed(session: ClientSession, method: str, wanted: Mapping[str, Any], limit: int | None) -> Steps[None]:
    """Emits the tasks that match, ``limit`` at most; goes on elsewhere where a node was lost."""
    request = pb.ListRequest(filter=filter_of(wanted))
    left = _checked(limit)
    while left is None or left > 0:
        tries = Tries(session, Repeating.READ)
        which = tries.pick()
        request.limit = MAX_PAGE if left is None else min(left, MAX_PAGE)
        stream = yield OpenStream(which, method, request, tries.attempt_s())
        while (page := (yield Receive(stream))) is not None:
            if isinstance(page, Failure):
                yield Pause(tries.pause_after(page, which))
                which = tries.pick()
                stream = yield OpenStream(which, method, request, tries.attempt_s())
                continue
            tries.went_on()
            request.cursor = page.cursor
            tasks = [Task.of(task) for task in page.tasks]
            if left is not None:
                tasks = tasks[:left]
                left -= len(tasks)
                request.limit = max(min(left, MAX_PAGE), 1)
            yield Emit(tasks)
        session.endpoints.worked(which)
        if not request.cursor:
            return


def _checked(limit: object) -> int | None:
    if limit is None or (isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0):
        return limit
    raise InvalidTask("limit", f"limit {show(limit)} is no number of tasks; give 0 or more, or leave it out for all")


def ended(session: ClientSession, wanted: Mapping[str, Any], limit: int | None) -> Steps[None]:
    """Emits how the tasks that match ended, the newest end first, ``limit`` at most."""
    request = history_of(wanted)
    left = _checked(limit)
    while left is None or left > 0:
        request.limit = MAX_PAGE if left is None else min(left, MAX_PAGE)
        page = yield from session.unary(calls.history(request))
        if left is not None:
            left -= len(page.tasks)
        if page.tasks:
            yield Emit([EndedTask.of(one) for one in page.tasks])
        request.cursor = page.cursor
        if not request.cursor:
            return
