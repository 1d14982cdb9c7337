"""The webhook process: sends HTTP tasks. An engine of its own claims them: slow servers hold up nothing else."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from functools import partial

from delaybox.core.errors import ConfigError
from delaybox.core.lane import ANY_QUEUE, lane_of
from delaybox.core.limits import MAX_COST
from delaybox.core.queue import LiveRules
from delaybox.core.task import TaskType
from delaybox.engine.engine import Engine
from delaybox.engine.options import EngineOptions
from delaybox.processes import child, collector
from delaybox.processes.child import Stopping
from delaybox.processes.spec import ProcessKind
from delaybox.roles import opening
from delaybox.roles.engines import claiming
from delaybox.roles.settings import WebhookSettings
from delaybox.store.resuming import resume
from delaybox.targets.http import HttpOptions, HttpTarget

log = logging.getLogger("delaybox.webhook")

_SETTLE_MS = 8
"""How long an ack waits for others: at 500 lone webhooks a second about four go together."""
_MANY = 100
"""With fewer places than this an ack waits for no others, because its place would be missed."""


async def serve(settings: WebhookSettings) -> int:
    """The process's whole life; returns its exit code."""
    stopping = Stopping()
    settings = await opening.prepared(settings)
    async with contextlib.AsyncExitStack() as stack:
        queues = LiveRules()
        target = _target(settings, queues)
        stack.push_async_callback(target.stop)
        if settings.again:
            child.ready(store_id=settings.store_id)
        store = await opening.opened(settings, stopping)
        if store is None:
            return 0
        stack.push_async_callback(store.close)
        target.put_off.resume = partial(resume, store)
        engine = Engine(store, {TaskType.HTTP: target}, engine_options(settings), rules=queues)
        collector.set_apart()
        # When it takes nothing more, and before the store is closed.
        stack.push_async_callback(target.put_off.leave)
        await engine.start()
        stack.push_async_callback(engine.stop, settings.grace_s)
        if not settings.again:
            child.ready(store_id=settings.store_id)
        await stopping.wait()
    return 0


def engine_options(settings: WebhookSettings) -> EngineOptions:
    """How its engine claims."""
    return replace(
        claiming(settings, ProcessKind.WEBHOOK),
        capacity=settings.capacity,
        concurrency=settings.concurrency,
        places=settings.concurrency,
        lanes=webhook_lanes(settings.concurrency),
        settle_ms=_SETTLE_MS if settings.concurrency >= _MANY else 0,
        catch_up_rate=settings.catch_up_rate,
    )


def webhook_lanes(places: int) -> tuple[bytes, ...]:
    """The lanes of webhooks that a process with so many places carries out; none: all."""
    return () if places >= MAX_COST else (lane_of(TaskType.HTTP, ANY_QUEUE),)


def _target(s: WebhookSettings, queues: LiveRules) -> HttpTarget:
    try:
        target = HttpTarget(
            HttpOptions(
                rules=s.rules,
                cloudevents=s.cloudevents,
                secret=s.secret,
                secrets=s.secrets,
                concurrency=s.concurrency,
                per_host=s.per_host,
                per_host_rate=s.per_host_rate,
                timeout_ms=s.timeout_ms,
                max_answer=s.max_answer,
                longest_wait_ms=s.longest_wait_ms,
                ca_file=s.ca_file,
            ),
            queues,
        )
    except OSError as error:
        raise ConfigError(
            f"webhooks.caFile is {s.ca_file!r}, which cannot be read as certificates ({error.strerror or error}); name "
            "a PEM file"
        ) from None
    log.info("webhooks: %d at once, %d to one host", s.concurrency, s.per_host)
    if not s.secret and not s.secrets:
        log.warning(
            "webhooks go out unsigned: set webhooks.secret, so that receivers can tell them from others' requests"
        )
    return target


if __name__ == "__main__":
    child.main(WebhookSettings, serve)
