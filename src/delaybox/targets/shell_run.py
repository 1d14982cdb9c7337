"""A slot: a process that runs one command at a time and is the nearest subreaper of everything that command starts.

Whatever a command leaves behind (background processes, `setsid` escapes, double forks) becomes this process's child
when its own parent ends. So it is found without guessing, killed and reaped before the slot reports that the command
ended. A slot has no threads and no event loop; it lives as long as the node holds the other end of its socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delaybox.targets import shell_frames as frames
from delaybox.targets.shell_folder import Folder
from delaybox.targets.shell_output import Output

_PR_SET_CHILD_SUBREAPER = 36
_SWEEP_S = 0.8
"""How long a slot tries to kill leftovers before it gives up and ends; the host then goes on with them."""
_SHELL = "/bin/sh"
_NODE_GONE = "its node is gone"
_PIPE_BYTES = 64 * 1024
_IGNORED_HERE = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)
_FIRST_LOOK_S = 0.01
"""A command that ends within this time wakes its slot once; later its output is read as it comes."""

GAVE_UP = 4
"""Exit code of a slot that could not get rid of what a command left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSettings:
    """What is the same for every command. ``limits``: shell text of `ulimit` commands that ends in `; `."""

    folder: str
    limits: str
    path: str
    lang: str
    grace_ms: int
    output_bytes: int


def become_subreaper() -> None:
    """From now on orphans below this process become its children."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def kill_children(spare: Collection[int] = ()) -> None:
    """Kills this process's children. What these leave in turn is found by the next call."""
    for pid in _children().difference(spare):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _children() -> set[int]:
    me = os.getpid()
    with contextlib.suppress(OSError):  # a kernel without CONFIG_PROC_CHILDREN has no such file
        return {int(pid) for pid in Path(f"/proc/self/task/{me}/children").read_text().split()}
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name in brackets may hold anything; the parent is the second field after it.
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == me:
                    found.add(int(entry.name))
    return found


class Slot:
    """Serves the jobs that come in on ``control``, one after the other, until its other end is closed."""

    def __init__(self, control: socket.socket, settings: SlotSettings) -> None:
        self._control = control
        self._settings = settings
        self._nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._folder = Folder(settings.folder)

    def serve(self) -> int:
        """Returns the exit code."""
        become_subreaper()
        while (datagram := self._control.recv(frames.DATAGRAM)) != frames.HELLO:
            if not datagram:
                return 0
        while True:
            datagram = self._control.recv(frames.DATAGRAM)
            if not datagram:
                return 0
            if not datagram.startswith(frames.JOB):
                continue  # a cancel that came too late
            head, total, start = frames.job_head(datagram)
            payload = bytearray(start)
            while len(payload) < total:
                datagram = self._control.recv(frames.DATAGRAM)
                if not datagram.startswith(frames.MORE):
                    break
                payload += datagram[1:]
            if not datagram:
                return 0
            if len(payload) < total:
                self._control.send(frames.end({"error": "cancelled", "why": "cancelled", "ms": 0}, b""))
                continue
            run = _Run(self._control, self._settings, self._folder, self._nothing, head, bytes(payload))
            details, output = run.run()
            clean = self._folder.leave()
            with contextlib.suppress(OSError):
                self._control.send(frames.end(details, output))
            if not clean:
                self._folder.wipe()
            if details.get("survivors"):
                return GAVE_UP


class _Run:
    """One command from start to nothing left."""

    def __init__(
        self,
        control: socket.socket,
        settings: SlotSettings,
        folder: Folder,
        nothing: int,
        head: dict[str, Any],
        payload: bytes,
    ) -> None:
        self._control = control
        self._settings = settings
        self._head = head
        self._payload = payload
        self._nothing = nothing
        self._output = Output(settings.output_bytes)
        self._folder = folder
        self._pid = 0
        self._why = ""

    def run(self) -> tuple[dict[str, Any], bytes]:
        """How it ended, and what it printed."""
        started = time.monotonic()
        details: dict[str, Any] = {}
        try:
            self._folder.enter()
            pipe = self._start()
        except (OSError, ValueError) as error:
            return {"error": str(error), "errno": getattr(error, "errno", None) or 0, "ms": 0}, b""
        try:
            self._watch(pipe, started + self._head["timeout_ms"] / 1000)
            # While the command's process is not reaped, its process id still names the group.
            self._kill(signal.SIGKILL)
            status = os.waitpid(self._pid, 0)[1]
            details["code"] = os.waitstatus_to_exitcode(status)
            details["survivors"] = not self._sweep()
            with contextlib.suppress(BlockingIOError):
                # Nobody writes any more: this is what the pipe still holds.
                while data := os.read(pipe, _PIPE_BYTES):
                    self._output.add(data)
                    if details["survivors"]:
                        break
        finally:
            os.close(pipe)
        details["ms"] = int((time.monotonic() - started) * 1000)
        details["why"] = self._why
        details["truncated"] = self._output.truncated
        return details, self._output.kept()

    def _start(self) -> int:
        """Spawns; returns the end of the pipe that its output comes out of."""
        s, head = self._settings, self._head
        argv: list[str | bytes]
        stdin = self._nothing
        if command := head.get("argv"):
            argv = ["sh", "-c", f'{s.limits}exec "$@"', "sh", *command]
            stdin = os.memfd_create("payload")
        else:
            # The limits stand in the same shell and line as the payload: a second exec would halve the rate.
            argv = ["sh", "-c", s.limits.encode() + self._payload]
        environment = {
            "PATH": s.path,
            "LANG": s.lang,
            "DELAYBOX_TASK_ID": head["id"],
            "DELAYBOX_ATTEMPT": str(head["attempt"]),
            "DELAYBOX_FENCING": str(head["token"]),
            **head.get("trace", {}),
        }
        reading, writing = os.pipe()
        try:
            if command:
                self._fill(stdin)
            self._pid = os.posix_spawn(
                _SHELL,
                argv,
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, source, to) for source, to in ((stdin, 0), (writing, 1), (1, 2))],
                setsid=True,
                setsigdef=_IGNORED_HERE,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
            if command:
                os.close(stdin)
        os.set_blocking(reading, False)
        return reading

    def _fill(self, fd: int) -> None:
        rest = memoryview(self._payload)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.lseek(fd, 0, os.SEEK_SET)

    def _watch(self, pipe: int, deadline: float) -> None:
        """Returns when the command's own process has ended. Ends it at the deadline, or when the node cancels it."""
        pidfd = os.pidfd_open(self._pid)
        control = self._control.fileno()
        poll = select.poll()
        for fd in (pidfd, control):
            poll.register(fd, select.POLLIN)
        try:
            if dict(poll.poll(max(0.0, min(_FIRST_LOOK_S, deadline - time.monotonic())) * 1000)).get(pidfd):
                return
            poll.register(pipe, select.POLLIN)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    deadline = self._end("timed out")
                    continue
                ready = dict(poll.poll(min(left * 1000 + 1, 3_600_000)))
                if control in ready and (why := self._end_asked()):
                    poll.unregister(control)
                    deadline = self._end(why)
                if pipe in ready and not self._read(pipe):
                    poll.unregister(pipe)
                if pidfd in ready:
                    return
        finally:
            os.close(pidfd)

    def _end_asked(self) -> str:
        """Why the command must be ended now (cancelled, timed out, the node is gone), if it must."""
        try:
            datagram = self._control.recv(frames.DATAGRAM, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return ""
        except OSError:
            datagram = b""
        if datagram == frames.CANCEL:
            return "cancelled"
        return "" if datagram else _NODE_GONE

    def _end(self, why: str) -> float:
        """Asks the command to end; called again, kills it. Returns until when that may take."""
        asked, self._why = self._why, self._why or why
        if asked or why == _NODE_GONE:
            self._kill(signal.SIGKILL)
            return time.monotonic() + 1.0
        self._kill(signal.SIGTERM)
        self._kill(signal.SIGCONT)
        return time.monotonic() + self._settings.grace_ms / 1000

    def _read(self, pipe: int) -> bool:
        with contextlib.suppress(BlockingIOError):
            data = os.read(pipe, _PIPE_BYTES)
            self._output.add(data)
            return bool(data)
        return True

    def _kill(self, number: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._pid, number)

    def _sweep(self) -> bool:
        """Ends processes that left the command's group; False when some are still there."""
        with contextlib.suppress(ChildProcessError):
            end = time.monotonic() + _SWEEP_S
            while time.monotonic() < end:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
                kill_children()
                time.sleep(0.001)
            return False
        return True
