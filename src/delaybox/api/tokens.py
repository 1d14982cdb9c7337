"""Bearer tokens, as every front end asks for them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from delaybox.core.access import EVERYTHING, Grant, Token
from delaybox.core.errors import Unauthenticated

_CACHE_CAP = 1024


class Tokens:
    """The tokens that a node accepts; none: nobody is asked for one."""

    def __init__(self, accepted: Sequence[Token]) -> None:
        self._accepted = tuple((bytes.fromhex(t.digest), frozenset(t.scopes)) for t in accepted)
        self._callers: dict[bytes, Grant] = {}

    def grant(self, authorization: bytes) -> Grant:
        """What the bearer token in an Authorization header allows; everything where none is asked for.

        Unauthenticated. The one place that knows.
        """
        if not self._accepted:
            return EVERYTHING
        # By digest, so that the cache holds no secret; only tokens that were found good are in it.
        digest = hashlib.sha256(authorization).digest()
        known = self._callers.get(digest)
        if known is None:
            known = self._callers[digest] = self._authenticate(authorization)
            if len(self._callers) > _CACHE_CAP:
                self._callers.clear()
        return known

    def _authenticate(self, given: bytes) -> Grant:
        scheme, _, token = given.partition(b" ")
        token = token.strip()
        if not token or scheme.lower() != b"bearer":
            raise Unauthenticated(
                "this node asks for a token; send the header Authorization: Bearer <one of auth.tokens>", given=False
            )
        digest = hashlib.sha256(token).digest()
        grant: Grant | None = None
        for candidate, allowed in self._accepted:
            # No early end: the time must not tell which token was near.
            if hmac.compare_digest(digest, candidate):
                grant = allowed
        if grant is None:
            raise Unauthenticated(
                "this token is not one of the node's auth.tokens; correct it in Authorization: Bearer <token>",
                given=True,
            )
        return grant
