"""The calls of ``/v1`` that name their task by its idempotency key. Each does what the same call does by id."""

from __future__ import annotations

from typing import Final

from delaybox.api.rest.v1.call import CANCELLED, PENDING, SIZE, ApiCall
from delaybox.wire.json import bulk_types, types

BY_KEY: Final[tuple[ApiCall, ...]] = (
    ApiCall(
        method="GET",
        path="/v1/tasks/by-key",
        name="getTaskByKey",
        handler=lambda v1: v1.get_by_key,
        summary="Get the task that an idempotency key names",
        about="As by its id. A key names its task while that lives and `keys.keep` longer.",
        tag="tasks",
        query=("key", "wait"),
        answers={200: ("the task", types.Task)},
        refusals={404: "the key names no task, or one that was cancelled", 410: PENDING[410]},
    ),
    ApiCall(
        method="PATCH",
        path="/v1/tasks/by-key",
        name="changeTaskByKey",
        handler=lambda v1: v1.change_by_key,
        summary="Change the pending task that an idempotency key names",
        tag="tasks",
        query=("key",),
        body=types.ChangeRequest,
        answers={200: ("the task as it is now", types.ChangedTask)},
        refusals={**PENDING, **SIZE},
        examples={"later": {"delay": "1h"}},
    ),
    ApiCall(
        method="DELETE",
        path="/v1/tasks/by-key",
        name="cancelTaskByKey",
        handler=lambda v1: v1.cancel_by_key,
        summary="Cancel the pending task that an idempotency key names",
        tag="tasks",
        query=("key", "free_key", "running"),
        answers=CANCELLED,
        refusals=PENDING,
    ),
    ApiCall(
        method="POST",
        path="/v1/tasks/by-key/run",
        name="runTaskByKey",
        handler=lambda v1: v1.run_by_key,
        summary="Run the pending task that an idempotency key names now",
        tag="tasks",
        query=("key",),
        answers={200: ("its new due time", types.Moved)},
        refusals=PENDING,
    ),
    ApiCall(
        method="POST",
        path="/v1/dead/by-key/replay",
        name="replayDeadLetterByKey",
        handler=lambda v1: v1.replay_by_key,
        summary="Replay the dead letter that an idempotency key names",
        tag="dead letters",
        query=("key",),
        answers={200: ("it was brought back", bulk_types.Replayed)},
        refusals=PENDING,
    ),
    ApiCall(
        method="DELETE",
        path="/v1/dead/by-key",
        name="discardDeadLetterByKey",
        handler=lambda v1: v1.discard_by_key,
        summary="Discard the dead letter that an idempotency key names",
        tag="dead letters",
        query=("key",),
        answers={204: ("deleted", None)},
        refusals=PENDING,
    ),
)
