"""The key ``queues``: rules for the first start of a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from delaybox.config.sections import Mistake, mapping
from delaybox.core.errors import InvalidTask
from delaybox.core.queue import NO_RULES, OTHERS, QueueRules, has_pace
from delaybox.wire.json.queue_rules import parse, queue_of

QUEUE_RULES_FORM = (
    "queues with their rules, such as {mail: {timeout: 30s, retry: {max_attempts: 8}}, imports: {paused: true}}, as "
    "YAML or (in a variable) as JSON; the rules are paused, keep_result, retry, timeout, weight, slack, concurrency, "
    "rate, burst, keys, key_keep and resume_rate"
)
_NUMBERS = frozenset({"max_attempts", "factor", "jitter", "weight"})
_WHOLE = frozenset({"concurrency", "burst"})
_MOST = 1_000


def queue_rules(value: object) -> object:
    """The rules of each queue. ValueError, of a rule that cannot be one Mistake."""
    found = mapping(value)
    if len(found) > _MOST:
        raise ValueError(f"at most {_MOST} queues")
    return {str(name): one if isinstance(one, QueueRules) else _rules(str(name), one) for name, one in found.items()}


def bursts_without_rate(found: Mapping[str, QueueRules]) -> list[str]:
    """What to say of each queue with a burst that limits nothing, because no rate of these rules holds for it."""
    others = found.get(OTHERS, NO_RULES)
    return [
        f"{name}: burst {rules.burst} has no rate, so it limits nothing; give a rate with it, such as '100/s'"
        for name, rules in found.items()
        if rules.burst is not None and not has_pace(name, rules.over(others), found.values())
    ]


def _rules(name: str, value: object) -> QueueRules:
    if not isinstance(value, Mapping):
        raise Mistake(f"cannot be used: {name} has no rules; write them as {{timeout: 30s}}")
    try:
        queue_of("queue", name)
    except InvalidTask as error:
        raise Mistake(f"cannot be used: {error}") from None
    try:
        return parse(msgspec.json.encode(_typed("", value))).rules
    except InvalidTask as error:
        raise Mistake(f"cannot be used: {name}: {error}") from None


def _typed(name: str, value: object) -> Any:
    """YAML's text as the JSON that the reader of rules takes."""
    if isinstance(value, Mapping):
        return {str(key): _typed(str(key), one) for key, one in value.items()}
    if isinstance(value, list):
        return [_typed(name, one) for one in value]
    if value in ("true", "false"):
        return value == "true"
    if name in _WHOLE and isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if name in _NUMBERS and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
