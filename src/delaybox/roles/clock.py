"""The clock process: keeps time for the store, publishes PUB_SUB tasks, and reads the input channel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from delaybox.api.channel.intake import ChannelIntake, ChannelSettings
from delaybox.core.delivery import Target
from delaybox.core.errors import ConfigError, DelayBoxError
from delaybox.core.events import EventQuery
from delaybox.core.membership import Activity, member_id
from delaybox.core.task import TaskType
from delaybox.core.webhook import url_of
from delaybox.engine.engine import Engine
from delaybox.processes import child, collector
from delaybox.processes.child import Stopping
from delaybox.processes.spec import ProcessKind
from delaybox.roles import opening
from delaybox.roles.engines import claiming
from delaybox.roles.settings import ClockSettings, EventsOut, KafkaOut
from delaybox.store import firing
from delaybox.store.publish import listeners
from delaybox.store.store import Store
from delaybox.targets.event_mover import EventMover, Outlet
from delaybox.targets.pubsub import PubSubTarget
from delaybox.targets.stream_events import EventStream

if TYPE_CHECKING:
    from delaybox.targets.http_events import EventWebhook
    from delaybox.targets.kafka import KafkaTarget

log = logging.getLogger("delaybox.clock")

WAIT_FOR_SUBSCRIBERS_S = 3.0
FOLLOW_S = 1.0
"""Pause between two looks at how the nodes publish."""


async def serve(settings: ClockSettings) -> int:
    """The process's whole life; returns its exit code."""
    stopping = Stopping()
    settings = await opening.prepared(settings)
    async with contextlib.AsyncExitStack() as stack:
        ready = settings.again
        if ready:
            # If the server is away it may take long until it is back; meanwhile this process has no heartbeat.
            child.ready(store_id=settings.store_id)
        store = await opening.opened(settings, stopping)
        if store is None:
            return 0
        stack.push_async_callback(store.close)
        if settings.follows_nodes:
            collector.set_apart()
            await _follow(settings, store, stopping, ready=ready)
            return 0
        kafka = await _kafka(settings, settings.kafka, store.partitions, stack) if settings.kafka else None
        if settings.node_id:
            await _note_firing(settings, store)
        movers: list[EventMover] = []
        engine = _engine(settings, store, kafka, movers)
        if settings.await_subscribers and not (settings.again or settings.stream or settings.kafka):
            with contextlib.suppress(DelayBoxError):
                await _await_subscribers(settings.channel, store, stopping)
        collector.set_apart()
        await engine.start()
        stack.push_async_callback(engine.stop, settings.grace_s)
        await _send_events(settings, store, kafka, stack, movers)
        if settings.input_channel:
            intake = ChannelIntake(
                store,
                ChannelSettings(
                    channel=settings.input_channel,
                    node_id=member_id(settings.node_id, ProcessKind.CLOCK, settings.number),
                    types=engine.serves + settings.types_beside,
                    max_payload_bytes=settings.payload_limit,
                ),
            )
            intake.start()
            stack.push_async_callback(intake.stop)
        if not ready:
            child.ready(store_id=settings.store_id)
        await stopping.wait()
    return 0


async def _note_firing(s: ClockSettings, store: Store) -> None:
    how = firing.Firing(
        channel=s.channel,
        stream=s.stream,
        in_place=s.in_place,
        require_subscriber=s.require_subscriber,
        kafka=s.kafka is not None,
    )
    try:
        await firing.note(store, how)
    except DelayBoxError as error:
        log.warning("workers that keep time are not informed how this node publishes PUB_SUB tasks: %s", error)


async def _follow(settings: ClockSettings, store: Store, stopping: Stopping, *, ready: bool) -> None:
    """Keeps time as a worker's child, and publishes as the nodes do, also when that changes."""
    known: firing.Firing | None = None
    engine: Engine | None = None
    try:
        while not stopping.is_set():
            with contextlib.suppress(DelayBoxError):
                found = await firing.noted(store)
                if found != known:
                    if engine is not None:
                        await engine.stop(settings.grace_s)
                        engine = None
                    if found.kafka:
                        log.warning(
                            "this worker keeps no time: the nodes of this store send PUB_SUB tasks to Kafka, which "
                            "they alone can do. Start it with --no-clock"
                        )
                    else:
                        engine = _engine(_as_noted(settings, found), store, None)
                        await engine.start()
                    known = found
            if known is not None and not ready:
                child.ready(store_id=store.store_id)
                ready = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), FOLLOW_S)
    finally:
        if engine is not None:
            await engine.stop(settings.grace_s)


def _as_noted(settings: ClockSettings, found: firing.Firing) -> ClockSettings:
    return replace(
        settings,
        channel=found.channel,
        stream=found.stream,
        in_place=found.in_place,
        require_subscriber=found.require_subscriber,
    )


async def _kafka(
    settings: ClockSettings, out: KafkaOut, partitions: int, stack: contextlib.AsyncExitStack
) -> KafkaTarget:
    try:
        from delaybox.targets.kafka import KafkaTarget
    except ImportError:
        raise ConfigError(
            "kafka.enabled is true, but the package confluent-kafka is not installed; install delaybox[kafka]"
        ) from None
    target = KafkaTarget(
        out.kafka,
        out.rules,
        value=out.value,
        source=f"/delaybox/{settings.prefix}",
        compression=out.compression,
        linger_ms=out.linger_ms,
        delivery_timeout_ms=out.delivery_timeout_ms,
        max_payload_bytes=settings.payload_limit,
        partitions=partitions,
        signing_keys=out.signing_keys,
    )
    stack.push_async_callback(target.stop)
    await target.start()
    log.info("PUB_SUB tasks go to topic %s of Kafka at %s", out.rules.default, out.kafka.describe())
    return target


async def _send_events(
    settings: ClockSettings,
    store: Store,
    kafka: KafkaTarget | None,
    stack: contextlib.AsyncExitStack,
    movers: list[EventMover],
) -> None:
    """Begins to send events to the topic, the URL and the stream that are set; who sends them is added to
    ``movers``."""
    source = f"/delaybox/{settings.prefix}"
    outlets: list[Outlet] = []
    if kafka is not None and settings.kafka is not None and settings.kafka.events_topic:
        from delaybox.targets.kafka_events import EventTopic

        outlets.append(EventTopic(kafka.link, topic=settings.kafka.events_topic, source=source))
    if settings.events_stream:
        outlets.append(EventStream(store, length=settings.events_stream, source=source))
    if settings.events_webhook is not None:
        webhook = _events_webhook(settings.events_webhook, source)
        stack.callback(webhook.close)
        outlets.append(webhook)
    for outlet in outlets:
        member = member_id(settings.node_id, ProcessKind.CLOCK, settings.number)
        mover = EventMover(store, outlet, member=member)
        movers.append(mover)
        mover.start()
        stack.push_async_callback(mover.stop)


def _events_webhook(out: EventsOut, source: str) -> EventWebhook:
    from delaybox.targets.http_events import EventWebhook

    try:
        webhook = EventWebhook(
            url_of(out.url),
            out.rules,
            source=source,
            secrets=out.secret,
            wanted=EventQuery(kinds=frozenset(out.kinds), queue=out.queue or None),
            batch=out.batch,
            timeout_ms=out.timeout_ms,
            ca_file=out.ca_file,
        )
    except OSError as error:
        raise ConfigError(
            f"webhooks.caFile is {out.ca_file!r}, which cannot be read as certificates ({error.strerror or error}); "
            "name a PEM file"
        ) from None
    if not out.secret:
        log.warning(
            "events go to %s unsigned: set events.webhook.secret, so that it can tell them from others' requests",
            webhook.name,
        )
    return webhook


def _engine(
    settings: ClockSettings, store: Store, kafka: KafkaTarget | None, movers: Sequence[EventMover] = ()
) -> Engine:
    s = settings
    targets: dict[TaskType, Target] = {}
    if kafka is not None:
        targets[TaskType.PUB_SUB] = kafka
        if s.kafka is not None and s.kafka.commands:
            targets[TaskType.SHELL_CMD] = kafka
    else:
        targets[TaskType.PUB_SUB] = PubSubTarget(
            store, channel=s.channel, stream=s.stream, require_subscriber=s.require_subscriber
        )
    options = replace(
        claiming(s, ProcessKind.CLOCK),
        clock=True,
        capacity=s.capacity,
        channel=s.channel if s.in_place and kafka is None else "",
        stream=s.stream,
        catch_up_rate=s.catch_up_rate,
        dead_age_ms=s.dead_age_ms,
        quarantine_age_ms=s.quarantine_age_ms,
    )

    def facts() -> Activity:
        trouble = kafka.trouble if kafka is not None else ""
        waits = [f"PUB_SUB tasks wait: {trouble}"] if trouble else []
        return Activity(troubles=(*waits, *(mover.trouble for mover in movers if mover.trouble)))

    return Engine(store, targets, options, facts=facts)


async def _await_subscribers(channel: str, store: Store, stopping: Stopping) -> None:
    """After the embedded server came back, waits a moment for its subscribers before overdue tasks are fired.

    They were cut off when the server ended, and messages that are published before they are back reach nobody.
    """
    loop = asyncio.get_running_loop()
    overdue = sum(c.due for c in await store.counts())
    deadline = loop.time() + WAIT_FOR_SUBSCRIBERS_S
    while overdue and not stopping.is_set() and loop.time() < deadline:
        if await listeners(store, channel):
            return
        await asyncio.sleep(0.05)
    if overdue:
        log.warning("%d tasks are overdue and nobody listens on %s yet; firing them all the same", overdue, channel)


if __name__ == "__main__":
    child.main(ClockSettings, serve)
