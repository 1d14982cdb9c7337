"""Makes drafts of a batch's serialized tasks directly: by way of messages and `NewTask`s they cost three times as
much."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import DecodeError

from delaybox.core.errors import InvalidTask
from delaybox.core.task import NewTask, TaskType
from delaybox.service.functions import OwnQueues
from delaybox.store.record import STUB_OVER, Draft, head
from delaybox.wire.body import varint
from delaybox.wire.bounds import check_items
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.proto.bulk import is_kind, plain

_MOST_KINDS = 4_096
_LONGEST_KIND = 256
_NO_PAYLOAD = b"\x1a\x00"
_KEEP_RESULT_TAG = b"\x50"

Read = Callable[[pb.NewTask], NewTask]
"""Makes the task of a message, checked."""


class QuickDrafts:
    """Makes drafts. ``draft`` makes that of a checked task; ``limit``: bytes a payload may have.

    Only plain tasks are handled here. An unusual task, and the first task of each kind, goes through the caller's
    ``read``, which checks it in full; later tasks of the same kind need no second check.
    """

    def __init__(self, draft: Callable[[NewTask], Draft], limit: int, own: OwnQueues) -> None:
        self._draft = draft
        self._own = own
        self._version = own.version
        self._longest = min(limit, STUB_OVER)
        self._heads: dict[bytes, tuple[bytes, bytes]] = {}

    def of(self, raw: bytes, at: int, stop: int, read: Read) -> Draft:
        """The draft of the task at that place. Raises what ``read`` and ``draft`` raise, and InvalidTask for bytes that
        are no task."""
        found = plain(raw, at, stop, self._longest)
        if self._version != self._own.version:
            # A function's own queue may have changed, so what was checked before does not count any more.
            self._version = self._own.version
            self._heads.clear()
        if found is not None:
            due48, body, kind = found
            known = self._heads.get(kind)
            if known is not None:
                start, tail = known
                if not tail:
                    return Draft(due48, start + body, None, b"", None)
                if len(body) + len(tail) <= STUB_OVER:
                    return Draft(due48, start + (b"" if body == _NO_PAYLOAD else body) + tail, None, b"", None)
        whole = raw[at:stop]
        check_items(whole, pb.NewTask, field="task")
        try:
            message = pb.NewTask.FromString(whole)
        except DecodeError:
            raise InvalidTask("tasks", "this is not a delaybox.v1.NewTask; see the contract") from None
        task = read(message)
        # Whether a command is allowed depends on the caller, so commands are checked each time.
        if found is not None and task.type is not TaskType.SHELL_CMD and len(kind) <= _LONGEST_KIND and is_kind(kind):
            if len(self._heads) >= _MOST_KINDS:
                self._heads.clear()
            start = head(task.type, self._own.resolved(task).queue, task.name, int(task.priority))
            tail = _KEEP_RESULT_TAG + varint(task.keep_result_ms) if task.keep_result_ms else b""
            self._heads[kind] = (start, tail)
        return self._draft(task)
