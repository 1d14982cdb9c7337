"""Processes that functions fork off are as they would be in a script. To be imported before gRPC is.

A worker's functions start processes of all sorts. gRPC's handlers around a fork then write frightening lines to stderr
("Other threads are currently calling into gRPC", "epoll_ctl failed"), and do nothing that a worker needs: no child goes
on with its streams. gRPC reads this switch while it is imported. Whoever sets it decides.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Final

_SWITCH: Final = "GRPC_ENABLE_FORK_SUPPORT"

if "grpc" not in sys.modules and _SWITCH not in os.environ:
    os.environ[_SWITCH] = "0"
    try:
        import grpc  # noqa: F401 - that it is imported is all
    finally:
        # The processes that functions start decide for themselves.
        del os.environ[_SWITCH]


_ENDS: Final = (signal.SIGTERM, signal.SIGINT)
_masks = threading.local()
_listening = False


def set_free() -> None:
    """From now on a process that this one forks off can be told to end: it does not keep this one's signal handlers.

    Else SIGTERM would not end it, but go through a pipe that both share to this one, which would drain.
    """
    global _listening
    if not _listening:
        _listening = True
        os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_as_in_a_script)


def _hold_back() -> None:
    """A signal that the child gets before its handlers are gone waits."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _as_in_a_script() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _let_through()
