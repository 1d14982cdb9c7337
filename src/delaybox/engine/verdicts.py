"""What is stored of an end that is no plain ack: when the task runs again, and how long its result is kept.

A task's body is decoded once for each of its ends, and not at all where it holds nothing but a payload.
"""

from __future__ import annotations

import random
from typing import Final

from google.protobuf.message import DecodeError
from msgspec.structs import replace

from delaybox.core.delivery import Delivery, Done, Failed, Snoozed
from delaybox.core.lane import split
from delaybox.core.queue import LiveRules
from delaybox.core.result_keeping import stored_ms
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import DEFAULT_SNOOZE_MS
from delaybox.store.replies import Verdict
from delaybox.store.snooze import Snooze
from delaybox.wire import body as wire_body
from delaybox.wire import result as wire_result
from delaybox.wire.gen import task_pb2

_ASKS_FOR_NOTHING: Final = task_pb2.Task()


class Verdicts:
    """``rules``: of queues. ``retry``: the policy where neither task nor function nor queue has one."""

    def __init__(self, rules: LiveRules, retry: RetryPolicy) -> None:
        self._rules = rules
        self._retry = retry

    def of_failure(self, d: Delivery, outcome: Failed) -> Verdict:
        """Whether the task is tried again, and when."""
        asked = _asked_by(d)
        policy = self._policy(d, asked, outcome)
        attempt = d.attempt + 1
        delay = None
        if outcome.retryable and policy.again(attempt):
            # The random draw only spreads retries, so it need not be a secure one.
            delay = policy.delay_ms(attempt, random.random()) if outcome.delay_ms is None else outcome.delay_ms
        if outcome.result is None:
            return Verdict(d.task_id, delay, outcome.reason, traceback=outcome.traceback)
        result = wire_result.encode(outcome.result)
        kept = stored_ms(asked.keep_result_ms, outcome.keep_ms)
        return Verdict(d.task_id, delay, outcome.reason, result, kept, outcome.traceback)

    def of_snooze(self, d: Delivery, outcome: Snoozed) -> Snooze:
        """When the task runs next, and until when it may be put off."""
        asked = _asked_by(d)
        delay = outcome.delay_ms
        if delay is None:
            delay = self._policy(d, asked, outcome).delay_ms(d.attempt + 1, random.random())
        longest = asked.max_snooze_ms or DEFAULT_SNOOZE_MS
        reason = (
            f"it was put off for longer than its max_snooze of {longest / 1000:g} s; the last time: {outcome.reason}"
        )
        if outcome.result is None:
            return Snooze(d.task_id, delay, longest, reason)
        result = wire_result.encode(replace(outcome.result, reason=reason))
        return Snooze(d.task_id, delay, longest, reason, result, stored_ms(asked.keep_result_ms, outcome.keep_ms))

    def of_success(self, d: Delivery, outcome: Done) -> tuple[bytes, int, bytes]:
        """The task's id, how long its result is kept (ms), and the result in its stored form."""
        if outcome.stored or outcome.result is None:
            return d.task_id, stored_ms(0, outcome.keep_ms), outcome.stored
        kept = stored_ms(_asked_by(d).keep_result_ms, outcome.keep_ms)
        return d.task_id, kept, wire_result.encode(outcome.result)

    def _policy(self, d: Delivery, asked: task_pb2.Task, outcome: Failed | Snoozed) -> RetryPolicy:
        policy = outcome.retry or self._rules.of(split(d.lane).queue).retry or self._retry
        return wire_body.retry_of(asked, policy)


def _asked_by(d: Delivery) -> task_pb2.Task:
    """What the task asks for. A body that cannot be read must not keep the task from becoming a dead letter."""
    if not wire_body.has_only_payload(d.body):
        try:
            return wire_body.decode(d.body)
        except DecodeError:
            pass
    return _ASKS_FOR_NOTHING
