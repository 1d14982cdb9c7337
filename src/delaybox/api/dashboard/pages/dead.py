"""Dead letters, grouped by what ended them."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from delaybox.api.dashboard.frame import Frames
from delaybox.api.dashboard.visit import Visit
from delaybox.api.rest.refusal import Refusal
from delaybox.api.rest.routing import Answer
from delaybox.core.errors import InvalidTask
from delaybox.core.limits import MAX_CURSOR
from delaybox.core.query import TaskQuery
from delaybox.service import Service
from delaybox.service.dead import GroupChange
from delaybox.wire.json import rendering

_PAGE = 50


class DeadPages:
    """The groups, and below them the dead letters themselves."""

    def __init__(self, frames: Frames, service: Service) -> None:
        self._frames = frames
        self._service = service

    async def page(self, visit: Visit) -> Answer:
        """Groups, and the newest dead letters."""
        cursor = visit.query.get("cursor", "")
        if len(cursor) > MAX_CURSOR:
            raise InvalidTask("cursor", "this page's address is not whole; begin the list again")
        groups = await self._service.dead.groups()
        found = await self._service.dead_letters(TaskQuery(), cursor=cursor, limit=_PAGE)
        return self._frames.page(
            visit, "dead.html", groups=groups, found=found, further=bool(cursor), type_names=rendering.NAME_OF_TYPE,
            action=visit.query.get("action", ""), group_key=visit.query.get("group", ""), rest=_rest(visit.query),
        )  # fmt: skip

    async def replay(self, visit: Visit) -> Answer:
        """Brings a group back."""
        done = await self._service.dead.replay(_group(visit), _rest(visit.form))
        return self._done(visit, "replay", done, "brought back, and due now")

    async def discard(self, visit: Visit) -> Answer:
        """Deletes a group for good."""
        done = await self._service.dead.discard(_group(visit), _rest(visit.form))
        return self._done(visit, "discard", done, "deleted for good")

    def _done(self, visit: Visit, action: str, done: GroupChange, what: str) -> Answer:
        """Where time was over, the page's address says where the same button goes on: any node can, and one that has
        been restarted."""
        rest = {"action": action, "group": _group(visit), "rest": done.rest} if done.rest else {}
        at = f"/dead?{urlencode(rest)}" if rest else "/dead"
        return self._frames.done(visit, at, _report(done, what, _rest(visit.form)))


def _group(visit: Visit) -> str:
    key = visit.form.get("group", "")
    if not key:
        raise Refusal(400, "the form names no group; open the page again")
    return key


def _rest(fields: Mapping[str, str]) -> int:
    text = fields.get("rest", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise Refusal(400, "where the action goes on is no number; open the page again")
    return int(text)


def _report(done: GroupChange, what: str, begun_at: int) -> str:
    if done.changed:
        report = f"{done.changed:,} {'task was' if done.changed == 1 else 'tasks were'} {what}."
    elif begun_at:  # an earlier action may have found some
        report = "No more of the group was found yet." if done.rest else "No more of the group was found."
    elif not done.rest:
        report = f"The group is gone already: none of it was {what}."
    else:
        report = "None of the group was found yet."
    return (
        f"{report} Time was over before all dead letters were looked at: do it again for the rest."
        if done.rest
        else report
    )
