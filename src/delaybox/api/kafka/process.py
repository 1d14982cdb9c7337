"""The Kafka process: takes tasks from topics and does nothing else. Started by ``supervise.spawn_intake``.

After its ready line it says ``{"troubles": [...]}`` whenever the reasons change for which it does not read;
delaybox.processes.child says how it lives with the node.
"""

from __future__ import annotations

import asyncio
import logging
import os

from confluent_kafka import KafkaException

from delaybox import metrics
from delaybox.api.kafka.intake import Intake
from delaybox.api.kafka.settings import IntakeSettings
from delaybox.core.errors import ConfigError, StoreUnavailable
from delaybox.processes import child
from delaybox.service import RecordService
from delaybox.store.ending import end
from delaybox.store.presence import keep_looking
from delaybox.store.servers import Servers
from delaybox.store.store import Store

log = logging.getLogger("delaybox.kafka")

_REOPEN_S = 0.5


class IntakeProcess:
    """`run` is its whole life."""

    def __init__(self, settings: IntakeSettings) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._intake: Intake | None = None

    async def run(self) -> int:
        """Until `stop`; the exit code."""
        servers = Servers.connect(self._settings.server)
        child.say({"ready": True})
        try:
            while not self._stopping.is_set():
                try:
                    store = await Store.open(
                        servers,
                        prefix=self._settings.prefix,
                        expected=self._settings.store_id,
                        observe=metrics.script_took,
                        on_lost=metrics.store_lost,
                    )
                except StoreUnavailable as error:
                    log.warning("the store cannot be opened yet: %s", error)
                    tell([str(error)])
                    await asyncio.sleep(_REOPEN_S)
                    continue
                looking = asyncio.create_task(keep_looking(store.look), name="delaybox-store-look")
                try:
                    return await self._read(RecordService(store, on_scheduled=metrics.scheduled))
                finally:
                    await end(looking)
            return 0
        finally:
            await servers.close()

    async def _read(self, service: RecordService) -> int:
        try:
            self._intake = Intake(self._settings, service, tell)
            tell([])
            if not self._stopping.is_set():
                await self._intake.run()
        except KafkaException as error:
            # What the library calls fatal: another member has this instance's name, or a setting cannot be used.
            log.critical("Kafka: %s", error.args[0])
            return 1
        return 0

    def stop(self) -> None:
        """Ends `run` when what was read is stored; called again, ends the process at once."""
        if self._stopping.is_set():
            os._exit(1)
        self._stopping.set()
        if self._intake is not None:
            self._intake.stop()


def tell(troubles: list[str]) -> None:
    """To the parent, whose heartbeat carries it to the readiness probe."""
    child.say({"troubles": troubles})


async def _serve(settings: IntakeSettings) -> int:
    if not settings.sources:
        raise ConfigError("kafka.schedulerTopic names no topic; give one, or several with commas between them")
    process = IntakeProcess(settings)
    child.stop_on_signals(process.stop)
    return await process.run()


if __name__ == "__main__":
    code = child.run(IntakeSettings.from_json, _serve)
    logging.shutdown()
    # librdkafka's threads may still wait for a broker; nothing here waits for them.
    os._exit(code)
