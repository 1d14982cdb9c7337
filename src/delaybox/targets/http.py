"""HTTP: sends the request that a task describes, signed, and decides from the answer what becomes of the task."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Final

from google.protobuf.message import DecodeError

from delaybox import __version__
from delaybox.core.delivery import DONE, HAND_BACK, Delivery, Done, Failed, HandBack, Outcome, Report
from delaybox.core.errors import InvalidTask
from delaybox.core.lane import cost_of, split
from delaybox.core.queue import LiveRules
from delaybox.core.result_keeping import wished_ms
from delaybox.core.task import TaskResult
from delaybox.core.webhook import NO_EVENT, WITHOUT_BODY, Url, Webhook, WebhookRules, url_of
from delaybox.targets import http_metrics
from delaybox.targets.http_client import Forbidden, HttpClient, NoAnswer, NotAcked, Resolve
from delaybox.targets.http_connection import HttpAnswer
from delaybox.targets.http_hosts import Host, Hosts, NoRoom, spread_ms
from delaybox.targets.http_put_off import PutOff
from delaybox.targets.http_waits import Waits
from delaybox.targets.places import PlacesInTurn
from delaybox.wire import body as wire_body
from delaybox.wire import webhook_signing
from delaybox.wire.call import BYTES
from delaybox.wire.gen import task_pb2
from delaybox.wire.http_event import as_event
from delaybox.wire.shell_signing import ATTEMPT, DUE, FENCING
from delaybox.wire.trace import handed_out
from delaybox.wire.webhook import UNSTATED_TYPE, webhook_of

log = logging.getLogger("delaybox.webhook")

AGENT: Final = f"DelayBox/{__version__}"
MAX_HELD_BYTES: Final = 32 << 20
"""Bodies of tasks that one process holds at once, waiting or under way; a few copies of each are made."""
_SMALL: Final = 4 * 1024
"""A body of so many bytes always has room: all places together hold few MiB of such, and large ones hold up none."""
_LATER_S: Final = 2.0
"""When a task comes again for whose body there was no room."""
MAX_KEPT_HEADERS: Final = 16 * 1024
"""Bytes of an answer's headers that are kept with a result."""
_AGAIN: Final = frozenset({408, 425})
_BUSY: Final = frozenset({429, 503})
_MOST_UNCHARGED: Final = 1_000
"""A task that was handed out so often without a charge is charged like any other when a server asks it to wait."""
_LEAST_WAIT_MS: Final = 100
_ATTEMPT, _FENCING, _DUE = ATTEMPT.encode(), FENCING.encode(), DUE.encode()
_ID, _TIMESTAMP = webhook_signing.ID.encode(), webhook_signing.TIMESTAMP.encode()
_AGENT: Final = b"user-agent: " + AGENT.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """``cloudevents``: the form of a request whose task names none. ``secrets``: by queue or host name; ``secret``
    signs where none of these does. Without any nothing is signed.

    ``concurrency``: places; each request takes those that its task costs. ``per_host``: requests at once to one host.
    ``per_host_rate``: requests a second to one host; 0: any. ``max_answer``: bytes of an answer's body that are read
    and can be kept. ``longest_wait_ms``: of Retry-After.
    """

    rules: WebhookRules
    cloudevents: str = NO_EVENT
    secret: tuple[str, ...] = field(default=(), repr=False)
    secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    concurrency: int = 1_000
    per_host: int = 50
    per_host_rate: int = 0
    timeout_ms: int = 10_000
    max_answer: int = 64 * 1024
    longest_wait_ms: int = 3_600_000
    ca_file: str = ""


class _First:
    """Asks whether a task may be sent. ``asking``: there was no answer yet."""

    __slots__ = ("_ask", "asking")

    def __init__(self, ask: Callable[[], Awaitable[bool]]) -> None:
        self._ask = ask
        self.asking = False

    async def __call__(self) -> bool:
        self.asking = True
        may = await self._ask()
        self.asking = False
        return may


class HttpTarget:
    """`stop` closes its connections. ``queues``: their rules; ``now_ms``: the time by the store's clock. ``put_off``:
    what waits for hosts that do not answer."""

    side_by_side = True
    """A host that does not answer must not hold up the others' tasks, those with large bodies included."""

    def __init__(
        self,
        options: HttpOptions,
        queues: LiveRules | None = None,
        *,
        resolve: Resolve | None = None,
        now_ms: Callable[[], float] | None = None,
    ) -> None:
        self._options = options
        self._queues = LiveRules() if queues is None else queues
        self._rules = options.rules
        self._client = HttpClient(options.rules, ca_file=options.ca_file, resolve=resolve)
        most_doubted = max(1, options.concurrency // 2)
        most_bytes = MAX_HELD_BYTES // 2
        self._hosts = Hosts(options.per_host, options.per_host_rate, most_doubted=most_doubted, most_bytes=most_bytes)
        self.put_off = PutOff()
        self.ack_first: Callable[[Delivery], Awaitable[bool]] | None = None
        """See `AcksFirst`: a webhook is acked when there is room and a connection: none is lost for want of these."""
        self._waits = Waits()
        self._places = PlacesInTurn(options.concurrency)
        self._held_bytes = 0
        self._now_ms = now_ms or (lambda: time.time() * 1000)
        self._keys = {name: keys_of(secrets) for name, secrets in options.secrets.items()}
        self._key = keys_of(options.secret)

    async def stop(self) -> None:
        """Twice is harmless."""
        self.put_off.stop()
        self._client.close()
        http_metrics.add()

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        """Reports each when its answer is there. Those whose host has no room or does not answer are handed back."""
        arrived = asyncio.get_running_loop().time()
        if len(batch) == 1:
            await self._one(batch[0], report, arrived)
            return
        sending = [asyncio.create_task(self._one(d, report, arrived)) for d in batch]
        try:
            await asyncio.gather(*sending)
        except BaseException:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
            raise

    async def _one(self, d: Delivery, report: Report, arrived: float) -> None:
        try:
            outcome = await self._outcome(d, arrived)
        except Exception as error:  # one task that cannot be sent must not fail the others
            log.exception("webhook %s: a defect of the target", d.id)
            outcome = Failed(f"{type(error).__name__}"[:500])
        report([d], outcome)

    async def _outcome(self, d: Delivery, arrived: float) -> Outcome:
        try:
            task = wire_body.decode(d.body)
            asked = webhook_of(task) or Webhook("")
            url = url_of(asked.url)
        except (DecodeError, InvalidTask) as error:
            return Failed(f"it is no webhook: {error}"[:500], retryable=False)
        if problem := self._rules.url_problem(url):
            http_metrics.sent(url.place, "refused", None)
            return Failed(f"not sent: its URL {problem}", retryable=False)
        size = len(d.body)
        if size > _SMALL and self._held_bytes + size > MAX_HELD_BYTES and self._held_bytes:
            http_metrics.put_off()
            return HandBack(delay_ms=spread_ms(_LATER_S))
        cost = cost_of(d.lane)
        if cost > self._places.total:
            return HandBack(delay_ms=spread_ms(_LATER_S))
        self._held_bytes += size
        try:
            await self._places.enter(cost)
            try:
                return await self._sent(d, arrived, task, asked, url)
            finally:
                self._places.leave(cost)
        finally:
            self._held_bytes -= size

    async def _sent(self, d: Delivery, arrived: float, task: task_pb2.Task, asked: Webhook, url: Url) -> Outcome:
        host = self._hosts.of(url.scheme, url.host, url.port)
        self.put_off.came(host, d.task_id)
        if (back := self._asked_to_wait(d, url)) is not None:
            return back
        try:
            return await self._sent_now(d, arrived, task, asked, url, host)
        finally:
            self._waits.ended(url, d.task_id)

    def _asked_to_wait(self, d: Delivery, url: Url) -> HandBack | None:
        if not (wait_ms := self._waits.put_off_ms(url, asyncio.get_running_loop().time(), d.lease_id, d.task_id)):
            return None
        http_metrics.put_off()
        return HandBack(delay_ms=wait_ms)

    async def _sent_now(
        self, d: Delivery, arrived: float, task: task_pb2.Task, asked: Webhook, url: Url, host: Host
    ) -> Outcome:
        loop = asyncio.get_running_loop()
        try:
            share = await self._hosts.enter(host, loop.time(), len(d.body))
        except NoRoom as full:
            http_metrics.put_off()
            if full.silent and d.fired_ms:
                now_ms = d.fired_ms + (loop.time() - arrived) * 1000
                return self.put_off.put_off(host, url.place, d, full.after_ms, now_ms)
            return HandBack(delay_ms=full.after_ms)
        # It may have stood in the line of its host since it asked.
        if (back := self._asked_to_wait(d, url)) is not None:
            self._hosts.leave(host, loop.time(), None, answered=None, share=share, size=len(d.body))
            if host.closed:
                self.put_off.changed(host)
            return back
        first = _First(partial(self.ack_first, d)) if d.once and self.ack_first is not None else None
        began = loop.time()
        late = max(0.0, (d.fired_ms - d.due_ms) / 1000 + began - arrived) if d.fired_ms else None
        answered: bool | None = None
        try:
            own = self._queues.of(split(d.lane).queue)
            timeout_ms = task.timeout_ms or own.timeout_ms or self._options.timeout_ms
            keep_ms = 0 if task.no_result else wished_ms(task.keep_result_ms, queue_ms=own.keep_result_ms)
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    answer = await self._client.request(
                        url,
                        self._request(d, task, asked, url),
                        self._options.max_answer,
                        head=asked.method == "HEAD",
                        first=first,
                    )
            except TimeoutError:
                if first is not None and first.asking:
                    # The store is slow, of which its host knows nothing.
                    return HandBack(delay_ms=spread_ms(_LATER_S))
                answered = False
                http_metrics.sent(url.place, "no_answer", loop.time() - began, late, d.trace)
                return self._failed(keep_ms, f"no whole answer from {url.place} within {timeout_ms} ms", began)
            except NoAnswer as error:
                answered = False
                http_metrics.sent(url.place, "no_answer", loop.time() - began, late, d.trace)
                return self._failed(keep_ms, str(error), began)
            except Forbidden as error:
                http_metrics.sent(url.place, "refused", None)
                return Failed(f"not sent: its URL {error}", retryable=False)
            except NotAcked:
                return HAND_BACK  # which nobody counts: others may have it
            answered = True
            http_metrics.sent(url.place, f"{answer.status // 100}xx", loop.time() - began, late, d.trace)
            return self._of_answer(d, keep_ms, asked, url, answer, began)
        finally:
            was_closed = host.closed
            took_s = loop.time() - began
            self._hosts.leave(host, loop.time(), took_s, answered=answered, share=share, size=len(d.body))
            if host.closed or was_closed:
                self.put_off.changed(host)
            if host.closed != was_closed:
                http_metrics.hosts_closed(self._hosts.closed)
                http_metrics.host_closed(url.place, host.closed)

    def _request(self, d: Delivery, task: task_pb2.Task, asked: Webhook, url: Url) -> bytes:
        """The whole request, as it is written to the connection."""
        queue = split(d.lane).queue
        header, payload = as_event(
            asked.cloudevents or self._options.cloudevents,
            asked.method,
            wire_body.pairs(task.header),
            task.payload,
            event_id=d.id,
            queue=queue,
            time_ms=d.due_ms,
        )
        return request_bytes(
            asked,
            url,
            handed_out(header, d.trace),
            payload,
            message_id=d.id,
            attempt=d.attempt + 1,
            token=d.token,
            due_ms=d.due_ms,
            timestamp=int(self._now_ms() / 1000),
            keys=self._keys_for(queue, url.host),
        )

    def _keys_for(self, queue: str, host: str) -> tuple[bytes, ...]:
        return self._keys.get(host) or self._keys.get(queue) or self._key

    def _of_answer(
        self, d: Delivery, keep_ms: int, asked: Webhook, url: Url, answer: HttpAnswer, began: float
    ) -> Outcome:
        status = answer.status
        if 200 <= status < 300:
            return Done(self._result(answer, began, ""), keep_ms) if keep_ms else DONE
        reason = f"the answer was {status}{phrase(status)}"
        if status < 400:
            where = "; redirects are not followed: give the URL to which it leads" if status < 400 else ""
            return self._failed(keep_ms, reason + where, began, answer, retryable=False)
        wait_ms = retry_after_ms(answer.headers.get("retry-after", ""), self._now_ms()) if status in _BUSY else None
        if wait_ms is not None:
            self._waits.asked(url, asyncio.get_running_loop().time(), wait_ms / 1000)
            if wait_ms <= self._options.longest_wait_ms and d.token - d.attempt <= _MOST_UNCHARGED:
                return HandBack(delay_ms=max(wait_ms, _LEAST_WAIT_MS))
            wait_ms = min(wait_ms, self._options.longest_wait_ms)
        again = status >= 500 or status in _AGAIN or status in _BUSY or status in asked.retry_on
        return self._failed(keep_ms, reason, began, answer, retryable=again, delay_ms=wait_ms)

    def _failed(
        self,
        keep_ms: int,
        reason: str,
        began: float,
        answer: HttpAnswer | None = None,
        *,
        retryable: bool = True,
        delay_ms: int | None = None,
    ) -> Failed:
        result = self._result(answer, began, reason) if answer is not None and keep_ms else None
        return Failed(reason[:500], retryable=retryable, result=result, keep_ms=keep_ms, delay_ms=delay_ms)

    def _result(self, answer: HttpAnswer, began: float, reason: str) -> TaskResult:
        headers: dict[str, str] = {}
        left = MAX_KEPT_HEADERS
        for name, value in answer.headers.items():
            left -= len(name) + len(value)
            if left < 0:
                break
            if name != "set-cookie":
                headers[name] = value
        return TaskResult(
            ok=not reason,
            finished_ms=int(self._now_ms()),
            duration_ms=int((asyncio.get_running_loop().time() - began) * 1000),
            output=answer.body,
            truncated=answer.truncated,
            reason=reason,
            content_type=BYTES,
            status=answer.status,
            headers=headers,
        )


def request_bytes(
    asked: Webhook,
    url: Url,
    header: Mapping[str, bytes],
    payload: bytes,
    *,
    message_id: str,
    attempt: int,
    token: int,
    due_ms: int,
    timestamp: int,
    keys: Sequence[bytes],
) -> bytes:
    """A task's request as HTTP/1.1 writes it. ``timestamp``: Unix seconds. ``keys`` sign it; none: it is unsigned."""
    own = (b"%b: %d" % (_ATTEMPT, attempt), b"%b: %d" % (_FENCING, token), b"%b: %d" % (_DUE, due_ms))
    return signed_request(
        asked.method, url, header, payload, own, message_id=message_id, timestamp=timestamp, keys=keys
    )


def signed_request(
    method: str,
    url: Url,
    header: Mapping[str, bytes],
    payload: bytes,
    own: Sequence[bytes] = (),
    *,
    message_id: str,
    timestamp: int,
    keys: Sequence[bytes],
) -> bytes:
    """A request with the headers of Standard Webhooks. ``own``: more lines of its head. The others: `request_bytes`."""
    names = {name.lower() for name in header}
    lines = [_first_lines(method, url)]
    if "user-agent" not in names:
        lines.append(_AGENT)
    if "accept" not in names:
        lines.append(b"accept: */*")
    if payload and "content-type" not in names:
        lines.append(b"content-type: " + UNSTATED_TYPE)
    if method not in WITHOUT_BODY:
        lines.append(b"content-length: %d" % len(payload))
    lines += [name.encode() + b": " + value for name, value in header.items()]
    lines += [
        b"%b: %b" % (_ID, message_id.encode()),
        b"%b: %d" % (_TIMESTAMP, timestamp),
        *own,
    ]
    if keys:
        signature = webhook_signing.sign(message_id, timestamp, payload, keys)
        lines.append(f"{webhook_signing.SIGNATURE}: {signature}".encode())
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if method in WITHOUT_BODY else payload)


# Most requests are like ones before them.
@lru_cache(maxsize=1024)
def _first_lines(method: str, url: Url) -> bytes:
    return f"{method} {url.path} HTTP/1.1\r\nhost: {url.header}".encode()


def keys_of(secrets: Sequence[str]) -> tuple[bytes, ...]:
    """What signs, for each of the secrets."""
    return tuple(webhook_signing.key_of(secret) for secret in secrets)


def phrase(status: int) -> str:
    """What a status means, such as " (Not Found)"; "" for one that is not known."""
    try:
        return f" ({HTTPStatus(status).phrase})"
    except ValueError:
        return ""


def retry_after_ms(text: str, now_ms: float) -> int | None:
    """The wait that a Retry-After asks for, in seconds or as a moment; None for none that can be read."""
    if text.isascii() and text.isdigit():
        return int(text[:12]) * 1000
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, int(moment.timestamp() * 1000 - now_ms))
    except (ValueError, OverflowError):  # also of numbers that no calendar has
        return None
