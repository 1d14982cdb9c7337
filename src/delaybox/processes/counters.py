"""The folder in which the processes of a node keep their counters, so that each of them can show the sum of all.

prometheus-client reads the folder from the environment when it is imported, so a child gets the variable at its start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
NAME_VARIABLE = "DELAYBOX_COUNTED_AS"
EXAMPLES = "examples_{}.bin"
"""Of a process by its name: see `processes.examples`."""
_PREFIX = "delaybox-metrics-"
_YOUNG_S = 60


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """A temporary folder for the counters of this node's processes. Removes folders that killed nodes left behind."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Keeps others: another user's cannot be opened, a living node's is locked, one that is just being made is
        # young.
        with contextlib.suppress(OSError), _locked(left):
            if time.time() - left.stat().st_mtime > _YOUNG_S:
                shutil.rmtree(left)
    made = tempfile.mkdtemp(prefix=_PREFIX)
    try:
        # It waits for a node that looks at this very moment whether the folder was left behind.
        with _locked(Path(made), wait=True):
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def forget(made: str, name: str) -> None:
    """Removes the gauges of a process that ended, which show the moment, and its examples; its counters stay in the
    sums. ``name``: its process id, unless it counted under another name."""
    for left in Path(made).glob(f"gauge_live*_{name}.db"):
        left.unlink(missing_ok=True)
    (Path(made) / EXAMPLES.format(name)).unlink(missing_ok=True)


def environment(made: str, name: str = "") -> dict[str, str]:
    """This process's environment for a child that counts there; "": for one that counts for itself. ``name``: under
    which it counts; its process id unless given."""
    given = {key: value for key, value in os.environ.items() if key not in (VARIABLE, NAME_VARIABLE)}
    if made:
        given |= {VARIABLE: made}
        if name:
            given |= {NAME_VARIABLE: name}
    return given


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the folder's lock, which ends with this process; OSError where another one has it. ``wait``: until it is
    free."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)
