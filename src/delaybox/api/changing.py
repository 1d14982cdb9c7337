"""Changes a stored task for a caller. REST and gRPC share it, so that both check a new payload by the same rule."""

from __future__ import annotations

from delaybox.api import call_scopes
from delaybox.core.scopes import Grant
from delaybox.core.task import TaskChange, TaskView
from delaybox.service import Service
from delaybox.wire.shell_rules import ShellRules


async def change(service: Service, grant: Grant, task_id: str, wanted: TaskChange, shell: ShellRules) -> TaskView:
    """Returns the changed task. Raises the service's errors, and for a new payload those of
    `call_scopes.require_payload`."""
    if wanted.payload is not None:
        call_scopes.require_payload(grant, await service.get(task_id), wanted.payload, shell)
    return await service.update(
        task_id,
        due_ms=wanted.due_ms,
        delay_ms=wanted.delay_ms,
        priority=wanted.priority,
        payload=wanted.payload,
        labels=wanted.labels,
        zone=wanted.zone,
    )
