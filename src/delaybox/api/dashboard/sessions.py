"""Who is logged in: a signed cookie that names a token without holding it, and the brake on guessing tokens.

Nothing is kept of a session, so it goes on when a process is started again, and holds at every node of the store. It
ends with its token: one that is taken out of the configuration, or expires, opens nothing any more. Whoever has the
secret can forge no session of a token by it alone: that takes the token's hash, which only the nodes' configuration
has, or a cookie that names the token.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

from delaybox.core.scopes import EVERYTHING, Grant, Token

LASTS_S: Final = 12 * 3600
_NOTE_S: Final = 30
_LONGEST: Final = 4_000


class Session(NamedTuple):
    """``token``: the reference of the token that opened it; "": nobody is logged in. ``nonce``: random, for each."""

    token: str
    nonce: str
    until_s: int


class Sessions:
    """Makes and reads the cookies. ``secret`` "": a random one, until it is given one. ``now_s``: the clock by which
    they end."""

    def __init__(self, secret: str, accepted: Sequence[Token], *, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._accepted = accepted
        self.open = not accepted
        """No tokens are configured, so nobody has to log in."""
        self.sign_with(secret or secrets.token_hex(32))

    def sign_with(self, secret: str) -> None:
        """Takes another secret. Cookies that were signed with the one before are none any more."""
        self._key = secret.encode()
        self._tokens = {self._reference(token.digest): token for token in self._accepted}

    def begin(self, token: str = "") -> Session:
        """A new session, of whoever holds ``token``, which must be one of the node's; without one of nobody."""
        reference = self._reference(hashlib.sha256(token.encode()).hexdigest()) if token else ""
        return Session(reference, secrets.token_urlsafe(12), int(self._now_s()) + LASTS_S)

    def encode(self, session: Session) -> str:
        """The cookie's value."""
        return self._signed("session", json.dumps(session))

    def read(self, cookie: str) -> Session | None:
        """The session in a cookie; None where it is forged, over, or none."""
        text = self._checked("session", cookie)
        try:
            session = Session(*json.loads(text)) if text else None
        except (ValueError, TypeError):
            return None
        return session if session is not None and session.until_s > self._now_s() else None

    def lasts(self, session: Session) -> bool:
        """Whether a session allows anything still."""
        return session.until_s > self._now_s() and self.grant(session) is not None

    def grant(self, session: Session | None) -> Grant | None:
        """What a session allows; None where somebody must log in."""
        if self.open:
            return EVERYTHING
        token = self._tokens.get(session.token) if session is not None and session.token else None
        if token is None or (token.expires_ms and token.expires_ms <= self._now_s() * 1000):
            return None
        return frozenset(token.scopes)

    def form_token(self, session: Session) -> str:
        """What every form of a session carries, so that no other site can send one."""
        return self._mac("form", session.nonce)[:32]

    def genuine(self, session: Session, given: str) -> bool:
        """Whether a form is one of this session's."""
        return hmac.compare_digest(self.form_token(session).encode(), given.encode("utf-8", "replace"))

    def note(self, text: str) -> str:
        """The value of a short-lived cookie that carries a message to the next page."""
        return self._signed("note", json.dumps([text[:500], int(self._now_s()) + _NOTE_S]))

    def read_note(self, cookie: str) -> str:
        """The message in such a cookie; "" for none."""
        text = self._checked("note", cookie)
        if not text:
            return ""
        words, until_s = json.loads(text)
        return str(words) if until_s > self._now_s() else ""

    def _reference(self, digest: str) -> str:
        # Not the digest: whoever finds the cookie shall not be able to try tokens against it.
        return self._mac("token", digest)[:32]

    def _mac(self, what: str, text: str) -> str:
        return hmac.new(self._key, f"{what}:{text}".encode(), hashlib.sha256).hexdigest()

    def _signed(self, what: str, text: str) -> str:
        body = urlsafe_b64encode(text.encode()).decode().rstrip("=")
        return f"{body}.{self._mac(what, body)}"

    def _checked(self, what: str, cookie: str) -> str:
        body, _, mac = cookie.partition(".")
        if len(cookie) > _LONGEST or not hmac.compare_digest(mac.encode(), self._mac(what, body).encode()):
            return ""
        return urlsafe_b64decode(body + "=" * (-len(body) % 4)).decode()


class Brake:
    """Slows down whoever tries tokens: by address, and all together.

    After `FREE` failures an address waits, twice as long after each further one. What it sends meanwhile is not looked
    at. ``now_s``: a clock that only goes forward.
    """

    FREE: Final = 5
    LONGEST_S: Final = 60.0
    TOGETHER: Final = 300
    """Failures a minute over all addresses, after which nobody can log in until the minute is over."""
    _FORGET_S = 900.0
    _ADDRESSES = 4_096

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._minute = 0
        self._in_minute = 0

    def wait_s(self, address: str) -> float:
        """How long this address has to wait before its next try; 0: not at all."""
        now = self._now_s()
        failures, last = self._failed.get(_net(address), (0, 0.0))
        wait = 0.0
        if failures >= self.FREE and now - last < self._FORGET_S:
            wait = last + min(self.LONGEST_S, 2.0 ** min(failures - self.FREE, 10)) - now
        if int(now // 60) == self._minute and self._in_minute >= self.TOGETHER:
            wait = max(wait, 60.0 - now % 60)
        return max(0.0, wait)

    def failed(self, address: str) -> None:
        """Counts a try that failed."""
        now, net = self._now_s(), _net(address)
        failures, last = self._failed.pop(net, (0, now))
        self._failed[net] = (1 if now - last >= self._FORGET_S else failures + 1, now)
        while len(self._failed) > self._ADDRESSES:
            self._failed.popitem(last=False)
        if int(now // 60) != self._minute:
            self._minute, self._in_minute = int(now // 60), 0
        self._in_minute += 1

    def succeeded(self, address: str) -> None:
        """Forgets the failures of an address."""
        self._failed.pop(_net(address), None)


def _net(address: str) -> str:
    """Who holds one IPv6 address holds the 2^64 beside it."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        return found.ipv4_mapped.compressed if found.ipv4_mapped else found.exploded[:19]
    return address
