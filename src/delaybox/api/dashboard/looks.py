"""What pages that renew themselves show of the store: looked up once for all that look at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")
_FRESH_S: Final = 1.5
"""Pages renew themselves every two seconds: so old may be what one of them finds."""


class Looks(Generic[_T]):
    """Asks ``ask``. A look at many queues reads some ten thousand entries, and many may look at them."""

    def __init__(self, ask: Callable[[], Awaitable[_T]]) -> None:
        self._ask = ask
        self._looking: asyncio.Future[_T] | None = None
        self._at = 0.0

    async def last(self, *, renewed: bool) -> _T:
        """What is there now; ``renewed``: or a moment ago, for a page that renews itself."""
        looking = self._looking
        now = time.monotonic()
        failed = looking is not None and looking.done() and (looking.cancelled() or looking.exception() is not None)
        if not renewed or looking is None or failed or now - self._at >= _FRESH_S:
            looking = self._looking = asyncio.ensure_future(self._ask())
            self._at = now
        # Shielded, because one who goes must not end the look of the others.
        return await asyncio.shield(looking)
