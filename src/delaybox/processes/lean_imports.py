"""A quick start of a node's child, whose parent waits while it imports what it needs."""

from __future__ import annotations

import gc
import sys
from types import ModuleType
from typing import cast

_SDK = "opentelemetry.sdk.metrics"


def lean() -> None:
    """Call it before anything else is imported, and `settled` when everything is."""
    # What is imported is never given back, so that each search for garbage is in vain.
    gc.disable()
    # redis-py loads the SDK, where that is installed, for figures of its own that nobody here switches on. It does
    # without where the SDK is missing, and so it seems to be until `settled`.
    sys.modules.setdefault(_SDK, cast(ModuleType, None))


def settled() -> None:
    """Everything is imported: the process goes on as any other."""
    gc.enable()
    if not sys.modules.get(_SDK):
        sys.modules.pop(_SDK, None)
