"""Schedules, gets and cancels with the client that openapi-python-client made: use.py ADDRESS TOKEN."""

from __future__ import annotations

import sys

from delaybox_client import AuthenticatedClient  # type: ignore[import-not-found]
from delaybox_client.api.tasks import (  # type: ignore[import-not-found]
    cancel_task,
    get_task,
    schedule_task,
)
from delaybox_client.models import (  # type: ignore[import-not-found]
    Priority,
    Problem,
    TaskRequest,
    TaskRequestLabelsType0,
    TaskState,
)

address, token = sys.argv[1:]
with AuthenticatedClient(base_url=address, token=token) as client:
    labels = TaskRequestLabelsType0.from_dict({"from": "python"})
    asked = TaskRequest(delay="1h", payload_json={"order": 17}, priority=Priority.HIGH, labels=labels)
    stored = schedule_task.sync(client=client, body=asked, idempotency_key="from-python")
    assert stored.created and stored.due_ms > 1_700_000_000_000, stored
    again = schedule_task.sync(client=client, body=asked, idempotency_key="from-python")
    assert (again.id, again.created) == (stored.id, False), again
    found = get_task.sync(stored.id, client=client)
    assert (found.state, found.priority, found.payload) == (TaskState.SCHEDULED, Priority.HIGH, '{"order":17}'), found
    assert found.due_ms == stored.due_ms and int(found.due.timestamp() * 1000) == found.due_ms, found
    assert cancel_task.sync_detailed(stored.id, client=client, free_key=True).status_code == 204
    gone = get_task.sync(stored.id, client=client)
    assert isinstance(gone, Problem) and (gone.code, gone.title) == ("not_found", "Not Found"), gone
print("done")
