"""The consumer's thread, without a broker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from delaybox.api.kafka.reader import TopicReader
from delaybox.api.kafka.settings import IntakeSettings
from delaybox.targets.kafka_settings import KafkaSettings


async def test_brokers_that_are_away_are_named() -> None:
    loop, troubles = asyncio.get_running_loop(), asyncio.Queue[str]()
    owner = SimpleNamespace(trouble=lambda what: loop.call_soon_threadsafe(troubles.put_nowait, what))
    settings = IntakeSettings(kafka=KafkaSettings(brokers=("127.0.0.1:1",)), sources=("t",), group="g")
    reader = TopicReader(settings, cast(Any, None), cast(Any, owner))
    await reader.open()
    while troubles.empty():
        await reader.poll(1, 0.2)
    assert "127.0.0.1:1" in await troubles.get()
    await reader.close()
