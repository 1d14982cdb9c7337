"""The Kafka process: takes tasks from topics and does nothing else. Its heartbeat reports why it cannot read now, if
so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from confluent_kafka import KafkaException

from delaybox import metrics
from delaybox.api.kafka.intake import KafkaIntake
from delaybox.api.kafka.settings import IntakeSettings
from delaybox.core.errors import ConfigError
from delaybox.processes import child
from delaybox.processes.child import Stopping
from delaybox.processes.spec import ProcessKind
from delaybox.roles import opening
from delaybox.roles.beating import Beating
from delaybox.service import RecordService
from delaybox.store.asyncio_end import end
from delaybox.store.presence import keep_looking

log = logging.getLogger("delaybox.kafka")


async def serve(settings: IntakeSettings) -> int:
    """The process's whole life; returns its exit code."""
    if not settings.sources:
        raise ConfigError("kafka.schedulerTopic names no topic; give one, or several with commas between them")
    stopping = Stopping()
    settings = await opening.prepared(settings)
    if settings.instance and settings.number > 1:
        # Only one member of a group may have an instance name.
        settings = replace(settings, instance=f"{settings.instance}-{settings.number}")
    child.ready(store_id=settings.store_id)
    store = await opening.opened(settings, stopping)
    if store is None:
        return 0
    beating = Beating(settings, ProcessKind.KAFKA)
    looking = asyncio.create_task(keep_looking(store.presence, store.look), name="delaybox-store-look")
    try:
        await beating.begin(store)
        return await _read(settings, RecordService(store, on_scheduled=metrics.scheduled), beating, stopping)
    finally:
        await beating.end()
        await end(looking)
        await store.close()


async def _read(settings: IntakeSettings, service: RecordService, beating: Beating, stopping: Stopping) -> int:
    def troubles(now: Sequence[str]) -> None:
        beating.troubles = [f"tasks are not taken from Kafka: {trouble}" for trouble in now]

    async def stop() -> None:
        await stopping.wait()
        intake.stop()

    try:
        intake = KafkaIntake(settings, service, troubles)
        waiting = asyncio.create_task(stop())
        try:
            await intake.run()
        finally:
            waiting.cancel()
    except KafkaException as error:
        # Fatal errors of the library: another member has this instance's name, or a setting cannot be used.
        log.critical("Kafka: %s", error.args[0])
        return 1
    return 0


if __name__ == "__main__":
    child.main(IntakeSettings, serve)
