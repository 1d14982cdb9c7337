"""A runner that sends calls twice now and then."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from delaybox.store.loader import ScriptCall, ScriptRunner
from delaybox.store.servers import Send
from tests.lab import CLOCK

# What a node that never got the first answer counts with: the second one.
_SECOND_COUNTS = {"claim", "expand", "index", "schedule"}


class TwiceRunner(ScriptRunner):
    """Sends some calls twice, as a node does whose connection broke before the answer came."""

    def __init__(self, send: Send, rng: random.Random) -> None:
        super().__init__(send, clock=CLOCK)
        self.rng = rng

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        first = await super().run_many(calls)
        if self.rng.random() > 0.2:
            return first
        second = await super().run_many(calls)
        for call, a, b in zip(calls, first, second, strict=True):
            if call.script == "schedule":
                assert a == b, f"a schedule sent again answers {b} instead of {a}"
            if call.script == "claim" and a[2]:
                assert pairs(a[2]) == pairs(b[2]), "a claim sent again hands out something else"
                assert b[3] == [], "a claim sent again fires something else"
        return [b if call.script in _SECOND_COUNTS else a for call, a, b in zip(calls, first, second, strict=True)]


def pairs(flat: list[Any]) -> dict[Any, Any]:
    return dict(zip(flat[0::2], flat[1::2], strict=True))
