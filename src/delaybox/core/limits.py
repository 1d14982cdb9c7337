"""Every bound on what callers give, and the pattern of every name: one definition each, for all doors. Pure.

REST, gRPC, Kafka, the input channel, the Python client, workers, the command line, the configuration and the OpenAPI
document take their bounds from here. A pattern is matched whole (``QUEUE.fullmatch(text)``); ``QUEUE_FORM`` beside it
is how a refusal describes it. How many tasks of a queue may run or begin: `queue_limits`.
"""

from __future__ import annotations

import re
from typing import Final

# Names

MAX_QUEUE: Final = 64
QUEUE: Final = re.compile(rf"[a-z0-9._-]{{1,{MAX_QUEUE}}}")
QUEUE_FORM: Final = f"1 to {MAX_QUEUE} of the characters a-z, 0-9, '.', '_', '-'"

MAX_NAME: Final = 128
NAME: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_NAME}}}")
"""The name of a worker's function, or of a command in a node's configuration."""
NAME_FORM: Final = f"1 to {MAX_NAME} of the characters A-Z, a-z, 0-9, '.', '_', '-'"

HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
"""The name of a host, as DNS bounds it."""

MAX_LABELS: Final = 16
MOST_INDEXED: Final = 16
"""Labels that are indexed, at most."""
MAX_LABEL: Final = 64
MAX_LABEL_VALUE: Final = 256
"""Characters of a label's value."""
LABEL: Final = re.compile(rf"[A-Za-z0-9._/-]{{1,{MAX_LABEL}}}")
"""A label's name."""
LABEL_FORM: Final = f"1 to {MAX_LABEL} of the characters A-Z, a-z, 0-9, '.', '_', '-', '/'"

MAX_NEEDS: Final = 8
"""Labels of workers that a task requires, at most; and that it prefers."""
MAX_NEED: Final = 64
"""Characters of such a label, with its value."""
MAX_COST: Final = 1_000
"""Places of a worker that a task takes, at most."""
MAX_LANE_BYTES: Final = 255
"""The name of a lane: a record has one byte for its length."""

MAX_KEY_BYTES: Final = 256
"""Most bytes of an idempotency key."""

MAX_GROUP: Final = 128
GROUP: Final = re.compile(rf"[A-Za-z0-9._:/@-]{{1,{MAX_GROUP}}}")
"""The name of a group of tasks."""
GROUP_FORM: Final = f"1 to {MAX_GROUP} of the characters A-Z, a-z, 0-9, '.', '_', '-', ':', '/', '@'"

MAX_TOPIC: Final = 249
TOPIC: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_TOPIC}}}")
"""A Kafka topic's name, by Kafka's own rule."""

MAX_PREFIX: Final = 64
PREFIX: Final = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_PREFIX}}}")
"""What the names of a store's keys begin with."""

# Moments and durations, in ms

MIN_DUE_MS: Final = 10**11
"""1973. A smaller number was meant as seconds."""
MAX_DUE_MS: Final = 10**14
"""Year 5138. A larger number was meant as microseconds."""
MAX_DELAY_MS: Final = 10**13
"""317 years. With Redis's clock added it stays below the 10^14 that ids can hold."""
MAX_WAIT_MS: Final = 10 * 365 * 24 * 3600 * 1000
"""Ten years: what a worker may ask for, as the wait before another attempt or as the time to keep a result."""

# Sizes, in bytes

DEFAULT_PAYLOAD_BYTES: Final = 1024 * 1024
"""Most bytes of a payload before it is encoded; ``limits.body`` of the configuration sets another bound."""
MAX_PAYLOAD_BYTES: Final = 512 * 1024 * 1024
"""What ``limits.body`` may be at most."""
MAX_HEADER_BYTES: Final = 64 * 1024
"""Names and values of a task's headers together."""
MAX_TRACESTATE_BYTES: Final = 512
MAX_BAGGAGE_BYTES: Final = 8192
"""Of the trace that a request belongs to; the least that the standards want to be passed on."""
MAX_COMMAND_BYTES: Final = 127 * 1024
"""Linux takes 128 KiB in one argument; the command's limits stand in it too."""
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
"""A batch as it is sent."""
REASON_BYTES: Final = 2_000
"""Most bytes of the reason of a failure, and of the message of a progress report."""
TRACEBACK_BYTES: Final = 8 * 1024
"""Most bytes of the traceback that a dead letter keeps: its end, which names the exception."""
TRACEBACK_SENT_BYTES: Final = 16 * 1024
"""Most bytes of the traceback that a worker sends; the node may keep less."""
STREAM_MESSAGE_BYTES: Final = 1 << 20
"""A message of a worker's stream holds no more than this, or one task; every worker takes such a message."""
_BESIDE_PAYLOAD: Final = 128 * 1024
"""Room for whatever else a request with one task holds."""

# Counts

MAX_BATCH: Final = 10_000
"""Tasks in one batch."""
MAX_FIELDS: Final = 50_000
"""Fields and numbers in one protobuf message, those of the messages in it included."""
MAX_CREDIT: Final = 20_000
"""Tasks that one worker can have and have asked for."""
MAX_LANES: Final = 1_000
"""Pairs of function and queue that one worker serves."""
DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000
"""Tasks in one page of a list."""
MAX_CURSOR: Final = 1_024
"""Characters of a cursor, which continues a list."""
DEFAULT_REPLAY: Final = 1_000
MAX_REPLAY: Final = 10_000
"""Dead letters that one call brings back."""
DEFAULT_PARTITIONS: Final = 16
"""Of a store on one server whose first node named no number."""
CLUSTER_PARTITIONS: Final = 64
"""The same on a cluster, over whose primaries 16 are spread unevenly."""
BY_SERVER: Final = -1
"""In place of a number of partitions: one of these two."""
MAX_PARTITIONS: Final = 4096
"""An id has twelve bits for its partition."""

# Retry

MAX_ATTEMPTS: Final = 1000
MAX_FACTOR: Final = 100

# Shares

MIN_WEIGHT: Final = 0.01
MAX_WEIGHT: Final = 100.0
"""Of a queue, or of a fairness key within it."""
MAX_FAIRNESS_KEY_BYTES: Final = 64
FAIRNESS_KEY_FORM: Final = f"1 to {MAX_FAIRNESS_KEY_BYTES} bytes without control characters"
MAX_SLACK_MS: Final = 24 * 3600 * 1000
"""By how much a task's virtual deadline may be later than its due time."""


def task_bytes(payload_limit: int) -> int:
    """Bytes that one task in JSON may have: base64 with escaped line breaks, and room for the parameters."""
    return payload_limit * 3 // 2 + _BESIDE_PAYLOAD


def message_bytes(payload_limit: int) -> int:
    """Bytes that one task in protobuf may have: its payload, and room for what stands around it."""
    return payload_limit + _BESIDE_PAYLOAD


KEY_KEEP_MS = 24 * 3600 * 1000
"""How long an idempotency key outlives its task, unless the node is configured otherwise."""
LEAST_KEY_KEEP_MS = 60_000
