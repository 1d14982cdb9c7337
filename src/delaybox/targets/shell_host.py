"""The shell host: forks the slots, forks them again when they die, and kills what a dead one left behind.

``python -m delaybox.targets.shell_host SETTINGS FD...``: one slot for each socket. It ends when the node has closed all
of them, and then leaves no process and no folder. It is kept small, because each slot is a forked copy of it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pwd
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from delaybox.processes.hardening import no_new_privileges, not_dumpable
from delaybox.targets import shell_frames as frames
from delaybox.targets.shell_run import Slot, SlotSettings, become_subreaper, kill_children

_PAUSE_S = 0.05
_LAST_SWEEP_S = 10.0
_API_THREADS = 32


class ShellHost:
    """Runs until all slots have ended because their sockets were closed."""

    def __init__(self, controls: list[socket.socket], settings: SlotSettings) -> None:
        self._settings = settings
        self._controls = controls
        self._slots: dict[int, socket.socket] = {}

    def run(self) -> None:
        """Blocks until the node is gone."""
        become_subreaper()
        gc.freeze()
        waiting = list(self._controls)
        while waiting or self._slots:
            waiting = [control for control in waiting if not self._fork(control)]
            pid, status = self._next_end(block=not waiting)
            control = self._slots.pop(pid, None)
            if control is None:
                # A process that a dead slot left behind; its own children may have become ours by now.
                kill_children(self._slots.keys())
            elif os.waitstatus_to_exitcode(status):
                kill_children(self._slots.keys())
                with contextlib.suppress(OSError):
                    control.send(frames.LOST)
                waiting.append(control)
        end = time.monotonic() + _LAST_SWEEP_S
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < end:
                kill_children()
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    time.sleep(0.002)

    def _fork(self, control: socket.socket) -> bool:
        try:
            pid = os.fork()
        except OSError:
            return False
        if pid:
            self._slots[pid] = control
            return True
        code = 1
        try:
            for other in self._controls:
                if other is not control:
                    other.close()
            code = Slot(control, self._settings).serve()
        except ConnectionError:
            code = 0
        finally:
            os._exit(code)

    def _next_end(self, *, block: bool) -> tuple[int, int]:
        if block:
            return os.waitpid(-1, 0)
        time.sleep(_PAUSE_S)
        try:
            return os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 0, 0


def limit_commands(limits: dict[str, int], *, own: int) -> str:
    """Shell text that sets the limits or ends with 125. A limit of 0 is left as it is; core files are always off.

    Shells disagree on the letter for processes. ``processes`` is counted on top of what the user runs now, because the
    system counts all of a user's processes and threads together (and does not hold root to it); ``own`` are those that
    the node still starts itself.
    """
    r = resource
    wanted = [("c", 0, 1, r.RLIMIT_CORE)]
    if cpu := limits["cpu_s"]:
        wanted.append(("t", cpu, 1, r.RLIMIT_CPU))
    if memory := limits["memory"]:
        wanted.append(("v", memory, 1024, r.RLIMIT_AS))
    if size := limits["file_size"]:
        wanted.append(("f", size, 512, r.RLIMIT_FSIZE))
    if files := limits["open_files"]:
        wanted.append(("n", files, 1, r.RLIMIT_NOFILE))
    if processes := limits["processes"]:
        letter = "u" if _knows("u") else "p"
        wanted.append((letter, processes + own + _running(os.getuid()), 1, r.RLIMIT_NPROC))
    parts = []
    for letter, value, unit, number in wanted:
        hard = r.getrlimit(number)[1]
        value = value if hard == r.RLIM_INFINITY else min(value, hard)
        parts.append(f"ulimit -{letter} {value // unit}")
    return " && ".join(parts) + " || { echo 'delaybox: a limit cannot be set' >&2; exit 125; }; "


def _knows(letter: str) -> bool:
    return not subprocess.run(["/bin/sh", "-c", f"ulimit -{letter}"], capture_output=True, check=False).returncode


def _running(uid: int) -> int:
    """Threads of this user."""
    count = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                count += sum(1 for _ in (entry / "task").iterdir())
    return count


def _become(name: str) -> None:
    """Gives up every right of the node's user that the commands' user does not have."""
    user = pwd.getpwnam(name)
    if (os.getuid(), os.geteuid()) == (user.pw_uid, user.pw_uid):
        return
    os.initgroups(name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def _close_others(kept: set[int]) -> None:
    """Closes files that the node's own parent left open for the node: commands must not have them."""
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are all that is wanted
        if int(entry) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(entry))


def main(argv: list[str]) -> int:
    """Runs the host; the exit code."""
    settings: dict[str, Any] = json.loads(argv[1])
    numbers = [int(number) for number in argv[2:]]
    if user := settings.pop("user"):
        _become(user)
    # Slots are copies of this process and commands are their children, so none of them gets a right that is given up
    # here.
    no_new_privileges()
    not_dumpable()
    _close_others({0, 1, 2, *numbers})
    for number in numbers:
        os.set_inheritable(number, False)
    controls = [socket.socket(fileno=number) for number in numbers]
    # A terminal's Ctrl-C and a service manager's SIGTERM are meant for the node, which then closes the sockets.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    try:
        limits = limit_commands(settings.pop("limits"), own=len(controls) + _API_THREADS)
        ShellHost(controls, SlotSettings(limits=limits, **settings)).run()
    finally:
        shutil.rmtree(settings["folder"], ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
