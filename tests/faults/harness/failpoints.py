"""Arms the named places of the product (`delaybox.failpoints`) in a process that a test starts.

`environ` gives the variables for that process, which its own children inherit. The rules are
``name=action[@chance][#nth]`` separated by commas: ``after_claim_reply=kill@0.01,before_ack=sleep:200#3``. Actions:
``kill`` (SIGKILL to ourselves), ``stop`` (SIGSTOP), ``exit`` (``os._exit(70)``), ``raise`` (`FailpointError`),
``sleep:MS`` (blocks the thread, as a stuck handler would). ``@chance`` in (0, 1] acts on that share of the hits,
``#nth`` on the nth hit alone. A seed fixes the draws.

An installed DelayBox has none of this: the product's `hit` is an empty function, and Python runs the module that
replaces it (armed/sitecustomize.py) only where a test put its folder on PYTHONPATH.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "DELAYBOX_FAILPOINTS"
SEED_VARIABLE = "DELAYBOX_FAILPOINTS_SEED"
ARMED = Path(__file__).parent / "armed"
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


def environ(rules: str, *, seed: int = 0) -> dict[str, str]:
    """The variables that arm ``rules`` in a process and its children. ValueError for rules that cannot be read."""
    parse(rules)
    path = os.pathsep.join(filter(None, (str(ARMED), os.environ.get("PYTHONPATH"))))
    return {VARIABLE: rules, SEED_VARIABLE: str(seed), "PYTHONPATH": path}


def arm() -> None:
    """Puts the rules of this process's environment, if there are any, in the place of the product's `hit`."""
    if rules := parse(os.environ.get(VARIABLE, "")):
        from delaybox import failpoints

        hit = armed(rules, random.Random(os.environ.get(SEED_VARIABLE)).random)
        failpoints.hit = hit  # type: ignore[assignment]  # a function in the product, so that nothing there arms it
