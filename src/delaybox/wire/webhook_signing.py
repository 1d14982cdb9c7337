"""How webhooks are signed, and how receivers verify it: Standard Webhooks 1.0. Public as `delaybox.webhook`."""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Final

TOLERANCE_S: Final = 300
"""How far the timestamp of a signature may be from now, as the standard advises."""
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 64
PREFIX: Final = "whsec_"
ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"


class NotVerified(Exception):
    """The request was not sent by somebody who has the secret, or not lately."""


def key_of(secret: str) -> bytes:
    """The key in a secret: base64, mostly with ``whsec_`` before it. ValueError for what is none."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(
            f"the secret is not base64; make one with: openssl rand -base64 32 (and {PREFIX} before it)"
        ) from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(
            f"the secret holds {len(key)} bytes; use {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES}, such as openssl rand "
            "-base64 32 makes"
        )
    return key


def sign(message_id: str, timestamp: int, body: bytes, keys: Sequence[bytes]) -> str:
    """The value of ``webhook-signature``: one signature for each key. ``timestamp``: Unix seconds."""
    content = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, content, 'sha256')).decode()}" for key in keys)


def verify(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    tolerance_s: float = TOLERANCE_S,
    now_s: float | None = None,
) -> str:
    """The request's ``webhook-id``, the same for every attempt of one task; NotVerified for a request that is not true.

    ``body``: as it came, before anything has parsed it. ``headers``: names in any case. ``secret``: one or several, of
    which any may have signed. ``now_s``: Unix seconds; the machine's clock unless given.
    """
    found = {name.lower(): value for name, value in headers.items() if name.lower() in (ID, TIMESTAMP, SIGNATURE)}
    if len(found) < 3 or not all(found.values()):
        raise NotVerified(f"the request has no {ID}, {TIMESTAMP} or {SIGNATURE}")
    text = found[TIMESTAMP]
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise NotVerified(f"{TIMESTAMP} is not a number of seconds")
    timestamp = int(text)
    away = (time.time() if now_s is None else now_s) - timestamp
    if abs(away) > tolerance_s:
        raise NotVerified(f"the request was signed {away:.0f} s ago, more than {tolerance_s:.0f} s away from now")
    raw = body.encode() if isinstance(body, str) else body
    keys = [key_of(one) for one in ([secret] if isinstance(secret, str) else secret)]
    try:
        expected = [one.encode() for one in sign(found[ID], timestamp, raw, keys).split(" ")] if keys else []
    except UnicodeEncodeError:
        raise NotVerified(f"{ID} is not text") from None
    good = False
    for given in found[SIGNATURE].split(" "):
        for one in expected:
            good |= hmac.compare_digest(one, given.encode("utf-8", "surrogatepass"))
    if not good:
        raise NotVerified("no signature fits: another secret was used, or the body is not the one that was signed")
    return found[ID]
