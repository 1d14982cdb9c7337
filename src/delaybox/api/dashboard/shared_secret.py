"""Takes the secret of the sessions from the store, where none is configured."""

from __future__ import annotations

import asyncio
from typing import Final

from delaybox.api.dashboard.sessions import Sessions
from delaybox.core.errors import DelayBoxError, StoreFull, StoreUnavailable
from delaybox.service import Service

_AGAIN_S: Final = 2.0


class SharedSecret:
    """Gives it to the sessions before it is needed first. While the store is away they go on with what they have."""

    def __init__(self, service: Service, sessions: Sessions) -> None:
        self._service = service
        self._sessions = sessions
        self._known = ""
        self._asked_at = float("-inf")

    async def learn(self, cookie: str) -> None:
        """Asks the store unless the secret is known; and now and then for a cookie that cannot be read, for another
        secret may lie there since the store was made anew. StoreUnavailable: whether the cookie is good cannot be known
        yet."""
        if self._known and (not cookie or self._sessions.read(cookie) is not None):
            return
        now = asyncio.get_running_loop().time()
        if self._known and now - self._asked_at < _AGAIN_S:
            return
        self._asked_at = now
        try:
            found = await self._service.dashboard_secret()
        except DelayBoxError as error:
            away = isinstance(error, StoreUnavailable) and not isinstance(error, StoreFull)
            if away and not self._known and cookie and self._sessions.read(cookie) is None:
                # The form for a token would set another cookie in place of one that may be good.
                raise
            return
        if found != self._known:
            self._known = found
            self._sessions.sign_with(found)
