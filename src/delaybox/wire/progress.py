"""A worker's progress report, as it is stored and sent."""

from __future__ import annotations

import math

from delaybox.core.task import Progress
from delaybox.core.texts import head
from delaybox.wire.gen import scheduler_pb2


def encode(progress: Progress) -> bytes:
    """The stored form."""
    return message(progress).SerializeToString()


def checked(report: scheduler_pb2.Progress) -> Progress:
    """A report within its bounds: a long message is cut, and a fraction that is no number is left out."""
    fraction = report.fraction
    known = math.isfinite(fraction) and fraction >= 0
    return Progress(min(fraction, 1.0) if known else -1.0, head(report.message))


def decode(raw: bytes) -> Progress:
    """The progress in its stored form; ``google.protobuf.message.DecodeError`` when it is none."""
    m = scheduler_pb2.Progress.FromString(raw)
    return Progress(m.fraction, m.message)


def message(progress: Progress) -> scheduler_pb2.Progress:
    """As a message."""
    return scheduler_pb2.Progress(fraction=progress.fraction, message=progress.message)
