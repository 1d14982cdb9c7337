"""Changes of all tasks that a filter matches, with a dry run first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from delaybox.api.dashboard import filters
from delaybox.api.dashboard.frame import Frames
from delaybox.api.dashboard.pages.tasks import when_of
from delaybox.api.dashboard.visit import Visit
from delaybox.api.rest.edge import Refusal
from delaybox.api.rest.routing import Answer
from delaybox.core.errors import InvalidTask
from delaybox.core.limits import MAX_REPLAY
from delaybox.core.query import BulkResult
from delaybox.service import Selection, Service

_IN_TIME_S = 20.0
AT_ONCE = MAX_REPLAY
"""Most tasks of one form; the page offers to go on."""

Change = Callable[[Selection], Awaitable[BulkResult]]


class ManyPages:
    """Each is asked twice: without ``sure`` it only counts."""

    def __init__(self, frames: Frames, service: Service) -> None:
        self._frames = frames
        self._service = service

    async def run(self, visit: Visit) -> Answer:
        """Makes those that wait due now."""
        return await self._apply(visit, "run", "made due now", self._service.bulk.run_now)

    async def move(self, visit: Visit) -> Answer:
        """Moves them to one moment."""
        try:
            due_ms, delay_ms = when_of(visit)
        except InvalidTask as error:
            return self._shown(visit, "move", "moved", None, problem=str(error), status=400)

        async def change(chosen: Selection) -> BulkResult:
            return await self._service.bulk.reschedule(chosen, due_ms=due_ms, delay_ms=delay_ms)

        return await self._apply(visit, "move", "moved", change)

    async def cancel(self, visit: Visit) -> Answer:
        """Cancels them."""
        return await self._apply(visit, "cancel", "cancelled", self._service.bulk.cancel)

    async def _apply(self, visit: Visit, action: str, done: str, change: Change) -> Answer:
        sure = "sure" in visit.form
        try:
            wanted = filters.filter_of(visit.form)
            async with asyncio.timeout(_IN_TIME_S):
                found = await change(Selection(wanted=wanted, limit=AT_ONCE, dry_run=not sure))
        except InvalidTask as error:
            return self._shown(visit, action, done, None, problem=str(error), status=400)
        except TimeoutError:
            raise Refusal(
                503, f"this takes longer than {_IN_TIME_S:g} s: part of it may be done. Send it again, make the filter "
                "narrower, or use `delaybox` in a terminal, which goes on as long as it takes",
            ) from None  # fmt: skip
        return self._shown(visit, action, done, found)

    def _shown(
        self, visit: Visit, action: str, done: str, found: BulkResult | None, *, problem: str = "", status: int = 200
    ) -> Answer:
        more = found is not None and (found.changed if "sure" in visit.form else found.matched) >= AT_ONCE
        return self._frames.page(
            visit, "many.html", status=status, action=action, done=done, found=found, problem=problem, more=more,
            sure="sure" in visit.form, form=visit.form, words=filters.words(visit.form), fields=filters.FIELDS,
            back=filters.query_of(visit.form), at_once=AT_ONCE,
        )  # fmt: skip
