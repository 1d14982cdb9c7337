"""Where a task stands, for those who watch it."""

from __future__ import annotations

from msgspec import Struct

from delaybox.core.task import TaskState


class Standing(Struct, frozen=True, gc=False):
    """One look at a task. ``state`` None: nothing of it is kept. ``result``: of a finished task in its stored form,
    where it is kept.

    ``progress``: what a running task's worker reported last, serialized, where it was looked for.
    """

    state: TaskState | None
    due_ms: int = 0
    attempt: int = 0
    reason: str = ""
    result: bytes = b""
    progress: bytes = b""

    @property
    def ended(self) -> bool:
        """Whether the task has ended, so that its state will not change."""
        return self.state is None or self.state in _ENDS


_ENDS = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED})
