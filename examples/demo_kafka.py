"""`make demo-kafka`: records go into one topic of a real Kafka broker and come out of another at their time.

The broker, the node and the clients are what a user has: Apache Kafka, `delaybox serve`, and confluent-kafka without
any code of ours. Needs a container engine, or Java 17 and Maven, which fetches the broker once (43 MB). Nothing is left
behind: folders are temporary and every process is stopped, however it ends.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import Consumer, Producer
from demo import Child, DemoFailed, running
from rich.console import Console

RECORDS = 12
FIRST_MS = 1_000
STEP_MS = 250
PATIENCE_S = 30.0
IN, OUT = "Scheduler", "TaskExecution"
BROKER = Path(__file__).resolve().parent.parent / "scripts" / "kafka_broker.py"

console = Console(highlight=False)


@contextlib.contextmanager
def broker(folder: str) -> Iterator[str]:
    """The address of a broker that ends with the demo."""
    process = subprocess.Popen(
        [sys.executable, str(BROKER), folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin and process.stdout and process.stderr
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise DemoFailed(process.stderr.read().strip() or "the Kafka broker did not start")
        yield address
    finally:
        # The end of its input is its sign to stop.
        process.stdin.close()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def produce(address: str) -> None:
    """Records as the Go original takes them: the value is the payload, the time stands in a header."""
    producer = Producer({"bootstrap.servers": address})
    for n in range(RECORDS):
        delay_ms = FIRST_MS + n * STEP_MS
        producer.produce(
            IN, f"order {n} timed out".encode(), headers={"delay": str(delay_ms), "kafkaKey": f"order-{n}"}
        )
    if producer.flush(10):
        raise DemoFailed("the broker did not confirm the records")


def consume(address: str, node: Child) -> None:
    """Prints what arrives until every record came back."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "demo", "auto.offset.reset": "earliest"})
    consumer.subscribe([OUT])
    came: set[bytes] = set()
    deadline = time.monotonic() + PATIENCE_S
    try:
        while len(came) < RECORDS:
            node.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"{len(came)} of {RECORDS} records came back in {PATIENCE_S:g} s")
            message = consumer.poll(0.2)
            if message is None or message.error() is not None:
                continue
            headers = dict(message.headers())
            task_id, late_ms = headers["delaybox-task-id"], time.time() * 1000 - int(headers["delaybox-due"])
            if task_id in came:
                raise DemoFailed(f"task {task_id.decode()} came twice")
            came.add(task_id)
            if late_ms < 0:
                raise DemoFailed(f"task {task_id.decode()} came {-late_ms:.1f} ms before its time")
            key = message.key().decode()
            console.print(
                f"  {OUT}[{message.partition()}]  key {key:9} {message.value().decode():22} {late_ms:6.1f} ms late"
            )
    finally:
        consumer.close()


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="delaybox-demo-") as folder:
        try:
            console.print("Starting Apache Kafka (the first time it is fetched) ...")
            with broker(f"{folder}/kafka") as address:
                console.print(f"Kafka listens on {address}. Starting a node:")
                kafka = {"enabled": "true", "brokers": address, "value": "payload"}
                settings = [word for name, value in kafka.items() for word in ("--set", f"kafka.{name}={value}")]
                console.print(f"  delaybox serve {' '.join(settings)}", soft_wrap=True)
                with running(folder, "serve", "--http-port", "0", "--grpc-port", "0", *settings) as node:
                    node.wait_for(r"PUB_SUB tasks go to topic")
                    console.print(
                        f"\n{RECORDS} records with a header `delay` go to topic {IN}, produced by confluent-kafka."
                    )
                    produce(address)
                    console.print(f"They come out of topic {OUT} at their time:\n")
                    consume(address, node)
                    console.print("\nAll came back, each once, none before its time. More: docs/kafka.md")
        except DemoFailed as failure:
            console.print(f"[red]The demo failed:[/red] {failure}")
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
