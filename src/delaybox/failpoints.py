"""Named places where a fault test can make this process fail.

``DELAYBOX_FAILPOINTS=after_claim_reply=kill@0.01,before_ack=sleep:200#3`` read once, at import:

``name=action[@chance][#nth]`` separated by commas. Actions: ``kill`` (SIGKILL to ourselves), ``stop`` (SIGSTOP),
``exit`` (``os._exit(70)``), ``raise`` (`FailpointError`), ``sleep:MS`` (blocks the thread, as a stuck handler would).
``@chance`` in (0, 1] acts on that share of the hits, ``#nth`` on the nth hit alone. ``DELAYBOX_FAILPOINTS_SEED`` fixes
the draws. A malformed value is refused at import, naming the part that is wrong.

Unset, `hit` is an empty function and `ACTIVE` is False; a hot loop may ask ``if failpoints.ACTIVE`` first.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

VARIABLE = "DELAYBOX_FAILPOINTS"
SEED_VARIABLE = "DELAYBOX_FAILPOINTS_SEED"
_PLAIN = ("kill", "stop", "exit", "raise")


class FailpointError(RuntimeError):
    """What the action ``raise`` throws."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What one named place does. ``nth`` is 0 for every hit."""

    name: str
    action: str
    sleep_s: float = 0.0
    chance: float = 1.0
    nth: int = 0


def parse(text: str) -> dict[str, Rule]:
    """The rules of a variable's value by name. ValueError names the part it cannot read."""
    rules: dict[str, Rule] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        try:
            name, _, rest = part.partition("=")
            rest, _, nth = rest.partition("#")
            action, _, chance = rest.partition("@")
            action, _, argument = action.partition(":")
            rule = Rule(
                name,
                action,
                float(argument) / 1000 if action == "sleep" else 0.0,
                float(chance) if chance else 1.0,
                int(nth) if nth else 0,
            )
        except ValueError:
            raise ValueError(f"{VARIABLE}: cannot read {part!r}; write name=action[@chance][#nth]") from None
        known = action == "sleep" or (action in _PLAIN and not argument)
        if not name or not known or not 0 < rule.chance <= 1 or rule.nth < 0 or name in rules:
            raise ValueError(
                f"{VARIABLE}: {part!r} is not one name=action[@chance][#nth] (actions: {_PLAIN}, sleep:MS)"
            )
        rules[name] = rule
    return rules


def armed(rules: dict[str, Rule], draw: Callable[[], float]) -> Callable[[str], None]:
    """A `hit` for these rules; ``draw`` gives a number in [0, 1)."""
    hits = dict.fromkeys(rules, 0)

    def hit(name: str) -> None:
        rule = rules.get(name)
        if rule is None:
            return
        hits[name] += 1
        if (rule.nth and hits[name] != rule.nth) or (rule.chance < 1 and draw() >= rule.chance):
            return
        _act(rule)

    return hit


def _act(rule: Rule) -> None:
    if rule.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif rule.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif rule.action == "exit":
        os._exit(70)
    elif rule.action == "raise":
        raise FailpointError(rule.name)
    else:
        time.sleep(rule.sleep_s)


def _nothing(name: str) -> None:
    """The production form."""


_rules = parse(os.environ.get(VARIABLE, ""))
ACTIVE = bool(_rules)
hit: Callable[[str], None] = armed(_rules, random.Random(os.environ.get(SEED_VARIABLE)).random) if _rules else _nothing
