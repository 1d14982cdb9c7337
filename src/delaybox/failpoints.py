"""Named places where a fault test makes this process fail.

Here they do nothing, and nothing that a user can set changes that: what arms them is not installed, it lies with the
tests (tests/faults/harness/failpoints.py), which put their own function in the place of `hit`.
"""

from __future__ import annotations


def hit(name: str) -> None:
    """Does nothing. Callers write ``failpoints.hit(...)``, so that the tests' function is found when it is called."""
