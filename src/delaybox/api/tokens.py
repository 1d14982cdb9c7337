"""Checks bearer tokens, for every front end."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence

from delaybox.core.errors import Unauthenticated
from delaybox.core.scopes import EVERYTHING, Grant, Token
from delaybox.wire.json.moments import render_moment

_CACHE_CAP = 1024


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Tokens:
    """The tokens that a node accepts; without any, callers need none. ``now_ms``: the clock by which they expire."""

    def __init__(self, accepted: Sequence[Token], *, now_ms: Callable[[], int] = _now_ms) -> None:
        self._accepted = tuple((bytes.fromhex(t.digest), (frozenset(t.scopes), t.expires_ms)) for t in accepted)
        self._now_ms = now_ms
        self._callers: dict[bytes, tuple[Grant, int]] = {}

    def grant(self, authorization: bytes) -> Grant:
        """What the bearer token in an Authorization header allows; everything where the node has no tokens.

        Unauthenticated.
        """
        if not self._accepted:
            return EVERYTHING
        # Kept by digest, so that the cache holds no secret, and only for valid tokens.
        digest = hashlib.sha256(authorization).digest()
        known = self._callers.get(digest)
        if known is None:
            known = self._callers[digest] = self._authenticate(authorization)
            if len(self._callers) > _CACHE_CAP:
                self._callers.clear()
        grant, expires_ms = known
        if expires_ms and expires_ms <= self._now_ms():
            raise Unauthenticated(
                f"this token expired at {render_moment(expires_ms)}; ask for a new one (`delaybox token` makes it)",
                given=True,
            )
        return grant

    def _authenticate(self, given: bytes) -> tuple[Grant, int]:
        scheme, _, token = given.partition(b" ")
        token = token.strip()
        if not token or scheme.lower() != b"bearer":
            raise Unauthenticated(
                "this node asks for a token; send the header Authorization: Bearer <one of auth.tokens>", given=False
            )
        digest = hashlib.sha256(token).digest()
        found: tuple[Grant, int] | None = None
        for candidate, allowed in self._accepted:
            # The loop does not end early, because its duration must not show which token was similar.
            if hmac.compare_digest(digest, candidate):
                found = allowed
        if found is None:
            raise Unauthenticated(
                "this token is not one of the node's auth.tokens; correct it in Authorization: Bearer <token>",
                given=True,
            )
        return found
