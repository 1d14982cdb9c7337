"""Protects a process from others of the same user, above all from shell commands.

A user's processes may read each other's environment and memory under /proc, where a node's secrets are, and trace each
other. On Linux a process can refuse that.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

KEPT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
)
"""Variables that a program may need to start at all, wherever it and Python are installed."""

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def minimal_environment() -> dict[str, str]:
    """This process's environment, reduced to the variables that another process needs to start: no secrets."""
    return {name: value for name in KEPT if (value := os.environ.get(name)) is not None}


def python_module(module: str, environment: dict[str, str]) -> list[str]:
    """The command that runs a module of DelayBox in ``environment``, and never one that lies in the working folder."""
    # Only for `python -m delaybox` in a folder with the source the package itself is found through the working folder.
    root = str(Path(__file__).parents[2])
    if root == str(Path.cwd()):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    return [sys.executable, "-P", "-m", module]


def not_dumpable() -> None:
    """Nobody but root may look into this process, trace it, or find it in a core file. Not kept over exec."""
    _prctl(_PR_SET_DUMPABLE, 0)


def no_new_privileges() -> None:
    """This process and all that it starts can gain no rights by running a program (set-uid, file capabilities)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")
