"""The URL of the feed of events: CloudEvents in JSON, signed as Standard Webhooks, those of one task in their order.

An `Outlet`. Some requests are under way at once, for different tasks. An event is left out only where the URL's server
refuses it but takes others; whatever else it answers, all events wait for it in the feed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import json

from delaybox.core.events import EventQuery, FeedItem, Missed, StoredEvent
from delaybox.core.webhook import Url, WebhookRules
from delaybox.store import event_metrics, events
from delaybox.targets.event_mover import RETRY_S, EventsUnsent
from delaybox.targets.http import keys_of, phrase, retry_after_ms, signed_request
from delaybox.targets.http_client import Forbidden, HttpClient, NoAnswer, Resolve
from delaybox.targets.http_connection import HttpAnswer
from delaybox.wire import cloudevents
from delaybox.wire.json.events import cloud_event

log = logging.getLogger("delaybox.webhook")

LANES: Final = 8
"""Requests at once. All events of one task go through one of them."""
_PART: Final = 100
"""Events in one part for each event of a request: so many come twice at most after a kill."""
_LONGEST_RETRY_S: Final = 30.0
_LONGEST_WAIT_S: Final = 300.0
_REFUSED: Final = frozenset({400, 413, 415, 422})
"""Answers about what was sent, unless the server gives them to everything, as some do where a signature does not fit.
Any other answer may be mended on the other side, or in the configuration."""
_READ: Final = 16 * 1024
"""Bytes of an answer that are read, so that its connection can be used again. What it answers besides its status is
not looked at."""
_encode = json.Encoder().encode


class EventWebhook:
    """``batch``: events in one request at most; 1: each request is one event. ``secrets``: sign it. ``source``: of the
    CloudEvents. Close it."""

    way: events.Way = "webhook"

    def __init__(
        self,
        url: Url,
        rules: WebhookRules,
        *,
        source: str,
        secrets: Sequence[str] = (),
        wanted: EventQuery | None = None,
        batch: int = 1,
        timeout_ms: int = 10_000,
        ca_file: str = "",
        resolve: Resolve | None = None,
    ) -> None:
        self._url = url
        self._source = source
        self._keys = keys_of(secrets)
        self._batch = batch
        self._timeout_ms = timeout_ms
        self._client = HttpClient(rules, ca_file=ca_file, resolve=resolve)
        self._pause_s = 0.0
        self._done: set[str] = set()
        """Positions of what was taken, or left out, of a part that is not done yet: it does not go out again."""
        self._doubted: list[tuple[FeedItem, int]] = []
        """What was refused, with the status, while it is not known whether the server takes anything."""
        self._good: FeedItem | None = None
        """The last event that the server took."""
        self.wanted = wanted or EventQuery()
        self.most = _PART if batch == 1 else batch * LANES

    @property
    def name(self) -> str:
        """See `Outlet`."""
        return self._url.place

    def trouble(self) -> str:
        """See `Outlet`."""
        return ""

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()

    async def send(self, items: Sequence[FeedItem]) -> None:
        """See `Outlet`."""
        self._done.intersection_update(item.position for item in items)
        self._doubted.clear()
        try:
            for run in _runs(items):
                while left := [item for item in run if item.position not in self._done]:
                    await self._send_by_lanes(left)
                    if self._doubted:
                        await self._judge_doubted(items)
        except EventsUnsent as error:
            self._pause_s = min(max(self._pause_s * 2, RETRY_S), _LONGEST_RETRY_S)
            # Spread, so that many senders do not come back at once; it need not be a secure draw.
            error.after_s = max(error.after_s, self._pause_s * random.uniform(0.75, 1.0))
            raise
        self._done.clear()
        self._pause_s = 0.0

    async def _send_by_lanes(self, items: Sequence[FeedItem]) -> None:
        """Sends all, or the first ones where some are refused: then it is to be called again with what is left."""
        lanes: list[list[FeedItem]] = [[] for _ in range(LANES)]
        for item in items:
            # By random bits of the id: the same lane in every process.
            lane = item.what.task_id[-1] % LANES if isinstance(item.what, StoredEvent) else 0
            lanes[lane].append(item)
        problems: list[EventsUnsent] = []
        await asyncio.gather(*(self._lane(lane, problems) for lane in lanes if lane))
        if problems:
            raise problems[0]

    async def _lane(self, items: Sequence[FeedItem], problems: list[EventsUnsent]) -> None:
        """Ends early when this lane or another one has a problem, and when an event is refused: what comes behind it
        may be of the same task."""
        try:
            for at in range(0, len(items), self._batch):
                if problems or not await self._sent(items[at : at + self._batch]):
                    return
        except EventsUnsent as problem:
            problems.append(problem)

    async def _sent(self, items: Sequence[FeedItem]) -> bool:
        """False where one was refused: those behind it have not gone out."""
        status = await self._status(items)
        if status not in _REFUSED:
            self._took(items)
            return True
        if len(items) == 1:
            self._doubted.append((items[0], status))
            return False
        # The others must not be lost for a single one.
        for item in items:
            if not await self._sent([item]):
                return False
        return True

    def _took(self, items: Sequence[FeedItem]) -> None:
        event_metrics.moved("webhook", "sent", len(items))
        event_metrics.moved("webhook", "missed", sum(isinstance(item.what, Missed) for item in items))
        self._done.update(item.position for item in items)
        self._good = items[-1]

    async def _judge_doubted(self, part: Sequence[FeedItem]) -> None:
        """Leaves out what is refused again, once the server has taken again what it took before, or another event of
        the part: so it is not that it refuses everything, as with a wrong secret. EventsUnsent where it does, or where
        that is not known."""
        status = self._doubted[-1][1] if self._good is None else await self._status([self._good])
        if status in _REFUSED and not await self._takes_another(part):
            raise EventsUnsent(
                f"it refuses whatever is sent: the answer was {status}{phrase(status)}; if that is for the signature, "
                "give both sides the same secret (events.webhook.secret)"
            )
        while self._doubted:
            item, _ = self._doubted[-1]
            status = await self._status([item])
            if status in _REFUSED:
                event_metrics.moved("webhook", "refused", 1)
                log.error(
                    "%s refuses event %s, which is left out: the answer was %d%s",
                    self._url.place,
                    item.position,
                    status,
                    phrase(status),
                )
                self._done.add(item.position)
            else:
                self._took([item])
            self._doubted.pop()

    async def _takes_another(self, part: Sequence[FeedItem]) -> bool:
        """Whether it takes one of a few that it did not get yet: of other tasks than those of which one was refused,
        each the first that is left of its task; of other kinds, if there are such."""
        refused = [item.what for item, _ in self._doubted if isinstance(item.what, StoredEvent)]
        tasks, kinds = {event.task_id for event in refused}, {event.kind for event in refused}
        first: dict[bytes, tuple[bool, FeedItem]] = {}
        for item in part:
            if (
                isinstance(item.what, StoredEvent)
                and item.position not in self._done
                and item.what.task_id not in tasks
            ):
                first.setdefault(item.what.task_id, (item.what.kind in kinds, item))
        for _, item in sorted(first.values(), key=lambda pair: pair[0])[:LANES]:
            if await self._status([item]) not in _REFUSED:
                self._took([item])
                return True
        return False

    async def _status(self, items: Sequence[FeedItem]) -> int:
        """Of the answer to a request with these: one of success, or of `_REFUSED`. EventsUnsent for any other."""
        answer = await self._answer(items)
        status = answer.status
        if 200 <= status < 300 or status in _REFUSED:
            return status
        hint = "; redirects are not followed: give the URL to which it leads" if 300 <= status < 400 else ""
        wait_ms = retry_after_ms(answer.headers.get("retry-after", ""), time.time() * 1000)
        after_s = min((wait_ms or 0) / 1000, _LONGEST_WAIT_S)
        raise EventsUnsent(f"the answer was {status}{phrase(status)}{hint}", after_s)

    async def _answer(self, items: Sequence[FeedItem]) -> HttpAnswer:
        """EventsUnsent where there is none."""
        made = [cloud_event(item, self._source) for item in items]
        one = self._batch == 1
        request = signed_request(
            "POST",
            self._url,
            {cloudevents.CONTENT_TYPE: (cloudevents.STRUCTURED if one else cloudevents.BATCH).encode()},
            _encode(made[0] if one else made),
            message_id=_message_id(items),
            timestamp=int(time.time()),
            keys=self._keys,
        )
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                return await self._client.request(self._url, request, _READ)
        except TimeoutError:
            raise EventsUnsent(f"no whole answer within {self._timeout_ms} ms") from None
        except NoAnswer as error:
            raise EventsUnsent(str(error)) from None
        except Forbidden as error:
            raise EventsUnsent(f"its URL {error}") from None


def _message_id(items: Sequence[FeedItem]) -> str:
    """The same when the same is sent again. Without a dot, which parts the id from the rest of what is signed."""
    first, last = items[0].position, items[-1].position
    return (first if first == last else f"{first}_{last}").replace(".", "-")


def _runs(items: Sequence[FeedItem]) -> Iterator[Sequence[FeedItem]]:
    """Parts that can be sent side by side: that something is missing comes behind all that was before it."""
    begin = 0
    for at, item in enumerate(items):
        if isinstance(item.what, Missed):
            if begin < at:
                yield items[begin:at]
            yield [item]
            begin = at + 1
    if begin < len(items):
        yield items[begin:]
