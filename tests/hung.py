"""Ends a test run's process that a hung test holds: pytest-timeout raises once, and what it raises may be swallowed.

It raises in the main thread, wherever that is. A task of asyncio's or a callback takes it for its own failure, and who
waits for another thread or for foreign code never sees it. Then the whole run stood still until somebody killed it, and
nobody knew which test it was. So a process whose test goes on `GRACE_S` past its timeout writes the stacks of all its
threads and exits. xdist reports the test as failed, and goes on with a new process.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator

import pytest

GRACE_S = 60.0
"""From a test's timeout on: for how long its failure may take to come through, its fixtures' ends included."""

_stderr = 2


def pytest_configure() -> None:
    """Keeps the process's own stderr: while a test runs, pytest has a file in its place."""
    global _stderr
    _stderr = os.dup(2)


def pytest_unconfigure() -> None:
    os.close(_stderr)


def timeout_s(item: pytest.Item) -> float:
    """The test's timeout in seconds, as pytest-timeout reads it; 0: none."""
    if (marker := item.get_closest_marker("timeout")) is not None:
        return float(marker.args[0] if marker.args else marker.kwargs.get("timeout", 0))
    given = item.config.getoption("timeout", None)
    return float(item.config.getini("timeout") or 0) if given is None else float(given)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    limit_s = timeout_s(item)
    if limit_s > 0:
        faulthandler.dump_traceback_later(limit_s + GRACE_S, exit=True, file=_stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
