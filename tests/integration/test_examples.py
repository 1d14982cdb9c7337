"""The examples as a user runs them: `delaybox serve`, `delaybox listen --json` piped into them, their commands."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.nodes import Node
from tests.waiting import PATIENCE_S, until

EXAMPLES = Path(__file__).parents[2] / "examples"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DELAYBOX = [sys.executable, "-m", "delaybox"]


class Place:
    """A folder with a node, and the examples run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.orders_url = ""
        self.node = self._start()

    def _start(self, port: int = 0) -> Node:
        data = str(self.folder / "data")
        flags = (
            "--http-port",
            str(port),
            "--grpc-port",
            "0",
            "--data-dir",
            data,
            "--set",
            "pubsub.require_subscriber=true",
            *("--set", "webhooks.enabled=true", "--set", "webhooks.allow=127.0.0.1"),
        )
        return Node(*flags, folder=self.folder, environ={"DELAYBOX_WEBHOOKS_SECRET": SECRET}).ready()

    def kill(self) -> None:
        """kill -9."""
        self.node.process.send_signal(signal.SIGKILL)
        self.node.process.wait()

    def again(self) -> None:
        """The node, once more on its data and its port."""
        self.node = self._start(self.node.port)

    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DELAYBOX_", "APP_"))}
        own = {"DELAYBOX_SERVER": f"http://127.0.0.1:{self.node.port}", "PYTHONUNBUFFERED": "1"}
        return {**kept, **own, "DELAYBOX_WEBHOOKS_SECRET": SECRET, "ORDERS_URL": self.orders_url}

    def run(self, script: str, *arguments: str, code: int = 0) -> str:
        """What the example prints."""
        command = [sys.executable, str(EXAMPLES / script), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environ(), capture_output=True, text=True, check=False,
            timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def time_for(self, runs: int, *, least_s: float) -> float:
        """Seconds in which so many examples can run here, one after another: on a busy machine each takes several."""
        began = time.monotonic()
        self.run("order_timeout.py", "show")
        return max(least_s, 2 * runs * (time.monotonic() - began))

    @contextlib.contextmanager
    def receiving(self) -> Iterator[Path]:
        """`python3 order_timeout.py receive`; yields the file that what it prints goes to."""
        output = self.folder / "received.out"
        with output.open("w") as out:
            command = [sys.executable, str(EXAMPLES / "order_timeout.py"), "receive", "--port", "0"]
            receiver = subprocess.Popen(command, stdout=out, stderr=out, cwd=self.folder, env=self.environ())
        try:
            until(lambda: "listening on" in output.read_text(), output.read_text)
            self.orders_url = output.read_text().split()[-1]
            yield output
        finally:
            receiver.terminate()
            receiver.wait(PATIENCE_S)

    @contextlib.contextmanager
    def listening(self, script: str, *arguments: str) -> Iterator[Path]:
        """`delaybox listen --json | python3 SCRIPT ARGUMENTS`; yields the file that what it prints goes to."""
        output = self.folder / f"{script}.out"
        listener = subprocess.Popen(
            [*DELAYBOX, "listen", "--json", "--data-dir", str(self.folder / "data")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environ(),
        )
        assert listener.stderr is not None
        with output.open("w") as out:
            reader = subprocess.Popen(
                [sys.executable, str(EXAMPLES / script), *arguments],
                stdin=listener.stdout,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env=self.environ(),
            )
        try:
            first = listener.stderr.readline()
            assert "listening" in first, first
            drain = threading.Thread(target=listener.stderr.read, daemon=True)
            drain.start()
            yield output
        finally:
            listener.terminate()
            listener.wait(PATIENCE_S)
            assert listener.stdout is not None
            listener.stdout.close()
            reader.wait(PATIENCE_S)
            drain.join(PATIENCE_S)
            listener.stderr.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.node.stop()


def test_reminders_are_sent_once_at_their_time(place: Place) -> None:
    outbox = place.folder / "outbox"
    at = (datetime.now(UTC) + timedelta(seconds=4)).isoformat(timespec="milliseconds")
    with place.listening("reminder_emails.py", "send", "--outbox", str(outbox)) as output:
        first = place.run("reminder_emails.py", "remind", "ann@example.com", "The dentist, at 9", "--at", at)
        again = place.run("reminder_emails.py", "remind", "ann@example.com", "The dentist, at 9", "--at", at)
        other = place.run("reminder_emails.py", "remind", "bob@example.com", "Stretch", "--delay", "1s")
        assert first == again != other
        until(lambda: output.read_text().count("sent to") >= 2, output.read_text)
        assert datetime.now(UTC) >= datetime.fromisoformat(at)
    assert sorted(output.read_text().splitlines()) == [
        "sent to ann@example.com: The dentist, at 9",
        "sent to bob@example.com: Stretch",
    ]
    letter = (outbox / f"{first.strip()}.eml").read_text()
    assert "To: ann@example.com" in letter
    assert "The dentist, at 9" in letter


def test_an_order_that_is_paid_stays_and_one_that_is_not_is_dropped(place: Place) -> None:
    with place.receiving() as output:
        assert "unpaid" in place.run("order_timeout.py", "place", "1", "--timeout", "60s")
        place.run("order_timeout.py", "place", "2", "--timeout", "500ms")
        assert place.run("order_timeout.py", "pay", "1") == "order 1: paid, time-out cancelled\n"
        assert place.run("order_timeout.py", "pay", "1") == "order 1: paid already, the time-out was gone\n"
        until(lambda: "order 2: dropped" in output.read_text(), output.read_text)
    assert place.run("order_timeout.py", "show") == "1 paid\n2 dropped\n"
    assert place.run("order_timeout.py", "pay", "2", code=1) == "order 2: dropped, too late to pay\n"
    assert place.node.call("GET", "/v1/tasks")[2]["tasks"] == []


def test_time_outs_survive_a_kill_of_the_node_between_payment_and_time_out(place: Place) -> None:
    with place.receiving() as output:
        timeout = f"{place.time_for(7, least_s=14.0):.0f}s"
        for order in ("paid-before", "paid-while-away", "unpaid"):
            place.run("order_timeout.py", "place", order, "--timeout", timeout)
        tasks = place.node.call("GET", "/v1/tasks")[2]["tasks"]
        due = max(task["due_ms"] for task in tasks) / 1000
        assert "time-out cancelled" in place.run("order_timeout.py", "pay", "paid-before")

        place.kill()
        assert "the node is away" in place.run("order_timeout.py", "pay", "paid-while-away")
        # Whoever placed an order and got no answer asks again, and waits for the node; here it is back meanwhile.
        back = threading.Timer(0.5, place.again)
        back.start()
        repeated = place.run("order_timeout.py", "place", "unpaid", "--timeout", timeout)
        back.join()

        # The same task as the first time, with the time that was counted from the first time.
        assert repeated.split()[-1] in {task["id"] for task in tasks}
        until(lambda: "order unpaid: dropped" in output.read_text(), output.read_text)
        assert time.time() >= due - 1
        until(lambda: "order paid-while-away: nothing to do" in output.read_text(), output.read_text)
    # The cancelled one did not come back with the node.
    assert "paid-before" not in output.read_text()
    assert place.run("order_timeout.py", "show") == "paid-before paid\npaid-while-away paid\nunpaid dropped\n"


def test_a_nightly_batch_is_spread_and_stored_once(place: Place) -> None:
    customers = place.folder / "customers.txt"
    customers.write_text("".join(f"customer-{i}\n" for i in range(40)))
    start = datetime.now(UTC) + timedelta(seconds=place.time_for(3, least_s=12.0))
    asked = ("nightly_batch.py", str(customers), "--start", start.isoformat(), "--over", "2")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(
            subprocess.Popen(
                [*DELAYBOX, "listen", "--json", "--count", "40", "--data-dir", str(place.folder / "data")],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=place.environ(),
            )
        )
        stack.callback(listener.terminate)
        assert "40 scheduled, 0 were already, 0 refused" in place.run(*asked)
        assert "0 scheduled, 40 were already, 0 refused" in place.run(*asked)
        pending = place.node.call("GET", "/v1/tasks?queue=nightly&limit=100")[2]["tasks"]
        due = sorted(task["due_ms"] for task in pending)
        steps = {b - a for a, b in itertools.pairwise(due)}
        assert len(due) == 40
        assert steps <= {49, 50, 51}
        listener.communicate(timeout=2 * PATIENCE_S)
        assert listener.returncode == 0
