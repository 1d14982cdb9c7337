"""The exceptions by which a function reports a bad end, and how any exception becomes a failure."""

from __future__ import annotations

import traceback
from typing import Final

from delaybox.core.durations import Span, span_s
from delaybox.core.errors import InvalidTask, NotDecodable, NotEncodable
from delaybox.core.limits import MAX_WAIT_MS, TRACEBACK_SENT_BYTES
from delaybox.core.texts import head, tail
from delaybox.wire.gen import worker_pb2 as pb


class Reject(Exception):
    """Raised by a function: another attempt would not help. The task becomes a dead letter with these words."""


class RetryLater(Exception):
    """Raised by a function: not now, try again in ``after`` (the back-off when not given).

    after: seconds, a timedelta, or text such as "30s". ValueError for anything else.
    No attempt is charged, so a task may be put off often. Put off for longer than its ``max_snooze`` in all (7 days
    unless it names another time), from the first time on, it becomes a dead letter.
    """

    def __init__(
        self,
        reason: str = "the function asked to be tried again",
        *,
        after: Span | None = None,
    ) -> None:
        super().__init__(reason)
        self.after = None if after is None else _wait_s(after)


def _wait_s(after: Span) -> float:
    try:
        found = span_s("after", after)
    except InvalidTask:
        found = None
    # Written so that nan, for which every comparison is false, is refused as well.
    if found is None or not 0 <= found <= MAX_WAIT_MS / 1000:
        raise ValueError(
            f'after={after!r} is not a time to wait; give seconds, a timedelta, or text such as "30s", at most 10 years'
        )
    return found


class Stopped(Exception):
    """Raised by `Context.heartbeat`: somebody cancelled the task, its time is over, or others have it now."""


class MisfitArguments(TypeError):
    """The task's arguments do not fit the function."""


FINAL: Final = (Reject, NotDecodable, NotEncodable, MisfitArguments)


def failure(error: BaseException, *, cancelled: bool = False) -> pb.Failed:
    """The failure to report for an attempt that ended with ``error``. Raises nothing, even if the error's own methods
    do.

    What cannot be read of the error is named in the reason.
    """
    try:
        return _failure(error, cancelled=cancelled)
    except BaseException as worse:  # noqa: BLE001 - the attempt must end, whatever this was
        return failed(f"{_name(error)} (nothing more of it can be read: {_name(worse)})", cancelled=cancelled)


def _failure(error: BaseException, *, cancelled: bool) -> pb.Failed:
    name = _name(error)
    words = words_of(error)
    if isinstance(error, Stopped):
        return failed(words or "cancelled", cancelled=cancelled)
    own = isinstance(error, Reject | RetryLater)
    reason = (words if own else f"{name}: {words}") if words else name
    after_ms = None
    if isinstance(error, RetryLater):
        after_ms, unusable = _after_ms(error)
        reason += unusable
    report = failed(reason, final=isinstance(error, FINAL), cancelled=cancelled)
    report.snooze = isinstance(error, RetryLater)
    if after_ms is not None:
        report.retry_after_ms = after_ms
    report.output = _details(error, name)
    return report


def words_of(error: BaseException) -> str:
    """The text of an exception, or a note that it cannot be read. Users' code runs here: a ``__str__`` may raise
    anything."""
    try:
        # `__str__` may return a subclass of str with methods of its own.
        return str.__str__(str(error))
    except BaseException as worse:  # noqa: BLE001 - the attempt must end with a failure, whatever this raises
        return f"(what it says cannot be read: its __str__ raised {_name(worse)})"


def _name(error: BaseException) -> str:
    try:
        return str.__str__(type(error).__name__)
    except BaseException:  # noqa: BLE001 - a metaclass may do anything
        return "an exception whose class has no readable name"


def _after_ms(error: RetryLater) -> tuple[int | None, str]:
    """When to try again, or None and the reason why not."""
    try:
        after = error.after
        if after is None:
            return None, ""
        ms = round(float(after) * 1000)
        if 0 <= ms <= MAX_WAIT_MS:
            return ms, ""
        return None, f" (after={after!r} is more than 10 years or less than nothing: the usual back-off counts)"
    except BaseException as worse:  # noqa: BLE001 - a subclass may hold anything there
        return None, f" (its `after` is no number of seconds, {_name(worse)}: the usual back-off counts)"


def failed(reason: str, *, final: bool = False, cancelled: bool = False) -> pb.Failed:
    """A failure message, with texts cut at the lengths that the protocol allows."""
    return pb.Failed(reason=head(reason), final=final, cancelled=cancelled)


def timed_out(timeout_ms: int) -> pb.Failed:
    """The attempt took longer than it may."""
    return failed(f"timed out after {timeout_ms / 1000:g} s")


def without_outputs(message: pb.FromWorker, why: str) -> int:
    """Leaves large results out of a message. Returns how many tasks fail because of that."""
    for success in message.succeeded:
        reason = f"its result of {len(success.output)} bytes cannot be sent to the node: {why}; return less"
        message.failed.add(sequence=success.sequence, reason=head(reason), final=True, duration_ms=success.duration_ms)
    for failure in message.failed:
        failure.output = b""
    count = len(message.succeeded)
    message.ClearField("succeeded")
    return count


def _details(error: BaseException, name: str) -> bytes:
    """The traceback from the user's first frame on; of a long one only the end."""
    try:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_globals.get("__package__") == __package__ and frames.tb_next:
            frames = frames.tb_next
        text = "".join(traceback.format_exception(type(error), error, frames))
    except BaseException as worse:  # noqa: BLE001 - as above
        text = f"{name} (its traceback cannot be shown: {_name(worse)})"
    return tail(text, TRACEBACK_SENT_BYTES).encode()
