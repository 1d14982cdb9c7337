"""`make demo`: a node with its own Valkey, tasks posted over HTTP, and how late each of them fires.

Everything runs as a user would run it: `delaybox serve` and `delaybox listen` are processes of their own, and tasks go
in by POST. Nothing is left behind: the data folder is a temporary one and both processes are stopped, however it ends.
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import http.client
import json
import os
import queue
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

TASKS = 200
FIRST_DUE_MS = 1_500
SPREAD_MS = 6_000
START_S = 90.0
OVERDUE_S = 20.0
"""A task that has not fired this long after the last one's due time counts as not fired."""
LAST_SHOWN = 6
LINE_EVERY = 25
"""Without a terminal a line is printed after so many tasks."""
BARS = 48
RISING = " ▁▂▃▄▅▆▇█"
LATE_MS = (0.25, 0.5, 1, 2, 4, 8, 16)
LATER = 240
"""Tasks that are left to come with KEEP=1, over the hours after the demo."""

# The body of the project's first example: a date in the past, so it fires at once.
FIRST_BODY = '{"taskType":"PUB_SUB","parameter":{"executionTimestamp":"1721672590913"},"pyload":"VGVzdCBKYXkK"}'

# What would make the demo's node another one than the demo's.
_FOREIGN = re.compile(r"DELAYBOX_|APP_|(REDIS_HOST|REDIS_PASS|BROKERS|WORKER_ENABLE|SERVER_CONTEXT_PATH)$")


class DemoFailed(Exception):
    """Something did not work; the message says what."""


@dataclass(frozen=True)
class Fired:
    """One task as it arrived on the channel."""

    task_id: str
    text: str
    late_ms: float
    received_ms: float


class Child:
    """A `delaybox` command that runs beside the demo; its lines can be waited for."""

    def __init__(self, folder: str, *arguments: str) -> None:
        self._name = f"delaybox {arguments[0]}"
        self.out: queue.Queue[str | None] = queue.Queue()
        self._err: queue.Queue[str | None] = queue.Queue()
        self._said: list[str] = []
        environment = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "delaybox", *arguments, "--data-dir", str(Path(folder) / "data")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,  # no config/config.yaml is found there
            start_new_session=True,  # Ctrl-C is for the demo, which then stops its children in order
        )
        for stream, lines in ((self._process.stdout, self.out), (self._process.stderr, self._err)):
            threading.Thread(target=self._read, args=(stream, lines), daemon=True).start()

    def _read(self, stream: Iterator[str], lines: queue.Queue[str | None]) -> None:
        for line in stream:
            lines.put(line.rstrip("\n"))
        lines.put(None)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line on stderr that matches; DemoFailed when it ends or stays silent."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                line = self._err.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise self.failed(f"was not ready within {START_S:g} s") from None
            if line is None:
                raise self.failed("ended before it was ready")
            self._said.append(line)
            if match := re.search(pattern, line):
                return match

    def check(self) -> None:
        """DemoFailed when the command has ended."""
        if (code := self._process.poll()) is not None:
            raise self.failed(f"ended by itself ({code})")

    def failed(self, what: str) -> DemoFailed:
        """The failure, with the last words of the command."""
        with contextlib.suppress(queue.Empty):
            while (line := self._err.get_nowait()) is not None:
                self._said.append(line)
        words = "".join(f"\n    {line}" for line in self._said[-8:])
        return DemoFailed(f"{self._name} {what}; its last words:{words or ' none'}")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what does not end by it."""
        self._process.terminate()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def running(folder: str, *arguments: str) -> Iterator[Child]:
    child = Child(folder, *arguments)
    try:
        yield child
    finally:
        child.stop()


class Api:
    """The node's REST interface over one connection, by the standard library alone."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=10)

    def post(self, body: str) -> dict[str, str]:
        """POST /task; DemoFailed unless the answer is 200."""
        answer: dict[str, str] = self._call("POST", "/task", body)
        return answer

    def pending(self) -> list[object]:
        tasks: list[object] = self._call("GET", "/task?limit=1000", None)
        return tasks

    def _call(self, method: str, path: str, body: str | None) -> Any:
        try:
            self._connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            text = answer.read().decode()
        except OSError as error:
            raise DemoFailed(f"{method} {path} got no answer: {error}") from None
        if answer.status != 200:
            raise DemoFailed(f"{method} {path} was answered with {answer.status}: {text}")
        return json.loads(text)


def body_for(number: int, due_ms: int) -> str:
    payload = base64.b64encode(f"task {number}".encode()).decode()
    return json.dumps({"taskType": "PUB_SUB", "parameter": {"executionTimestamp": str(due_ms)}, "pyload": payload})


def arrivals(node: Child, listener: Child, until: float) -> Iterator[Fired]:
    """What `delaybox listen --json` prints, until ``until`` (monotonic); DemoFailed when either command ends."""
    while time.monotonic() < until:
        node.check()
        try:
            line = listener.out.get(timeout=0.1)
        except queue.Empty:
            continue
        if line is None:
            raise listener.failed("ended")
        task = json.loads(line)
        text = base64.b64decode(task["pyload"]).decode(errors="replace").strip()
        yield Fired(task["taskUuid"], text, task["lateMs"], task["receivedMs"])


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class View:
    """Shows tasks as they fire: on a terminal a histogram of how late they are, what is still to come, and the last
    ones; elsewhere a line from time to time. ``due``: by payload, when each is due (Unix ms)."""

    def __init__(self, console: Console, due: dict[str, int], address: str) -> None:
        self._console = console
        self._due = due
        self._address = address
        self._fired: list[Fired] = []
        self._live = Live(console=console, refresh_per_second=12, get_renderable=self._render)

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def add(self, fired: Fired) -> None:
        self._fired.append(fired)
        if not self._console.is_terminal and len(self._fired) % LINE_EVERY == 0:
            late = percentile([one.late_ms for one in self._fired], 0.99)
            self._console.print(
                f"{clock(fired.received_ms)}  {len(self._fired)} fired so far, p99 {late:.2f} ms late; the last one: "
                f"{fired.text}, {fired.late_ms:+.2f} ms",
                soft_wrap=True,
            )

    def _render(self) -> Group:
        count = len(self._fired)
        done = Table.grid(padding=(0, 2))
        done.add_row(ProgressBar(TASKS, count, width=BARS, complete_style="green"), f"{count} of {TASKS} fired")
        return Group(
            histogram([one.late_ms for one in self._fired]),
            Text(),
            self._coming(),
            Text(),
            self._last(),
            Text(),
            done,
            Text(f"look at it: {self._address}", style="dim"),
        )

    def _coming(self) -> Text:
        """What is due in each part of the time that is left, as the node's forecast shows it for minutes."""
        fired = {one.text for one in self._fired}
        left = [due for text, due in self._due.items() if text not in fired]
        first = min(self._due.values())
        counts = [0] * BARS
        for due in left:
            counts[min(BARS - 1, (due - first) * BARS // SPREAD_MS)] += 1
        most = max(*counts, 1)
        bars = "".join(RISING[round(8 * count / most)] for count in counts)
        return Text.assemble(("to come  ", "dim"), (bars, "cyan"), f"  {len(left)} in {SPREAD_MS / 1000:g} s")

    def _last(self) -> Table:
        table = Table("fired at", "late", "payload", "task", box=None, header_style="dim")
        table.columns[1].justify = "right"
        for fired in self._fired[-LAST_SHOWN:]:
            late = Text(f"{fired.late_ms:+.2f} ms", style=style_of(fired.late_ms))
            table.add_row(clock(fired.received_ms), late, fired.text, Text(fired.task_id, style="dim"))
        return table


def style_of(late_ms: float) -> str:
    return "green" if late_ms < 2 else "yellow" if late_ms < 10 else "red"


def histogram(late_ms: Sequence[float]) -> Table:
    """How many were how late, a line for each range."""
    table = Table("late", "", "tasks", box=None, header_style="dim")
    table.columns[2].justify = "right"
    counts = [0] * (len(LATE_MS) + 1)
    for late in late_ms:
        counts[bisect.bisect_left(LATE_MS, late)] += 1
    most = max(*counts, 1)
    for at, count in enumerate(counts):
        words = f"up to {LATE_MS[at]:g} ms" if at < len(LATE_MS) else f"over {LATE_MS[-1]:g} ms"
        upto = LATE_MS[at] if at < len(LATE_MS) else LATE_MS[-1] * 2
        table.add_row(words, Text("█" * -(-count * BARS // most), style=style_of(upto / 1.001)), str(count))
    return table


def clock(unix_ms: float) -> str:
    return datetime.fromtimestamp(unix_ms / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]


def first_task(console: Console, api: Api, port: int, node: Child, listener: Child) -> None:
    """The first example, as it stands in the README but for the port."""
    console.print("\nA task is one POST. This one's date is past, so it fires at once:\n")
    console.print(f'  curl -X POST http://localhost:{port}/task -H "Content-Type: application/json" \\', style="bold")
    console.print(f"    -d '{FIRST_BODY}'\n", style="bold", soft_wrap=True)
    answer = api.post(FIRST_BODY)
    console.print(f"  answer: {json.dumps(answer)}", soft_wrap=True)
    for fired in arrivals(node, listener, time.monotonic() + OVERDUE_S):
        if fired.task_id == answer["taskUuid"]:
            console.print(f"  fired:  {fired.text!r}, {fired.late_ms:.2f} ms after it was stored")
            return
    raise DemoFailed(f"task {answer['taskUuid']} was accepted and has not fired within {OVERDUE_S:g} s")


def many_tasks(console: Console, api: Api, node: Child, listener: Child, address: str) -> list[Fired]:
    """Posts the tasks, shows them firing, and returns them; DemoFailed when one is missing or early."""
    start_ms = int(time.time() * 1000) + FIRST_DUE_MS
    due = {f"task {i}": start_ms + i * SPREAD_MS // TASKS for i in range(TASKS)}
    began = time.monotonic()
    accepted = {api.post(body_for(i, due[f"task {i}"]))["taskUuid"] for i in range(TASKS)}
    took = time.monotonic() - began
    console.print(
        f"\n{TASKS} more, posted one by one in {took:.2f} s, due over the next {SPREAD_MS / 1000:g} s. "
        f"GET /task lists {len(api.pending())} that wait.\nHow late each reaches a subscriber (fired minus due):\n",
        soft_wrap=True,
    )
    fired: dict[str, Fired] = {}
    until = time.monotonic() + (max(due.values()) / 1000 - time.time()) + OVERDUE_S
    with View(console, due, address) as view:
        for one in arrivals(node, listener, until):
            if one.task_id in accepted and one.task_id not in fired:
                fired[one.task_id] = one
                view.add(one)
            if len(fired) == TASKS:
                break
    if missing := accepted - fired.keys():
        raise DemoFailed(f"{len(missing)} of {TASKS} tasks have not fired, among them {min(missing)}")
    if waiting := api.pending():
        raise DemoFailed(f"GET /task still lists {len(waiting)} tasks though all have fired")
    return list(fired.values())


def results(console: Console, fired: Sequence[Fired]) -> None:
    late = [one.late_ms for one in fired]
    early = sum(one < 0 for one in late)
    p50, p99 = percentile(late, 0.5), percentile(late, 0.99)
    console.print(
        f"\n{len(late)} of {TASKS} fired.  "
        f"late: p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {max(late):.2f} ms.  early: {early}",
        style="bold",
        highlight=False,
        soft_wrap=True,
    )
    if early:
        raise DemoFailed(f"{early} tasks fired before they were due")


def stay(console: Console, api: Api, node: Child, address: str) -> None:
    """Leaves something to look at, and returns with Ctrl-C or when the node ends."""
    now = int(time.time() * 1000)
    chance = random.Random(7)
    for number in range(LATER):
        due = chance.choice(
            (chance.gauss(45, 8), chance.gauss(110, 5), chance.expovariate(1 / 30), chance.uniform(0, 170))
        )
        api.post(body_for(TASKS + number, now + int(max(0.2, due) * 60_000)))
    console.print(
        f"\nThe node stays up, with {LATER} more tasks for the coming hours. Look around:\n\n  {address}\n\n"
        "Ctrl-C stops it and removes its data.",
        style="bold",
        soft_wrap=True,
    )
    while True:
        node.check()
        time.sleep(0.2)


NEXT = """
To try next (the demo's node is stopped and its data removed):

  make demo KEEP=1                      the same, and the node stays up for a look at its dashboard
  .venv/bin/delaybox serve              a node that keeps its tasks, http://localhost:8088
  .venv/bin/delaybox listen             in a second terminal: what fires, and how late
  curl "http://localhost:8088/task"     what waits (schedule with the curl above, port 8088)
  curl "http://localhost:8088/metrics"  counters and the lateness histogram
  .venv/bin/delaybox fsck               proves that the stored tasks are sound
"""


def run(console: Console) -> None:
    with tempfile.TemporaryDirectory(prefix="delaybox-demo-", ignore_cleanup_errors=True) as folder:
        console.print("Starting `delaybox serve` with its own Valkey ...")
        with running(folder, "serve", "--http-port", "0", "--grpc-port", "0") as node:
            port = int(node.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1])
            with running(folder, "listen", "--json") as listener:
                listener.wait_for(r"listening on channel")
                address = f"http://localhost:{port}/dashboard"
                console.print(f"It listens on http://localhost:{port}")
                console.print(f"its dashboard, while this runs: {address}", soft_wrap=True)
                api = Api("127.0.0.1", port)
                first_task(console, api, port, node, listener)
                fired = many_tasks(console, api, node, listener, address)
            results(console, fired)
            if os.environ.get("KEEP", "0") not in ("", "0"):
                stay(console, api, node, address)
    console.print(NEXT, highlight=False, soft_wrap=True)


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    console = Console(highlight=False)
    try:
        run(console)
    except DemoFailed as failure:
        Console(stderr=True, highlight=False).print(
            f"\nThe demo failed: {failure}", style="red", markup=False, soft_wrap=True
        )
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped; nothing is left running.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
