"""What the first process of a container does beside its work: it hands on signals and reaps orphans."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def as_init(main: Callable[[], int]) -> int:
    """Runs ``main`` and returns its exit code; in a child where this process is the first one (pid 1).

    Nobody else reaps what a command leaves behind there, and asyncio reaps only what it has started: a node in a
    container without an init would fill the table of processes. Call it before any thread or event loop is started.
    """
    if os.getpid() != 1:
        return main()
    # What comes before we are ready to hand it on has to wait, or it would be lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON)
    child = os.fork()
    if child == 0:
        # A terminal sends Ctrl-C to the whole group; it must reach the child once, from here.
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return main()

    def hand_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in _HANDED_ON:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
