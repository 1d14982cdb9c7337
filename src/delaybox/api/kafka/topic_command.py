"""A message of the execution topic -> the command in it, if this node may run it. Pure: no I/O, no clock.

Everybody who may schedule PUB_SUB tasks writes to that topic through nodes, and some programs write to it themselves.
So a message counts as a command only if it is signed by a node that has the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from uuid import UUID

from google.protobuf.message import DecodeError

from delaybox.core.delivery import Delivery
from delaybox.core.ids import ID_BYTES
from delaybox.core.lane import lane_of
from delaybox.core.limits import MAX_COST
from delaybox.core.needs import WorkerNeeds
from delaybox.core.task import DEFAULT_QUEUE, TaskType
from delaybox.wire import body as wire_body
from delaybox.wire import controls
from delaybox.wire.gen.task_pb2 import Task
from delaybox.wire.shell_signing import ATTEMPT, COST, COVERED, DUE, FENCING, SIGNATURE, TASK_ID, TYPE, Signing

Headers = Sequence[tuple[str, bytes | str | None]]
_OURS = frozenset((*COVERED, SIGNATURE))


class Dropped(Enum):
    """Why a command is not run; the value is the metric's label."""

    UNSIGNED = "unsigned"
    """It has no signature, and unsigned ones are not accepted."""
    FORGED = "bad_signature"
    """No key of this node made its signature for this message."""
    NO_COMMAND = "no_command"
    """A node sent it as another type: only the task's own header claims that it is a command."""


class Commands:
    """``accept_unsigned``: also accepts messages without a signature, as the Go original's nodes send them."""

    def __init__(self, signing: Signing, *, accept_unsigned: bool) -> None:
        self._signing = signing
        self._accept_unsigned = accept_unsigned

    def read(self, topic: str, value: bytes, headers: Headers | None) -> Delivery | Dropped | None:
        """The command to run, why it is not run, or None for what is another type's, or no task at all."""
        try:
            message = wire_body.decode(value)
        except DecodeError:
            return None
        if message.header.get(controls.TASK_TYPE) != controls.SHELL:
            return None
        ours: dict[str, bytes] = {}
        for name, raw in headers or ():
            if name in _OURS:
                if name in ours or raw is None:
                    return Dropped.FORGED  # we write each once
                ours[name] = raw.encode() if isinstance(raw, str) else raw
        signature = ours.get(SIGNATURE)
        if signature is None or not self._signing:
            if not self._accept_unsigned:
                return Dropped.UNSIGNED
            if TASK_ID in ours and ours.get(TYPE) != controls.SHELL:
                return Dropped.NO_COMMAND
            return _delivery(message, {})
        if not self._signing.holds(signature, topic, ours, value):
            return Dropped.FORGED
        if ours.get(TASK_ID) != message.taskUuid.encode() or ours.get(TYPE) != controls.SHELL:
            return Dropped.FORGED
        return _delivery(message, ours)


def _delivery(message: Task, signed: dict[str, bytes]) -> Delivery:
    try:
        task_id = UUID(message.taskUuid).bytes
    except ValueError:
        task_id = bytes(ID_BYTES)
    return Delivery(
        task_id=task_id,
        partition=0,
        lease_id=b"",
        token=int(signed.get(FENCING, b"0")),
        attempt=int(signed.get(ATTEMPT, b"1")) - 1,
        losses=0,
        due_ms=int(signed.get(DUE, b"0")),
        lane=lane_of(TaskType.SHELL_CMD, DEFAULT_QUEUE, message.name + WorkerNeeds(_cost(message)).text()),
        stub=False,
        body=message.SerializeToString(),
    )


def _cost(message: Task) -> int:
    """How many places it takes; 1 where a message that nobody signed states none, or what is no cost."""
    stated = message.header.get(COST, b"1")
    return int(stated) if stated.isdigit() and len(stated) <= 4 and 1 <= int(stated) <= MAX_COST else 1
