"""Changes of all tasks that a filter matches, with a dry run first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from delaybox.api.dashboard import filters
from delaybox.api.dashboard.frame import Frames
from delaybox.api.dashboard.pages.tasks import IN_TIME_S, when_of
from delaybox.api.dashboard.visit import Visit
from delaybox.api.rest.refusal import Refusal
from delaybox.api.rest.routing import Answer
from delaybox.core import ids
from delaybox.core.errors import InvalidTask
from delaybox.core.limits import MAX_CURSOR, MAX_REPLAY
from delaybox.core.query import BulkResult
from delaybox.service import Selection, Service

_GIVEN_UP_S = 20.0
"""After so long a step is given up: the store is slow."""
AT_ONCE = MAX_REPLAY
"""Most tasks of one form; the page offers to go on."""

_SHOWN = 3
"""Ids shown of what would be changed."""

Change = Callable[[Selection], Awaitable[BulkResult]]


class ManyPages:
    """Each is asked twice: without ``sure`` it only counts. What takes long goes on in steps, each a form of its own:
    the page shows how far it is, and sends the next one."""

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
        if delay_ms is not None:
            # One moment for all steps.
            due_ms = await self._service.bulk.moment(delay_ms)

        async def change(chosen: Selection) -> BulkResult:
            return await self._service.bulk.reschedule(chosen, due_ms=due_ms)

        return await self._apply(visit, "move", "moved", change, due_ms=due_ms)

    async def cancel(self, visit: Visit) -> Answer:
        """Cancels them."""
        return await self._apply(visit, "cancel", "cancelled", self._service.bulk.cancel)

    async def replay(self, visit: Visit) -> Answer:
        """Brings dead letters back."""
        return await self._apply(visit, "replay", "brought back", self._service.bulk.replay)

    async def discard(self, visit: Visit) -> Answer:
        """Deletes dead letters for good."""
        return await self._apply(visit, "discard", "deleted for good", self._service.bulk.discard)

    async def _apply(
        self, visit: Visit, action: str, done: str, change: Change, *, due_ms: int | None = None
    ) -> Answer:
        sure = "sure" in visit.form
        try:
            wanted, before = filters.filter_of(visit.form), _so_far(visit)
            left = AT_ONCE - (before.changed if sure else before.matched)
            async with asyncio.timeout(_GIVEN_UP_S):
                found = await change(
                    Selection(
                        wanted=wanted, limit=max(1, left), dry_run=not sure, in_time_s=IN_TIME_S, cursor=before.cursor
                    )
                )
        except InvalidTask as error:
            return self._shown(visit, action, done, None, problem=str(error), status=400)
        except TimeoutError:
            raise Refusal(
                503, f"this takes longer than {_GIVEN_UP_S:g} s: part of it may be done. Send it again, make the "
                "filter narrower, or use `delaybox` in a terminal, which goes on as long as it takes",
            ) from None  # fmt: skip
        found.matched += before.matched
        found.changed += before.changed
        found.skipped += before.skipped
        found.sample = [*before.sample, *found.sample][:_SHOWN]
        return self._shown(visit, action, done, found, due_ms=due_ms)

    def _shown(
        self,
        visit: Visit,
        action: str,
        done: str,
        found: BulkResult | None,
        *,
        problem: str = "",
        status: int = 200,
        due_ms: int | None = None,
    ) -> Answer:
        sure = "sure" in visit.form
        more = found is not None and (found.changed if sure else found.matched) >= AT_ONCE
        form = dict(visit.form)
        if due_ms is not None and sure:
            # While it is only counted, a delay stays one: it counts from when the change begins.
            form.pop("delay", None)
            form["at"] = str(due_ms)
        return self._frames.page(
            visit, "many.html", status=status, action=action, done=done, found=found, problem=problem, more=more,
            sure=sure, form=form, words=filters.words(visit.form), fields=filters.FIELDS,
            back=filters.query_of(visit.form), at_once=AT_ONCE,
            goes_on=found is not None and bool(found.cursor) and not more,
        )  # fmt: skip


def _so_far(visit: Visit) -> BulkResult:
    """What the steps before this one have done, as the form has it. InvalidTask."""
    form = visit.form
    if len(cursor := form.get("cursor", "")) > MAX_CURSOR:
        raise InvalidTask("cursor", "this form is not whole; open the list of tasks again, and begin there")
    counts = [form.get(name, "0") for name in ("matched", "changed", "skipped")]
    if not all(text.isascii() and text.isdigit() and len(text) < 15 for text in counts):
        raise InvalidTask("matched", "the form's counts are no numbers; open the list of tasks again, and begin there")
    matched, changed, skipped = map(int, counts)
    sample = [ids.render(ids.parse(text)) for text in form.get("sample", "").split(",")[:_SHOWN] if text]
    return BulkResult(matched=matched, changed=changed, skipped=skipped, sample=sample, cursor=cursor)
