"""The node's side of the shell slots: starts their host, gives each free slot the next job, takes the answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from delaybox.processes.hardening import minimal_environment, python_module
from delaybox.processes.restart import RestartBackoff, reason
from delaybox.targets import shell_frames as frames

log = logging.getLogger("delaybox.shell")

_STOP_S = 3.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended. ``details`` is the slot's report, empty when slot or host died during the command."""

    details: Mapping[str, Any]
    output: bytes


_LOST = Ended({}, b"")


class Job:
    """One command to run; ``done`` is called once, when it has ended and nothing of it is left. ``cost``: so many slots
    are its own while it runs, in one of them."""

    __slots__ = ("cancelled", "cost", "done", "head", "payload", "slot", "stopped")

    def __init__(
        self, head: Mapping[str, Any], payload: bytes, done: Callable[[Job, Ended], None], cost: int = 1
    ) -> None:
        self.head = head
        self.cost = cost
        self.payload = payload
        self.done = done
        self.slot: _Slot | None = None
        self.cancelled = False
        self.stopped = False
        """Its task was cancelled, so it is not to run again."""


class _Slot:
    __slots__ = ("job", "sending", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.job: Job | None = None
        self.sending: asyncio.Task[None] | None = None


class ShellPool:
    """``slots`` commands run at once, the rest waits in order. ``settings`` are the host's, as it reads them.

    A command that costs several slots waits until so many are free, and those behind it wait as well: so however many
    small ones come, it has its turn.

    ``owner``: user and group of the commands' folders, where they are not this process's.
    """

    def __init__(self, slots: int, settings: Mapping[str, Any], owner: tuple[int, int] | None = None) -> None:
        self._size = slots
        self._settings = settings
        self._owner = owner
        self._folder = ""
        self._waiting: deque[Job] = deque()
        self._costs = 0
        self._taken = 0
        self._slots: list[_Slot] = []
        self._free: list[_Slot] = []
        self._host: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopping = False
        self._stop = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Slots that jobs will take which none has taken yet."""
        return self._costs

    @property
    def jobs_waiting(self) -> int:
        """Jobs that no slot has taken yet."""
        return len(self._waiting)

    @property
    def host_pid(self) -> int:
        """Process id of the host; 0 while there is none."""
        return self._host.pid if self._host is not None else 0

    async def start(self) -> None:
        """Returns when the host runs."""
        await self._launch()
        self._watcher = asyncio.create_task(self._watch(), name="delaybox-shell-host")

    async def stop(self) -> None:
        """Ends what runs, at once, and the host. Twice is harmless."""
        self._stopping = True
        self._stop.set()
        self._waiting.clear()
        self._costs = 0
        self._hang_up()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await asyncio.wait({watcher}, timeout=_STOP_S)
            watcher.cancel()

    def submit(self, job: Job) -> None:
        """Runs it as soon as a slot is free."""
        self._waiting.append(job)
        self._costs += job.cost
        self._feed()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Removes waiting jobs and ends running ones (SIGTERM, grace, SIGKILL). For the running ones ``done`` is still
        called."""
        gone = {id(job) for job in jobs if job.slot is None}
        self._waiting = deque(job for job in self._waiting if id(job) not in gone)
        self._costs = sum(job.cost for job in self._waiting)
        for job in jobs:
            job.cancelled = True
            if job.slot is not None:
                with contextlib.suppress(OSError):
                    job.slot.sock.send(frames.CANCEL)

    def end(self, job: Job) -> None:
        """As `cancel`, for one whose task was cancelled; ``done`` is called where no slot had taken it as well."""
        job.stopped = True
        waits = job.slot is None
        self.cancel([job])
        if waits:
            job.done(job, Ended({"why": "cancelled", "ms": 0}, b""))
            # If it waited for several slots, those behind it waited for it.
            self._feed()

    async def _launch(self) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(self._size)]
        self._folder = tempfile.mkdtemp(prefix="delaybox-shell-")
        numbers = [theirs.fileno() for _, theirs in pairs]
        try:
            if self._owner is not None:
                os.chown(self._folder, *self._owner)
            environment = minimal_environment()
            self._host = await asyncio.create_subprocess_exec(
                *python_module("delaybox.targets.shell_host", environment),
                json.dumps({**self._settings, "folder": self._folder}),
                *map(str, numbers),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                env=environment,
                pass_fds=numbers,
                start_new_session=True,
            )
        finally:
            for _, theirs in pairs:
                theirs.close()
        loop = asyncio.get_running_loop()
        self._slots = [_Slot(ours) for ours, _ in pairs]
        for slot in self._slots:
            slot.sock.setblocking(False)
            slot.sock.send(frames.HELLO)
            loop.add_reader(slot.sock, self._on_word, slot)
        self._free = list(self._slots)
        self._feed()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = RestartBackoff()
        while self._host is not None:
            since = loop.time()
            code = await self._host.wait()
            if self._stopping:
                return
            lived_s = loop.time() - since
            pause_s = backoff.pause_s(lived_s)
            log.error("%s", reason("host of the shell commands", code, lived_s, pause_s))
            self._hang_up()
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), pause_s)
                # The host removes it itself, unless it was killed; its slots are gone by now.
                shutil.rmtree(self._folder, ignore_errors=True)
                if self._stop.is_set():
                    return
                try:
                    await self._launch()
                    if self._stop.is_set():
                        # It was told of no stop: there was no host yet.
                        self._hang_up()
                    break
                except OSError as error:
                    pause_s = backoff.pause_s()
                    log.error(
                        "the host of the shell commands did not start: %s; trying again in %.1f s", error, pause_s
                    )

    def _hang_up(self) -> None:
        """Closes every socket: slots end with whatever they run."""
        slots, self._slots, self._free = self._slots, [], []
        for slot in slots:
            self._close(slot)
            self._ended(slot, _LOST)

    def _close(self, slot: _Slot) -> None:
        if slot.sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(slot.sock)
            slot.sock.close()

    def _feed(self) -> None:
        while self._waiting and self._free and not self._stopping:
            if self._taken + self._waiting[0].cost > self._size:
                return
            slot, job = self._free.pop(), self._waiting.popleft()
            slot.job, job.slot = job, slot
            self._costs -= job.cost
            self._taken += job.cost
            datagrams = list(frames.job(job.head, job.payload))
            try:
                slot.sock.send(datagrams[0])
            except OSError as error:
                # The slot is idle, so its buffer is empty. Sending can only fail because the host is dead, and its
                # watcher mends that.
                log.warning("a shell slot takes no job: %s", error)
                self._ended(slot, _LOST)
                return
            if len(datagrams) > 1:
                slot.sending = asyncio.create_task(self._send(slot, datagrams[1:]))

    async def _send(self, slot: _Slot, datagrams: Sequence[bytes]) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            for datagram in datagrams:
                await loop.sock_sendall(slot.sock, datagram)

    def _on_word(self, slot: _Slot) -> None:
        try:
            datagram = slot.sock.recv(frames.DATAGRAM)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            datagram = b""
        if not datagram:
            # The slot and its host are gone. The watcher starts new ones.
            if slot in self._free:
                self._free.remove(slot)
            self._close(slot)
            self._ended(slot, _LOST)
        elif datagram.startswith(frames.END):
            ended = Ended(*frames.read_end(datagram))
            self._ended(slot, ended)
            # A slot that could not get rid of everything that its command left also ends here, and is replaced.
            if not ended.details.get("survivors"):
                self._freed(slot)
            else:
                self._feed()
        else:
            self._ended(slot, _LOST)
            with contextlib.suppress(OSError):
                slot.sock.send(frames.HELLO)
            self._freed(slot)

    def _freed(self, slot: _Slot) -> None:
        if slot not in self._free:
            self._free.append(slot)
        self._feed()

    def _ended(self, slot: _Slot, ended: Ended) -> None:
        job, slot.job = slot.job, None
        if slot.sending is not None:
            slot.sending.cancel()
            slot.sending = None
        if job is not None:
            self._taken -= job.cost
            job.slot = None
            job.done(job, ended)
