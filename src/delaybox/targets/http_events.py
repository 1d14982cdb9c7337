"""The URL of the feed of events: CloudEvents in JSON, signed as Standard Webhooks, those of one task in their order.

An `Outlet`. Some requests are under way at once, for different tasks. Whatever the URL's server answers but a refusal
of what was sent, an event waits for it in the feed.
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
"""Answers about what was sent. Any other may be mended on the other side, or in the configuration."""
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
        try:
            for run in _runs(items):
                lanes: list[list[FeedItem]] = [[] for _ in range(LANES)]
                for item in run:
                    # By random bits of the id: the same lane in every process.
                    lane = item.what.task_id[-1] % LANES if isinstance(item.what, StoredEvent) else 0
                    lanes[lane].append(item)
                problems: list[EventsUnsent] = []
                await asyncio.gather(*(self._lane(lane, problems) for lane in lanes if lane))
                if problems:
                    raise problems[0]
        except EventsUnsent as error:
            self._pause_s = min(max(self._pause_s * 2, RETRY_S), _LONGEST_RETRY_S)
            # Spread, so that many senders do not come back at once; it need not be a secure draw.
            error.after_s = max(error.after_s, self._pause_s * random.uniform(0.75, 1.0))
            raise
        self._pause_s = 0.0

    async def _lane(self, items: Sequence[FeedItem], problems: list[EventsUnsent]) -> None:
        """Ends early when this lane or another one has a problem."""
        try:
            for at in range(0, len(items), self._batch):
                if problems:
                    return
                await self._sent(items[at : at + self._batch])
        except EventsUnsent as problem:
            problems.append(problem)

    async def _sent(self, items: Sequence[FeedItem]) -> None:
        answer = await self._answer(items)
        status = answer.status
        if 200 <= status < 300:
            event_metrics.moved("webhook", "sent", len(items))
            event_metrics.moved("webhook", "missed", sum(isinstance(item.what, Missed) for item in items))
        elif status in _REFUSED and len(items) > 1:
            # The others must not be lost for a single one.
            for item in items:
                await self._sent([item])
        elif status in _REFUSED:
            event_metrics.moved("webhook", "refused", 1)
            log.error(
                "%s refuses event %s, which is left out: the answer was %d%s",
                self._url.place,
                items[0].position,
                status,
                phrase(status),
            )
        else:
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
