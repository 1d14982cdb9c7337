"""The rules of queues: a record of one queue's rules, and the books in which they are looked up. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from delaybox.core.limit_keys import KeyLimit, read_name
from delaybox.core.queue_limits import Pool, Rate
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import DEFAULT_QUEUE

OTHERS = "*"
"""Stands for every queue that has no rule of its own."""


DEFAULT_WEIGHT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slack:
    """By how much the virtual deadlines of a queue's tasks are later than their due times (ms), by priority; None: the
    default. Critical tasks have none."""

    high_ms: int | None = None
    normal_ms: int | None = None
    low_ms: int | None = None


DEFAULT_SLACK = Slack(high_ms=2_000, normal_ms=10_000, low_ms=60_000)


@dataclass(frozen=True, slots=True)
class Ramp:
    """What waited during a pause is let go at the queue's ``resume_rate``. Unix ms: ``since_ms``: the end of the pause;
    ``until_ms``: when it has all begun, if nothing holds it up."""

    since_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRules:
    """The rules of one queue; None: this rule is not set. Times in ms.

    ``weight``: its share of what takers with fewer slots than work take, beside other queues. ``slack``: of its tasks.
    ``paused``: due tasks wait. ``keep_result_ms``: how long results of its tasks are kept (`keeping`); 0: not at all.
    ``retry`` and ``timeout_ms``: of tasks that have none of their own. ``concurrency``: most tasks that run at a time;
    ``rate``: most that begin in any interval, of which ``burst`` may begin together. ``keys``: the same for each key.
    ``key_keep_ms``: how long the idempotency key of a task outlives it. ``resume_rate``: at which what waited during a
    pause begins; ``ramp``: no rule, but that this is so now.
    """

    paused: bool | None = None
    keep_result_ms: int | None = None
    retry: RetryPolicy | None = None
    timeout_ms: int | None = None
    weight: float | None = None
    slack: Slack | None = None
    concurrency: int | None = None
    rate: Rate | None = None
    burst: int | None = None
    keys: tuple[KeyLimit, ...] | None = None
    key_keep_ms: int | None = None
    resume_rate: Rate | None = None
    ramp: Ramp | None = None

    def over(self, others: QueueRules) -> QueueRules:
        """These rules, and of those that are not set the others."""
        return QueueRules(
            paused=others.paused if self.paused is None else self.paused,
            keep_result_ms=others.keep_result_ms if self.keep_result_ms is None else self.keep_result_ms,
            retry=others.retry if self.retry is None else self.retry,
            timeout_ms=others.timeout_ms if self.timeout_ms is None else self.timeout_ms,
            weight=others.weight if self.weight is None else self.weight,
            slack=others.slack if self.slack is None else self.slack,
            concurrency=others.concurrency if self.concurrency is None else self.concurrency,
            rate=others.rate if self.rate is None else self.rate,
            burst=others.burst if self.burst is None else self.burst,
            keys=others.keys if self.keys is None else self.keys,
            key_keep_ms=others.key_keep_ms if self.key_keep_ms is None else self.key_keep_ms,
            resume_rate=others.resume_rate if self.resume_rate is None else self.resume_rate,
            # A queue with a pause of its own, or none, was not held by that of all others.
            ramp=others.ramp if self.ramp is None and self.paused is None else self.ramp,
        )

    @property
    def pace(self) -> Rate | None:
        """The rate that holds now: while what waited during a pause begins, the slower one of its two rates."""
        rates = [rate for rate in (self.rate, self.resume_rate if self.ramp else None) if rate is not None]
        return min(rates, key=lambda rate: rate.count / rate.interval_ms, default=None)

    @property
    def limited(self) -> bool:
        """Whether its tasks need permits."""
        return self.concurrency is not None or self.pace is not None or bool(self.keys)

    def pools_of(self, name: bytes) -> list[Pool]:
        """The permits of a queue with these rules, as lanes spell it, or of a limit key of it."""
        key = read_name(name)
        if key is None:
            return self.pools(name.decode() or DEFAULT_QUEUE)
        return next((limit.pools(name) for limit in self.keys or () if limit.by == key.by), [])

    def pools(self, queue: str) -> list[Pool]:
        """The permits that tasks of a queue with these rules need: one of each."""
        name = b"" if queue == DEFAULT_QUEUE else queue.encode()
        found: list[Pool] = []
        if self.concurrency is not None:
            found.append(Pool(b"c" + name, self.concurrency))
        if (pace := self.pace) is not None:
            found.append(Pool(b"r" + name, *pace.permits(self.burst)))
        return found


RULE_NAMES = tuple(one.name for one in fields(QueueRules) if one.name != "ramp")
NO_RULES = QueueRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleBook:
    """The rules of all queues by one source: those of the ``named`` ones, and the ``default`` of every other."""

    default: QueueRules = NO_RULES
    named: Mapping[str, QueueRules] = field(default_factory=dict)

    def of(self, queue: str) -> QueueRules:
        """The rules that hold for a queue."""
        return self.named.get(queue, self.default)


class LiveRules:
    """The rules that hold now: those that are stored come before those of this node's configuration.

    A rule of the queue itself comes before one of all others (`OTHERS`), whichever of the two sources it is from.
    """

    def __init__(self, configured: RuleBook | None = None) -> None:
        self._configured = RuleBook() if configured is None else configured
        self._stored: Mapping[str, QueueRules] = {}
        self._known: dict[str, QueueRules] = {}
        self.version = -1
        """Changes whenever the stored rules change."""

    def take(self, version: int, stored: Mapping[str, QueueRules]) -> None:
        """The stored rules, from now on."""
        self._stored, self._known, self.version = stored, {}, version

    @property
    def stored(self) -> Mapping[str, QueueRules]:
        """The stored rules of each queue that has some."""
        return self._stored

    def of(self, queue: str) -> QueueRules:
        """The rules that hold for a queue."""
        known = self._known.get(queue)
        if known is None:
            known = self.would_be(queue, self._stored.get(queue, NO_RULES))
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[queue] = known
        return known

    def would_be(self, queue: str, own: QueueRules) -> QueueRules:
        """The rules that would hold for a queue, if these were its own."""
        configured, others = self._configured, self._stored.get(OTHERS, NO_RULES)
        return own.over(configured.named.get(queue, NO_RULES)).over(others).over(configured.default)


_MOST_KNOWN = 20_000


def has_pace(queue: str, effect: QueueRules, every: Iterable[QueueRules]) -> bool:
    """Whether a burst of a queue says something, because a rate holds for it, always or behind a pause.

    ``effect``: what holds for the queue; ``every``: of all queues, any of which may go by the burst of `OTHERS`."""
    among = (effect, *every) if queue == OTHERS else (effect,)
    return any(one.rate is not None or one.resume_rate is not None for one in among)
