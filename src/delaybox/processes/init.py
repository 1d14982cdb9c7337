"""Does what the first process of a container must do beside its work: it passes on signals and reaps orphans."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def as_init(main: Callable[[], int]) -> int:
    """Runs ``main`` and returns its exit code; in a child where this process is the first one (pid 1).

    In a container nobody else reaps processes that a command leaves behind, and asyncio reaps only those that it
    started: without an init a node would fill the table of processes. Call it before any thread or event loop is
    started.
    """
    if os.getpid() != 1:
        return main()
    # A signal that comes before it can be passed on must wait, or it would be lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON)
    child = os.fork()
    if child == 0:
        # A terminal sends Ctrl-C to the whole group; the child must get it once only, from here.
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
