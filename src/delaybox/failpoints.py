"""Named places where a fault test makes this process fail.

Here they do nothing, and no setting changes that. The code that arms them is not installed; it is part of the tests
(tests/faults/harness/failpoints.py), which replace `hit` by their own function.
"""

from __future__ import annotations


def hit(name: str) -> None:
    """Does nothing. Callers write ``failpoints.hit(...)``, so that they call the tests' function once it is in
    place."""
