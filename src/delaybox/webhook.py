"""Signatures of webhooks, for those who receive them: Standard Webhooks 1.0. Needs nothing but Python.

from delaybox import webhook

webhook.verify(body, headers, "whsec_...")      # raises webhook.NotVerified
"""

from __future__ import annotations

from delaybox.wire.webhook_signing import (
    ID,
    MAX_SECRET_BYTES,
    MIN_SECRET_BYTES,
    PREFIX,
    SIGNATURE,
    TIMESTAMP,
    TOLERANCE_S,
    NotVerified,
    key_of,
    sign,
    verify,
)

__all__ = [
    "ID",
    "MAX_SECRET_BYTES",
    "MIN_SECRET_BYTES",
    "PREFIX",
    "SIGNATURE",
    "TIMESTAMP",
    "TOLERANCE_S",
    "NotVerified",
    "key_of",
    "sign",
    "verify",
]
