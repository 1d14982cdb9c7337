"""A REST process for tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from delaybox.api.rest.settings import ApiSettings
from tests.children import Served, serving


@contextlib.asynccontextmanager
async def rest_process(*, port: int = 0, **changes: Any) -> AsyncIterator[Served]:
    """One that is stopped at the end. ``changes`` to the settings: at least ``server``."""
    process = await serving(ApiSettings(**{"grace_s": 3.0, **changes}), port=port)
    try:
        yield process
    finally:
        await process.stop()
