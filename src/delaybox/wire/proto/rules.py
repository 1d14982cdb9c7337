"""The rules of a queue over gRPC <-> domain."""

from __future__ import annotations

from delaybox.core.durations import duration_ms
from delaybox.core.errors import InvalidTask
from delaybox.core.limit_keys import KeyLimit
from delaybox.core.queue import QueueRules, Slack
from delaybox.core.words import unknown
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.json.queue_rules import (
    NAMES,
    checked_keep,
    checked_key_keep,
    checked_keys,
    checked_number,
    checked_rate,
    checked_slack,
    checked_timeout,
    key_limit,
    some_slack,
)
from delaybox.wire.json.tasks import checked_weight
from delaybox.wire.proto.tasks import retry_of

_LEVELS = ("high_ms", "normal_ms", "low_ms")


def wanted(request: pb.SetQueueRequest) -> tuple[QueueRules, frozenset[str]]:
    """The rules to set, and the names (of `QueueRules`) of those to clear. InvalidTask."""
    for name in request.clear:
        if name not in NAMES:
            raise InvalidTask("clear", unknown(name, NAMES, {}, where="a rule of a queue"))
    given = request.rules
    rules = QueueRules(
        paused=given.paused if given.HasField("paused") else None,
        keep_result_ms=checked_keep("rules.keep_result_ms", duration_ms("rules.keep_result_ms", given.keep_result_ms))
        if given.HasField("keep_result_ms")
        else None,
        retry=retry_of(given.retry) if given.HasField("retry") else None,
        timeout_ms=checked_timeout("rules.timeout_ms", duration_ms("rules.timeout_ms", given.timeout_ms))
        if given.HasField("timeout_ms")
        else None,
        weight=checked_weight("rules.weight", given.weight) if given.HasField("weight") else None,
        slack=some_slack("rules.slack", _slack(given.slack, check=True)) if given.HasField("slack") else None,
        concurrency=checked_number("rules.concurrency", given.concurrency) if given.HasField("concurrency") else None,
        rate=checked_rate("rules.rate", given.rate) if given.HasField("rate") else None,
        burst=checked_number("rules.burst", given.burst) if given.HasField("burst") else None,
        keys=checked_keys("rules.keys", _keys("rules.keys.limits", given.keys)) if given.HasField("keys") else None,
        key_keep_ms=checked_key_keep("rules.key_keep_ms", duration_ms("rules.key_keep_ms", given.key_keep_ms))
        if given.HasField("key_keep_ms")
        else None,
        resume_rate=checked_rate("rules.resume_rate", given.resume_rate) if given.HasField("resume_rate") else None,
    )
    clear = frozenset(NAMES[name] for name in request.clear)
    both = sorted(name for name, field in NAMES.items() if field in clear and getattr(rules, field) is not None)
    if both:
        raise InvalidTask("clear", f"{both[0]} is both set and cleared; do one of them")
    return rules, clear


def message(rules: QueueRules) -> pb.Rules:
    """Rules for an answer; what is not set is absent."""
    out = pb.Rules()
    if rules.paused is not None:
        out.paused = rules.paused
    if rules.keep_result_ms is not None:
        out.keep_result_ms = rules.keep_result_ms
    if rules.retry is not None:
        retry = rules.retry
        out.retry.max_attempts = retry.max_attempts
        out.retry.initial_ms = retry.initial_ms
        out.retry.factor = retry.factor
        out.retry.max_ms = retry.max_ms
        out.retry.jitter = retry.jitter
    if rules.timeout_ms is not None:
        out.timeout_ms = rules.timeout_ms
    if rules.weight is not None:
        out.weight = rules.weight
    for name in _LEVELS if rules.slack is not None else ():
        if (ms := getattr(rules.slack, name)) is not None:
            setattr(out.slack, name, ms)
    if rules.concurrency is not None:
        out.concurrency = rules.concurrency
    if rules.rate is not None:
        out.rate = str(rules.rate)
    if rules.burst is not None:
        out.burst = rules.burst
    for limit in rules.keys or ():
        one = out.keys.limits.add(by=limit.by)
        if limit.concurrency is not None:
            one.concurrency = limit.concurrency
        if limit.rate is not None:
            one.rate = str(limit.rate)
        if limit.burst is not None:
            one.burst = limit.burst
    if rules.key_keep_ms is not None:
        out.key_keep_ms = rules.key_keep_ms
    if rules.resume_rate is not None:
        out.resume_rate = str(rules.resume_rate)
    return out


def of_message(message: pb.Rules) -> QueueRules:
    """The rules in an answer."""
    return QueueRules(
        paused=message.paused if message.HasField("paused") else None,
        keep_result_ms=message.keep_result_ms if message.HasField("keep_result_ms") else None,
        retry=retry_of(message.retry) if message.HasField("retry") else None,
        timeout_ms=message.timeout_ms if message.HasField("timeout_ms") else None,
        weight=message.weight if message.HasField("weight") else None,
        slack=_slack(message.slack, check=False) if message.HasField("slack") else None,
        concurrency=message.concurrency if message.HasField("concurrency") else None,
        rate=checked_rate("rate", message.rate) if message.HasField("rate") else None,
        burst=message.burst if message.HasField("burst") else None,
        keys=tuple(_keys("keys", message.keys)) if message.HasField("keys") else None,
        key_keep_ms=message.key_keep_ms if message.HasField("key_keep_ms") else None,
        resume_rate=checked_rate("resume_rate", message.resume_rate) if message.HasField("resume_rate") else None,
    )


def _keys(field: str, given: pb.KeyLimits) -> list[KeyLimit]:
    return [
        key_limit(
            f"{field}[{n}]",
            one.by,
            one.concurrency if one.HasField("concurrency") else None,
            one.rate if one.HasField("rate") else None,
            one.burst if one.HasField("burst") else None,
        )
        for n, one in enumerate(given.limits)
    ]


def _slack(given: pb.Slack, *, check: bool) -> Slack:
    found = {name: getattr(given, name) if given.HasField(name) else None for name in _LEVELS}
    if check:
        for name, ms in found.items():
            if ms is not None:
                checked_slack(f"rules.slack.{name}", duration_ms(f"rules.slack.{name}", ms, least=0))
    return Slack(**found)
