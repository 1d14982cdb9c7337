"""Makes processes that functions fork behave as in a script. Import it before gRPC.

Functions of a worker start all sorts of processes. At each fork gRPC's handlers write alarming lines to stderr ("Other
threads are currently calling into gRPC", "epoll_ctl failed"), and do nothing that a worker needs, because no child
goes on with its streams. gRPC reads this switch while it is imported; a value that is already set stays.
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
        # Processes that functions start do not inherit the switch.
        del os.environ[_SWITCH]


_ENDS: Final = (signal.SIGTERM, signal.SIGINT)
_masks = threading.local()
_listening = False


def set_free() -> None:
    """From now on forked processes drop this process's signal handlers, so that SIGTERM ends them.

    Otherwise SIGTERM to the child would be written into a pipe that both share, and this process would drain instead.
    """
    global _listening
    if not _listening:
        _listening = True
        os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_as_in_a_script)


def _hold_back() -> None:
    """Signals are blocked until the child has dropped the handlers."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _as_in_a_script() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _let_through()
