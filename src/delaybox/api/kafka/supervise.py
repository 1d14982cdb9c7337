"""How the node starts its Kafka process."""

from __future__ import annotations

from collections.abc import Callable

from delaybox.api.kafka.settings import IntakeSettings
from delaybox.processes.supervise import READY_TIMEOUT_S, ChildFailed, ChildProcess, spawn


class KafkaFailed(ChildFailed):
    """The Kafka process did not start; the message is its own."""

    code = "kafka_failed"


async def spawn_intake(
    settings: IntakeSettings, troubles: Callable[[list[str]], None], *, ready_timeout_s: float = READY_TIMEOUT_S
) -> ChildProcess:
    """Starts the process and returns when it reads, or waits for the brokers; KafkaFailed when it cannot. See `spawn`.

    ``troubles`` hears why it does not read at the moment, whenever that changes.
    """
    process, said = await spawn(
        "delaybox.api.kafka.process",
        settings.to_json(),
        what="Kafka process",
        metrics_dir=settings.metrics_dir,
        ready_timeout_s=ready_timeout_s,
        failed=KafkaFailed,
    )
    return ChildProcess(process, said, settings.grace_s, lambda line: troubles([str(t) for t in line["troubles"]]))
