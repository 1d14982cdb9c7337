"""SHELL_CMD: runs the payload with ``sh -c``, or a command that this node's configuration names.

Commands run in slots, which are separate processes, so that neither spawning nor reading output delays the node's other
tasks. shell_run.py explains how a slot gets rid of everything that a command started.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from delaybox.core.delivery import Delivery, Done, Failed, HandBack, Outcome, Report
from delaybox.core.lane import cost_of, split
from delaybox.core.queue import LiveRules
from delaybox.core.result_keeping import wished_ms
from delaybox.core.task import CANCELLED, TaskResult
from delaybox.targets.shell_pool import Ended, Job, ShellPool
from delaybox.wire import body as wire_body
from delaybox.wire.trace import handed_out, trace_in

log = logging.getLogger("delaybox.shell")

OUTPUT_BYTES = 64 * 1024
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LANG = "C.UTF-8"

_ELSEWHERE = HandBack(delay_ms=1_000)
_AHEAD_S = 2.0
"""A node keeps only as many commands as it can start within this time; the rest is handed back, for other nodes or
later."""
_FIRST_GUESS_S = 0.05
_MOST_WAITING = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLimits:
    """Limits of one command; 0 = none. ``processes`` counts all commands together, on top of what the user ran
    before."""

    cpu_s: int = 300
    memory: int = 2 << 30
    file_size: int = 1 << 30
    open_files: int = 1024
    processes: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellOptions:
    """``payloads``: payloads are run by ``sh -c``. ``commands``: name -> absolute path and arguments.

    ``user``: the user as whom commands run; '' this process's user. Only root can choose another one.
    """

    payloads: bool = False
    user: str = ""
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    concurrency: int = 16
    timeout_ms: int = 300_000
    grace_ms: int = 500
    keep_result_ms: int = 86_400_000
    limits: CommandLimits = CommandLimits()


def why_not(options: ShellOptions) -> str:
    """Why commands cannot run on this machine with these settings, and how to mend it; empty when they can."""
    if sys.platform != "linux":
        return "shell commands are run on Linux only; leave workers.shell out, or run the workers on Linux"
    if options.user:
        try:
            user = pwd.getpwnam(options.user)
        except KeyError:
            return (
                f"workers.shell.user is {options.user!r}, whom this machine does not know; correct it, or add the user"
            )
        if os.geteuid() not in (0, user.pw_uid):
            return (
                f"workers.shell.user is {options.user!r}, but this node runs as user {os.geteuid()}, who may not run "
                "commands as somebody else; start the node as root, or leave workers.shell.user out"
            )
    for name, (path, *_) in options.commands.items():
        if not os.access(path, os.X_OK) or not Path(path).is_file():
            return f"workers.shell.commands: {name} is {path}, which this user cannot run; correct path or permissions"
    return ""


class ShellTarget:
    """Start it before its first delivery; `stop` ends every command at once. ``rules``: those of queues."""

    def __init__(self, options: ShellOptions, rules: LiveRules | None = None) -> None:
        self._rules = LiveRules() if rules is None else rules
        self._options = options
        self._pool = ShellPool(
            options.concurrency,
            {
                "path": PATH,
                "lang": LANG,
                "grace_ms": options.grace_ms,
                "output_bytes": OUTPUT_BYTES,
                "limits": asdict(options.limits),
                "user": options.user,
            },
            _ids(options.user),
        )
        self._jobs: dict[bytes, Job] = {}
        self._pace_s = _FIRST_GUESS_S
        self._foreign: set[str] = set()

    @property
    def host_pid(self) -> int:
        """Process id of the host, below which all commands run."""
        return self._pool.host_pid

    async def start(self) -> None:
        """Returns when commands can be run."""
        await self._pool.start()

    async def stop(self) -> None:
        """Twice is harmless."""
        await self._pool.stop()

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        """Reports each command when it ends. Tasks that this node may not run, or not soon, are handed back."""
        run = _Batch(report)
        room = self._room()
        for d in batch:
            job = self._job(d, run)
            # As many as there are slots may wait, whatever they cost: so many commands of a topic are taken at once,
            # and they would be lost if they were handed back.
            if job is None or (room <= 0 and self._pool.jobs_waiting >= self._options.concurrency):
                report([d], _ELSEWHERE)
                continue
            room -= job.cost
            run.jobs.add(job)
            self._jobs[d.task_id] = job
            self._pool.submit(job)
        try:
            await run.wait()
        except asyncio.CancelledError:
            # The node stops: a command must not go on running while its task is handed to another node.
            self._pool.cancel([*run.jobs])
            run.drop_waiting()
            grace_s = self._options.grace_ms / 1000 + 2.0
            await asyncio.wait({asyncio.ensure_future(run.wait())}, timeout=grace_s)
            for d in batch:
                self._jobs.pop(d.task_id, None)
            raise

    def end(self, task_id: bytes) -> None:
        """Ends a command whose task was cancelled, if it runs here, or waits for a slot. It is reported when nothing of
        it is left."""
        job = self._jobs.get(task_id)
        if job is not None:
            self._pool.end(job)

    def _room(self) -> int:
        slots = self._options.concurrency
        soon = int(_AHEAD_S / max(self._pace_s, 1e-4)) * slots
        return min(max(4 * slots, soon), _MOST_WAITING) - self._pool.waiting

    def _job(self, d: Delivery, run: _Batch) -> Job | None:
        """None: it cannot run here."""
        message = wire_body.decode(d.body)
        cost = cost_of(d.lane)
        if cost > self._options.concurrency:
            self._not_here(
                f"a command costs {cost} places, and workers.shell.concurrency is {self._options.concurrency}"
            )
            return None
        rules = self._rules.of(split(d.lane).queue)
        head: dict[str, object] = {
            "id": d.id,
            "attempt": d.attempt + 1,
            "token": d.token,
            "timeout_ms": message.timeout_ms or rules.timeout_ms or self._options.timeout_ms,
        }
        if trace := trace_in(handed_out(message.header, d.trace)):
            head["trace"] = {name.upper(): value.decode() for name, value in trace.items()}
        name = d.name or message.name
        if name:
            command = self._options.commands.get(name)
            if command is None:
                self._not_here(f"command {name[:64]!r} is not in workers.shell.commands here")
                return None
            head["argv"] = list(command)
        elif not self._options.payloads:
            self._not_here("payloads are not run as commands here (no --enable-shell)")
            return None
        keep_ms = wished_ms(message.keep_result_ms, queue_ms=rules.keep_result_ms, node_ms=self._options.keep_result_ms)

        def done(job: Job, ended: Ended) -> None:
            # One that was cut off, or waited only, says nothing of how long the others take.
            if "ms" in ended.details and not job.cancelled:
                self._pace_s += (ended.details["ms"] / 1000 - self._pace_s) / 16
            outcome = outcome_of(ended, keep_ms, cancelled=job.cancelled, stopped=job.stopped)
            if (message.no_result or not keep_ms) and isinstance(outcome, Done) and not _is_cancelled(outcome):
                outcome = Done()
            if self._jobs.get(d.task_id) is job:
                del self._jobs[d.task_id]
            run.ended(job, d, outcome)

        return Job(head, message.payload, done, cost)

    def _not_here(self, why: str) -> None:
        if why not in self._foreign and len(self._foreign) < 1_000:
            self._foreign.add(why)
            log.warning("handing tasks back for another node: %s", why)


class _Batch:
    """The jobs of one `deliver`."""

    def __init__(self, report: Report) -> None:
        self.jobs: set[Job] = set()
        self._report = report
        self._all: asyncio.Future[None] | None = None

    def ended(self, job: Job, d: Delivery, outcome: Outcome) -> None:
        self.jobs.discard(job)
        self._report([d], outcome)
        self._check()

    def drop_waiting(self) -> None:
        """Counts off cancelled jobs that no slot had taken: these never report their end."""
        self.jobs = {job for job in self.jobs if job.slot is not None}

    async def wait(self) -> None:
        if self.jobs:
            self._all = asyncio.get_running_loop().create_future()
            await self._all

    def _check(self) -> None:
        if not self.jobs and self._all is not None and not self._all.done():
            self._all.set_result(None)


def _ids(user: str) -> tuple[int, int] | None:
    if not user:
        return None
    found = pwd.getpwnam(user)
    return found.pw_uid, found.pw_gid


def _is_cancelled(outcome: Done) -> bool:
    return outcome.result is not None and outcome.result.cancelled


def outcome_of(
    ended: Ended, keep_ms: int, *, cancelled: bool = False, stopped: bool = False, now_ms: int | None = None
) -> Outcome:
    """The outcome for the engine. A command that the node itself cut off (``cancelled``) does not count as an attempt,
    unless its task was cancelled (``stopped``)."""
    details = ended.details
    cut_off = cancelled and details.get("why", "cancelled") == "cancelled"
    if cut_off and not stopped:
        return HandBack()
    code = details.get("code")
    reason, exit_code = "", None
    if cut_off:
        reason = CANCELLED
    elif "error" in details:
        reason = f"it could not be started: {details['error']}"[:500]
    elif code is None:
        reason = "the process that ran it died"
    elif details["why"]:
        reason = f"{details['why']} after {details['ms']} ms"
    elif code < 0:
        # The exit code that a shell would give.
        reason, exit_code = f"killed by {_signal_name(-code)}", 128 - code
    else:
        reason, exit_code = f"exit code {code}" if code else "", code
    if details.get("survivors") and not cut_off:
        reason += "; something that it started could not be killed"
    result = TaskResult(
        ok=not reason,
        finished_ms=int(time.time() * 1000) if now_ms is None else now_ms,
        duration_ms=details.get("ms", 0),
        exit_code=exit_code,
        output=ended.output,
        truncated=bool(details.get("truncated")),
        reason=reason,
    )
    return Failed(reason, result=result, keep_ms=keep_ms) if reason and not cut_off else Done(result, keep_ms)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
