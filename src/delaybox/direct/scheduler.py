"""The calls on a store in this process: those of a node, and a shorter way for tasks in bulk.

A node gets bulk as bytes and answers with bytes. Here both sides share the messages and the answers: that spares
copying the tasks into a request, and writing and reading an answer for each. Anything but "all are stored" is answered
as by a node.
"""

from __future__ import annotations

from typing import Any

from delaybox.api.grpc.calls import Caller
from delaybox.api.grpc.scheduler import Scheduler
from delaybox.client.batches import StoredBatch, TaskBatch
from delaybox.core.errors import DelayBoxError
from delaybox.core.task import NewTask
from delaybox.store.store import Stored
from delaybox.wire.gen import scheduler_pb2 as pb


class DirectScheduler(Scheduler):
    """See `Scheduler`."""

    async def stop(self) -> None:
        """Ends watches and open streams, and writes what is left of ends and events: no process does so later."""
        await super().stop()
        await self._service.close()

    async def schedule_batch(self, request: bytes | TaskBatch, caller: Caller) -> Any:
        """A `StoredBatch` where a `TaskBatch` is stored as a whole, else what a node answers."""
        if isinstance(request, bytes):
            return await super().schedule_batch(request, caller)

        def read(asked: pb.NewTask) -> NewTask:
            return self._new(asked, caller)

        answers = await self._service.submit_batch(self._reader.messages(request.tasks, read))
        stored: list[Stored] = [answer for answer in answers if not isinstance(answer, DelayBoxError)]
        return StoredBatch(stored) if len(stored) == len(answers) else self._answer(answers)

    async def _of_stream(self, request: bytes | TaskBatch, caller: Caller) -> Any:
        # The memory is the caller's own, so nothing is held.
        return await self.schedule_batch(request, caller)
