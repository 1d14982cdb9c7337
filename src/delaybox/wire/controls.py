"""The control headers: names in a task's header that instruct the reader of its message.

The Go original's message has no other place for them. Its workers, and ours that take shell commands from a topic, run
a message with ``taskType: SHELL_CMD``. So a caller may not write these headers freely. Where the original's callers
give them (``parameter`` of ``POST /task``, the input channel, Kafka) they are read, and must agree with the task's
type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from delaybox.core.errors import InvalidTask

TASK_TYPE: Final = "taskType"
PARAMETERS: Final = (TASK_TYPE, "executionTimestamp", "delay", "queue", "priority", "idempotencyKey")
"""Of ``POST /task``."""
EVENT: Final = "ce_"
OF_EVENT: Final = {EVENT + name.lower(): name for name in (*PARAMETERS, "name", "fairnessKey", "fairnessWeight")}
"""The same as extension attributes of a CloudEvent, whose names have only lower-case letters and digits."""
RESERVED: Final = frozenset((*PARAMETERS, *OF_EVENT))
SHELL: Final = b"SHELL_CMD"

_INSTEAD: Final[Mapping[str, str]] = {
    TASK_TYPE: "type",
    "executionTimestamp": "at",
    "idempotencyKey": "idempotency_key",
}


def check_free(names: Iterable[str], field: str = "headers") -> None:
    """InvalidTask when one of the names of headers that a caller is free to choose is reserved."""
    for name in names:
        if name in RESERVED:
            meant = OF_EVENT.get(name, name)
            raise InvalidTask(
                f"{field}.{name}",
                f"the header name {name!r} is reserved: whoever reads the task's message takes it for what the task "
                f"is; give the field {_INSTEAD.get(meant, meant)} instead, or another header name",
            )


def check_type(header: Mapping[str, bytes], *, shell: bool) -> None:
    """InvalidTask when a header marks a task as a command that is none (``shell``), or the other way round."""
    stated = header.get(TASK_TYPE)
    if stated is not None and (stated == SHELL) != shell:
        raise InvalidTask(
            f"headers.{TASK_TYPE}",
            f"the task is {'a' if shell else 'no'} shell task, but its header {TASK_TYPE} says "
            f"{stated[:40].decode('utf-8', 'replace')!r}; leave the header out",
        )
