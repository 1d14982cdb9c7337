"""Gives a task that names a function and no queue the function's own queue, as a worker announced it."""

from __future__ import annotations

from msgspec.structs import replace

from delaybox.core.task import NewTask
from delaybox.store import functions
from delaybox.store.knowledge import Knowledge
from delaybox.store.store import Store
from delaybox.wire.encoded import TaskKind


class OwnQueues(Knowledge):
    """The functions' own queues in one store, after `fresh`."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._queues: dict[str, str] = {}
        self.version = -1
        """A number that changes when a queue is announced or withdrawn."""

    async def _read(self) -> None:
        if await functions.version(self._store) != self.version:
            self.version, self._queues = await functions.own_queues(self._store)

    def queue(self, task: NewTask | TaskKind) -> str:
        """Where it goes."""
        return self._queues.get(task.name, task.queue) if task.queue_unstated else task.queue

    def resolved(self, task: NewTask) -> NewTask:
        """The task with its function's own queue, where its caller named none and the function has one."""
        if not task.queue_unstated:
            return task
        queue = self._queues.get(task.name)
        return task if queue is None else replace(task, queue=queue)
