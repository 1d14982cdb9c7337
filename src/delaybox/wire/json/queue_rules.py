"""The rules of a queue asked for over ``/v1``, by the command line or in the configuration -> domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET

from delaybox.core.errors import InvalidTask
from delaybox.core.limit_keys import MOST_KEY_LIMITS, KeyLimit, checked_by
from delaybox.core.limits import LEAST_KEY_KEEP_MS, MAX_SLACK_MS, MAX_WAIT_MS
from delaybox.core.queue import OTHERS, QueueRules, Slack
from delaybox.core.queue_limits import MOST_PERMITS, Rate, rate_of
from delaybox.wire.json import queue_types, tasks, types
from delaybox.wire.json.reading import JsonReader

_read = JsonReader(queue_types.QueueRulesRequest, where="a rule of a queue")
NAMES: Final = {
    "paused": "paused",
    "keep_result": "keep_result_ms",
    "retry": "retry",
    "timeout": "timeout_ms",
    "weight": "weight",
    "slack": "slack",
    "concurrency": "concurrency",
    "rate": "rate",
    "burst": "burst",
    "keys": "keys",
    "key_keep": "key_keep_ms",
    "resume_rate": "resume_rate",
}
"""The rules by the names that callers use, and their fields in `QueueRules`."""


@dataclass(frozen=True, slots=True)
class RulesChange:
    """``rules``: those to set. ``clear``: the names (of `QueueRules`) of those to clear."""

    rules: QueueRules
    clear: frozenset[str]


def parse(body: bytes) -> RulesChange:
    """The rules in a body. InvalidTask, which names the rule, its value and the mend."""
    asked = _read(body)
    _read.strictly(body)
    clear = frozenset(field for name, field in NAMES.items() if getattr(asked, name) is None)
    retry, keep, timeout = asked.retry, asked.keep_result, asked.timeout
    weight, slack = asked.weight, asked.slack
    return RulesChange(
        QueueRules(
            paused=asked.paused if isinstance(asked.paused, bool) else None,
            keep_result_ms=None
            if keep is UNSET or keep is None
            else checked_keep("keep_result", tasks.duration(_read, body, "keep_result", keep, least=0)),
            retry=tasks.retry_of(_read, retry, body) if isinstance(retry, types.Retry) else None,
            timeout_ms=None if timeout is UNSET or timeout is None else _timeout(body, timeout),
            weight=None if weight is UNSET or weight is None else tasks.checked_weight("weight", weight),
            slack=_slack(body, slack) if isinstance(slack, queue_types.Slack) else None,
            concurrency=checked_number("concurrency", asked.concurrency)
            if isinstance(asked.concurrency, int)
            else None,
            rate=checked_rate("rate", asked.rate) if isinstance(asked.rate, str) else None,
            burst=checked_number("burst", asked.burst) if isinstance(asked.burst, int) else None,
            keys=checked_keys("keys", [_key_limit(f"keys[{n}]", one) for n, one in enumerate(asked.keys)])
            if isinstance(asked.keys, list)
            else None,
            key_keep_ms=None
            if asked.key_keep is UNSET or asked.key_keep is None
            else checked_key_keep("key_keep", tasks.duration(_read, body, "key_keep", asked.key_keep, least=0)),
            resume_rate=checked_rate("resume_rate", asked.resume_rate) if isinstance(asked.resume_rate, str) else None,
        ),
        clear,
    )


def _key_limit(field: str, asked: queue_types.KeyLimit) -> KeyLimit:
    return key_limit(field, asked.by, asked.concurrency, asked.rate, asked.burst)


def key_limit(field: str, by: str, concurrency: int | None, rate: str | None, burst: int | None) -> KeyLimit:
    """One limit by key, as it was given. InvalidTask."""
    try:
        checked_by(f"{field}.by", by)
    except ValueError as error:
        raise InvalidTask(f"{field}.by", str(error)) from None
    if concurrency is None and rate is None:
        raise InvalidTask(field, f"{field} limits nothing; give it a concurrency, such as 5, or a rate, such as '5/s'")
    if burst is not None and rate is None:
        raise InvalidTask(f"{field}.burst", f"{field}.burst {burst} has no rate; give a rate with it, such as '5/s'")
    return KeyLimit(
        by=by,
        concurrency=None if concurrency is None else checked_number(f"{field}.concurrency", concurrency),
        rate=None if rate is None else checked_rate(f"{field}.rate", rate),
        burst=None if burst is None else checked_number(f"{field}.burst", burst),
    )


def checked_keys(field: str, limits: Sequence[KeyLimit]) -> tuple[KeyLimit, ...]:
    """The limits by key of one queue. InvalidTask."""
    if not limits:
        raise InvalidTask(field, f"{field} is empty; to set no limit by key leave it out (in a PATCH: null)")
    if len(limits) > MOST_KEY_LIMITS:
        raise InvalidTask(field, f"{field} has {len(limits)} limits; give at most {MOST_KEY_LIMITS}")
    names = [limit.by for limit in limits]
    for at, by in enumerate(names):
        if by in names[:at]:
            raise InvalidTask(f"{field}[{at}].by", f"{field}[{at}].by {by!r} is there twice; give one limit for it")
    return tuple(limits)


def _timeout(body: bytes, timeout: str | float) -> int:
    return checked_timeout("timeout", tasks.duration(_read, body, "timeout", timeout, least=0))


def _slack(body: bytes, slack: queue_types.Slack) -> Slack:
    def of(name: str, value: str | float | None) -> int | None:
        field = f"slack.{name}"
        if value is None:
            return None
        return checked_slack(field, tasks.duration(_read, body, field, value, least=0))

    return some_slack(
        "slack",
        Slack(high_ms=of("high", slack.high), normal_ms=of("normal", slack.normal), low_ms=of("low", slack.low)),
    )


def some_slack(field: str, slack: Slack) -> Slack:
    """Slack of one priority at least. InvalidTask."""
    if slack == Slack():
        raise InvalidTask(field, f"{field} names no priority; give high, normal or low, such as {{high: 500ms}}")
    return slack


def checked_slack(field: str, ms: int) -> int:
    """The slack of one priority, in ms. InvalidTask."""
    if ms > MAX_SLACK_MS:
        raise InvalidTask(field, f"{field} {ms} ms is over a day; give at most 24h")
    return ms


def checked_timeout(field: str, ms: int) -> int:
    """A time-out in ms. InvalidTask."""
    if not ms:
        raise InvalidTask(
            field, f"{field} 0 would end every attempt at once; to hold the queue's tasks back set paused, to set no "
            "limit leave it out (in a PATCH: null)"
        )  # fmt: skip
    return ms


def checked_number(field: str, number: int) -> int:
    """A concurrency or a burst. InvalidTask."""
    if not number:
        raise InvalidTask(field, f"{field} 0 would hold every task back; to do that set paused")
    if not 1 <= number <= MOST_PERMITS:
        raise InvalidTask(field, f"{field} {number} is not from 1 to {MOST_PERMITS:,}; for no limit leave it out")
    return number


def checked_rate(field: str, text: str) -> Rate:
    """A rate. InvalidTask."""
    try:
        return rate_of(text)
    except ValueError as error:
        raise InvalidTask(field, f"{field} {error}") from None


def checked_keep(field: str, ms: int) -> int:
    """How long results or keys are kept, in ms. InvalidTask."""
    if ms > MAX_WAIT_MS:
        raise InvalidTask(field, f"{field} {ms} ms is over ten years; give at most {MAX_WAIT_MS}")
    return ms


def checked_key_keep(field: str, ms: int) -> int:
    """How long idempotency keys outlive their tasks, in ms. InvalidTask."""
    if ms < LEAST_KEY_KEEP_MS:
        raise InvalidTask(
            field, f"{field} {ms} ms is under a minute, in which a repeated request may still come; give at least 1m"
        )
    return checked_keep(field, ms)


def queue_of(field: str, text: str) -> str:
    """The name of a queue, or `*` for all that have no rule of their own. InvalidTask."""
    return text if text == OTHERS else tasks.queue_of(field, text)
