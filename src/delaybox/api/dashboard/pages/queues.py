"""Queues: what they hold, why their tasks wait, and their rules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any, Final
from urllib.parse import quote

import msgspec

from delaybox.api.dashboard.frame import Frames
from delaybox.api.dashboard.looks import Looks
from delaybox.api.dashboard.visit import Visit
from delaybox.api.rest.routing import Answer
from delaybox.core.errors import InvalidTask, StoreUnavailable
from delaybox.core.limits import QUEUE
from delaybox.core.query import QueueStats
from delaybox.core.queue import OTHERS, QueueRules
from delaybox.service import Service
from delaybox.wire.json import queue_rules, rendering
from delaybox.wire.json.queue_types import QueueRulesRequest, QueueRulesSet

_ABOUT: Final = {
    "paused": ("Paused", "Due tasks wait; scheduling goes on, and what runs already ends."),
    "timeout": ("Time-out", "Longest time of one attempt of tasks that set none, such as 30s."),
    "keep_result": ("Keep results", "How long results of functions and commands are kept, such as 1h; 0: not at all."),
    "retry": ("Retry", 'Of tasks without a policy: {"max_attempts": 8, "backoff": {"initial": "2s", "max": "10m"}}.'),
    "weight": ("Weight", "Its share beside other queues, where all have work, such as 2 or 0.5; 1 unless set."),
    "concurrency": ("Concurrency", "Most of its tasks that run at a time."),
    "rate": ("Rate", "Most of its tasks that begin in any interval, such as 100/s."),
    "burst": ("Burst", "How many of these may begin together."),
    "slack": ("Slack", 'How long tasks of a priority may wait behind more urgent ones: {"low": "60s"}.'),
    "keys": ("Limits by key", "Limits of each value of a label, as JSON."),
    "key_keep": ("Keep keys", "How long an idempotency key outlives its task."),
    "resume_rate": ("Resume rate", "After a pause: most of what waited that begins in any interval, such as 100/s."),
}  # fmt: skip
"""What a rule is called and what it does. A rule that is missing here is shown by its own name."""
MOST: Final = 200
"""Queues that the list shows: a page of ten thousand would take seconds to make, every two seconds."""
_SPANS: Final = frozenset({"timeout", "keep_result", "key_keep"})


@dataclass(frozen=True, slots=True)
class ShownRule:
    """``own``: what the form's field shows, the queue's own value or what was typed, "" where there is none; ``was``:
    the own value that the form began with; ``effect``: what holds."""

    name: str
    title: str
    about: str
    own: str
    was: str
    effect: str


class QueuePages:
    """The list, and one queue."""

    def __init__(self, frames: Frames, service: Service) -> None:
        self._frames = frames
        self._service = service
        self._looks = Looks(service.queues)

    async def every(self, visit: Visit) -> Answer:
        """The queues that hold something or have rules, or those of them whose names hold what is looked for. Where
        they are many, those with the most work."""
        found = await self._looks.last(renewed=visit.partly)
        ruled = {one.queue: one for one in await self._service.rules.every()}
        rows: dict[str, list[QueueStats]] = {name: [] for name in ruled if name != OTHERS}
        for stats in found:
            rows.setdefault(stats.queue, []).append(stats)
        wanted = visit.query.get("name", "").strip()
        named = [name for name in rows if wanted in name]
        shown = nlargest(MOST, named, key=lambda name: _work(rows[name])) if len(named) > MOST else named
        return self._frames.page(
            visit, "queues.html", rows={name: rows[name] for name in sorted(shown) if rows[name]}, ruled=ruled,
            idle=sorted(name for name in shown if not rows[name]), shown=_shown_short, others=OTHERS, wanted=wanted,
            new=wanted if QUEUE.fullmatch(wanted) and wanted not in rows else "", count=len(named),
            more=len(named) > MOST, partly=not found.complete,
            type_names=rendering.NAME_OF_TYPE,
        )  # fmt: skip

    async def one(self, visit: Visit) -> Answer:
        """One queue with its rules."""
        return await self._one(visit)

    async def change(self, visit: Visit) -> Answer:
        """Sets and clears rules as the form has them; a form that does not fit is shown again with the reason."""
        name = _queue(visit)
        body: dict[str, object] = {}
        try:
            for field in QueueRulesRequest.__struct_fields__:
                text = visit.form.get(field, "").strip()
                # What the form leaves as it is, is not sent: others may have changed it meanwhile.
                if f"was-{field}" in visit.form and text != visit.form[f"was-{field}"].removeprefix("="):
                    body[field] = _value(field, text) if text else None
            asked = queue_rules.parse(json.dumps(body).encode())
            await self._service.rules.set(name, asked.rules, clear=asked.clear)
        except InvalidTask as error:
            return await self._one(visit, problem=str(error), status=400)
        except StoreUnavailable as error:
            # Whoever has typed it shall not have to type it again.
            why = f"{error}. The form below is as you sent it: send it again when the store is back."
            return self._frames.page(
                visit, "queue.html", status=503, away=True, name=name, others=OTHERS, problem=why, newer=(),
                has_own=False, rules=_rules({}, {}, visit.form),
            )  # fmt: skip
        return self._frames.done(visit, _path(name), "The rules are in force." if body else "Nothing was changed.")

    async def pause(self, visit: Visit) -> Answer:
        """Due tasks wait from now on."""
        name = _queue(visit)
        await self._service.rules.set(name, QueueRules(paused=True))
        running = sum(q.in_flight for q in await self._service.queues(pending=False) if q.queue == name)
        drained = (
            f" {running:,} of its tasks still run; the page counts them down." if running else " Nothing of it runs."
        )
        return self._frames.done(visit, _path(name), f"Queue {name} is paused.{drained}")

    async def resume(self, visit: Visit) -> Answer:
        """Due tasks are taken again. Where all others are paused by ``*``, by a rule of its own."""
        name = _queue(visit)
        await self._service.rules.set(name, QueueRules(), clear=["paused"])
        if (await self._service.rules.of(name)).effect.paused:
            await self._service.rules.set(name, QueueRules(paused=False))
        return self._frames.done(visit, _path(name), f"Queue {name} goes on.")

    async def unset(self, visit: Visit) -> Answer:
        """Clears all rules of the queue."""
        name = _queue(visit)
        await self._service.rules.unset(name)
        return self._frames.done(visit, _path(name), f"Queue {name} has no rules of its own any more.")

    async def _one(self, visit: Visit, *, problem: str = "", status: int = 200) -> Answer:
        name = _queue(visit)
        shown = await self._service.rules.of(name)
        own, effect = _plain(shown.own), _plain(shown.effect)
        given = visit.form if problem else {}
        found = await self._looks.last(renewed=visit.partly)
        lanes = [q for q in found if q.queue == name or (name == OTHERS and q.waits)]
        return self._frames.page(
            visit, "queue.html", status=status, name=name, problem=problem, rules=_rules(own, effect, given),
            away=False, paused=bool(shown.effect.paused), ramp=shown.effect.ramp, pace=shown.effect.pace,
            waits=_sentence(shown.waits), newer=shown.newer, lanes=lanes[:MOST], others=OTHERS,
            more=max(0, len(lanes) - MOST),
            has_own=bool(own), type_names=rendering.NAME_OF_TYPE, running=sum(q.in_flight for q in lanes),
        )  # fmt: skip


def _work(lanes: Sequence[QueueStats]) -> tuple[float, ...]:
    """The more, the higher a queue stands where not all are shown."""
    sums = ((lane.ready, lane.in_flight, lane.fired_per_s, lane.pending) for lane in lanes)
    return tuple(map(sum, zip(*sums, strict=True))) or (0.0,) * 4


def _queue(visit: Visit) -> str:
    return queue_rules.queue_of("queue", visit.params["queue"])


def _sentence(waits: str) -> str:
    """Why its due tasks wait, as it stands behind words that say so."""
    why = waits.removeprefix("waits: ")
    return why[:1].upper() + why[1:]


def _path(name: str) -> str:
    return f"/queues/{quote(name, safe='')}"


def _plain(rules: QueueRules) -> dict[str, Any]:
    """The rules that are set, in the form in which they can be set."""
    set_: QueueRulesSet = rendering.rules(rules)
    found: dict[str, Any] = msgspec.to_builtins(set_)
    return found


def _rules(own: Mapping[str, Any], effect: Mapping[str, Any], given: Mapping[str, str]) -> list[ShownRule]:
    """``given``: the form as it was sent, where it is shown again; it is still compared with what it began with."""
    found = []
    for field in QueueRulesRequest.__struct_fields__:
        title, about = _ABOUT.get(field, (field.replace("_", " ").capitalize(), ""))
        was = given.get(f"was-{field}", "=" + _form_text(field, own.get(field))).removeprefix("=")
        shown = _form_text(field, effect.get(field))
        found.append(ShownRule(field, title, about, given.get(field, was), was, shown))
    return found


def _form_text(field: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if field in _SPANS and isinstance(value, int):
        return _span(value)
    return value if isinstance(value, str) else json.dumps(value)


def _span(ms: int) -> str:
    """The shortest text that means just this duration."""
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")):
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms" if ms else "0"


_RATES = frozenset({"rate", "resume_rate"})
_NUMBERS = frozenset({"weight", "concurrency", "burst"})


def _value(field: str, text: str) -> object:
    if text[0] in "{[":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidTask(field, f"{field} is no JSON; correct it") from None
    if text.isascii() and len(text) < 16 and text.replace(".", "", 1).isdigit():
        return text if field in _RATES else float(text) if "." in text else int(text)
    if field in _NUMBERS:
        if text.isascii() and len(text) < 40 and text.removeprefix("-").replace(".", "", 1).isdigit():
            # One that is out of range: that is said of it.
            return float(text) if "." in text else int(text)
        raise InvalidTask(field, f"{field} {text[:40]!r} is no number; give one")
    return text


def _shown_short(rules: QueueRules) -> list[str]:
    """Rules in a few words each, for the list; the pause has a mark of its own."""
    return [
        f"{_ABOUT.get(field, (field, ''))[0]} {_form_text(field, value)}"
        for field, value in _plain(rules).items()
        if field != "paused"
    ]
