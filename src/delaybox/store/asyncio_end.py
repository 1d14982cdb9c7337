"""Ends asyncio tasks that may be waiting for the server."""

from __future__ import annotations

import asyncio


async def end(task: asyncio.Task[None]) -> None:
    """Cancels a task until it is over.

    Once is not enough: Python 3.11's ``wait_for``, which redis-py sends with, swallows a cancellation that arrives
    together with its result, and the task goes on.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)
