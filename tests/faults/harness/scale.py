"""How large a run is: short in `make test`, whole in `make test-faults`."""

from __future__ import annotations

import os
from typing import TypeVar

_T = TypeVar("_T")

FULL = os.environ.get("DELAYBOX_FAULTS") == "full" or os.environ.get("DELAYBOX_FAULTS_FULL") == "1"
WHOLE = 100_000
SEED = int(os.environ.get("DELAYBOX_FAULTS_SEED", "417"))


def scaled(short: _T, full: _T) -> _T:
    """``short`` in `make test`, ``full`` in `make test-faults`."""
    return full if FULL else short
