"""Raises the number of files and connections that a process may have open."""

from __future__ import annotations

import contextlib
import resource

PLENTY = 65_536
"""Files that a process may need at once, connections included. Many systems begin with a limit of 1,024."""


def raise_limit(wanted: int = PLENTY) -> int:
    """Raises this process's limit of open files to ``wanted``, or as far as the system allows. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if soft == resource.RLIM_INFINITY else soft
