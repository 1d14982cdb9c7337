"""A REST process for tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from delaybox.api.rest.settings import ApiSettings
from delaybox.api.rest.supervise import ApiProcess, spawn_api


@contextlib.asynccontextmanager
async def rest_process(**changes: Any) -> AsyncIterator[ApiProcess]:
    """One that is stopped at the end. ``changes`` to the settings: at least ``server``."""
    process = await spawn_api(ApiSettings(**{"port": 0, "grace_s": 3.0, **changes}))
    try:
        yield process
    finally:
        await process.stop()
