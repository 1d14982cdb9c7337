"""Takes the pictures of the dashboard that the documents show: `python -m tests.pictures [FOLDER]`, into docs/images.

A node on its usual ports with work of a small shop, a worker, and Chromium. It takes six minutes, because the page Now
shows five, and wants a quiet machine: what is late in the picture is what was late.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from delaybox import Client, NewTask
from tests.browser import Browser, driver
from tests.nodes import node
from tests.receivers import receiver
from tests.waiting import PATIENCE_S, until

IMAGES = Path(__file__).parent.parent / "docs/images"
SHOWN_S = 310.0
A_SECOND = 20
SEED = 11
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
APP = """
from delaybox import Worker

worker = Worker("shop")


@worker.task(name="mail.send", queue="mail", retries=0)
async def send(to, template):
    if template == "reminder":
        raise ValueError(f"no template 'reminder' for {to}: is it deployed?")


@worker.task(name="billing.charge", queue="billing", retries=0)
async def charge(order):
    raise ConnectionError(f"payment gateway refused: connection {order} reset by peer")


@worker.task(name="reports.build", queue="reports", retries=0)
async def build(within_ms):
    raise TimeoutError(f"warehouse did not answer within {within_ms} ms")
"""


def coming(draw: random.Random) -> Iterator[NewTask]:
    """What is due in the next hours: an even part, a hill, and a campaign."""
    for number in range(5_000):
        minutes = draw.choice((draw.uniform(5, 3_000), draw.gauss(45, 9), draw.gauss(106, 3.5)))
        queue = draw.choice(("mail", "orders", "billing", "reports"))
        labels = {"customer": f"c-{number % 400}"}
        delay = timedelta(minutes=max(5.0, minutes))
        yield NewTask.publish({"order": number}, delay=delay, queue=queue, labels=labels)


def failing() -> Iterator[NewTask]:
    for number in range(12):
        to = f"user{number}@example.org"
        yield NewTask.call("mail.send", {"to": to, "template": "reminder"}, labels={"customer": f"c-{number}"})
    for number in range(8):
        yield NewTask.call("billing.charge", {"order": 12 + 4 * number}, queue="billing")
    for number in range(3):
        yield NewTask.call("reports.build", {"within_ms": 2_000 * (1 + number)}, queue="reports")
    yield NewTask.call("video.encode", {"film": 7}, queue="media")


def moment(draw: random.Random) -> Iterator[NewTask]:
    """The tasks of a tenth of a second."""
    for _ in range(A_SECOND // 10):
        delay = draw.uniform(0.5, 2.5)
        if draw.random() < 0.2:
            yield NewTask.call("mail.send", {"to": "ann@example.org", "template": "order"}, delay=delay)
        else:
            yield NewTask.publish(b"{}", delay=delay, queue=draw.choice(("mail", "orders")))


def take(browser: Browser, base: str, client: Client, folder: Path, draw: random.Random, failed: str) -> None:
    """All pictures, once the page Now shows five minutes."""
    browser.size(1280, 800)
    browser.go(base)
    end = time.monotonic() + SHOWN_S
    while time.monotonic() < end:
        work_on(client, draw)
    pages = {
        "now": "", "queues": "/queues", "queue": "/queues/mail", "tasks": "/tasks?queue=mail",
        "task": f"/tasks/{failed}", "dead": "/dead", "nodes": "/nodes", "schedule": "/schedule?delay=15m",
        "ended": "/ended", "webhooks": "/webhooks", "many": "/tasks?queue=orders",
    }  # fmt: skip
    for phone in (False, True):
        for name, path in pages.items():
            if phone or name != "now":
                browser.size(*((390, 844) if phone else (1280, 800)), phone=phone)
                browser.go(f"{base}{path}")
            if name == "many":
                browser.click("Cancel …", "main button")
                browser.see("would be cancelled")
            for look in ("light", "dark"):
                browser.dark(look == "dark")
                for _ in range(20):
                    work_on(client, draw)
                browser.picture(folder / f"{name}-{'phone-' if phone else ''}{look}.webp")


def work_on(client: Client, draw: random.Random) -> None:
    client.schedule_many(moment(draw))
    time.sleep(0.1)


def main(arguments: list[str]) -> int:
    """The exit code."""
    folder, draw = Path(arguments[0]) if arguments else IMAGES, random.Random(SEED)
    webhooks, secret = ("webhooks.enabled=true", "webhooks.allow=127.0.0.1"), {"DELAYBOX_WEBHOOKS_SECRET": SECRET}
    flags = [part for one in webhooks for part in ("--set", one)]
    with tempfile.TemporaryDirectory() as made, driver() as opens, receiver() as shop:
        place = Path(made)
        (place / "app.py").write_text(APP)
        with node("--data-dir", "data", "--grpc-port", "9088", *flags, folder=place, environ=secret) as running:
            servers = f"127.0.0.1:{running.grpc_port}"
            worker = subprocess.Popen(
                [sys.executable, "-m", "delaybox", "worker", "app:worker"],
                cwd=place,
                env={**os.environ, "DELAYBOX_GRPC_SERVERS": servers},
                stderr=subprocess.DEVNULL,
            )
            try:
                running.until(lambda: running.call("GET", "/v1/workers")[2]["count"])
                with Client(servers) as client:
                    client.set_queue("billing", rate="100/s", concurrency=20)
                    client.set_queue("reports", paused=False, weight=0.5)
                    client.schedule_many(coming(draw))
                    client.schedule_many(failing())
                    client.schedule_many(NewTask.webhook(shop.url("/orders"), json={"order": n}) for n in range(300))
                    until(lambda: running.call("GET", "/v1/dead?limit=100")[2]["tasks"][22:])
                    (failed, *_) = [
                        one["id"]
                        for one in running.call("GET", "/v1/dead?limit=100")[2]["tasks"]
                        if one["name"] == "mail.send"
                    ]
                    take(opens(), f"http://localhost:{running.port}/dashboard", client, folder, draw, failed)
            finally:
                worker.terminate()
                worker.wait(PATIENCE_S)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
