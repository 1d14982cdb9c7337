"""The table of ``/v1``: each call with its handler and its description for the OpenAPI document."""

from __future__ import annotations

from typing import Final

from delaybox.api import call_scopes, disclosure
from delaybox.api.rest.asgi import Headers, Receive, Scope
from delaybox.api.rest.request_body import RequestBodies
from delaybox.api.rest.routing import Answer, Handler, Route
from delaybox.api.rest.settings import ApiSettings
from delaybox.api.rest.v1.by_key import BY_KEY
from delaybox.api.rest.v1.call import CANCELLED, PENDING, SIZE, ApiCall
from delaybox.api.rest.v1.handlers import V1, Replier
from delaybox.service import Service
from delaybox.wire.json import bulk_types, events, history, nodes, queue_types, scaling, tasks, types
from delaybox.wire.json.rendering import encode
from delaybox.wire.shell_rules import ShellRules

_MANY = (
    "`dry_run` counts and shows a sample. Very many tasks take a while: give a `limit`, and call again until `changed` "
    "is 0."
)
_FILTER = ("queue", "type", "function", "label", "group", "due_from", "due_to", "cursor", "limit")

CALLS: Final[tuple[ApiCall, ...]] = (
    ApiCall(
        method="POST",
        path="/v1/tasks",
        name="scheduleTask",
        handler=lambda v1: v1.create,
        summary="Schedule a task",
        about="Answered after the task is stored.",
        tag="tasks",
        headers=("Idempotency-Key", "traceparent"),
        body=types.TaskRequest,
        answers={
            201: ("stored; Location is its address", types.Scheduled),
            200: ("the idempotency key named this task already; `created` is false", types.Scheduled),
        },
        refusals={
            **SIZE,
            409: "the idempotency key belongs to a task with another body (`idempotency_conflict`), or to one that was "
            "cancelled (`key_cancelled`); `task_id` names it",
            422: "`reject_past` and the time is past",
        },
        examples={
            "in 15 minutes": {"delay": "15m", "payload": "hello"},
            "at a moment, once": {
                "at": "2030-01-31T09:00:00+01:00",
                "payload_json": {"order": 17},
                "idempotency_key": "order-17-reminder",
                "labels": {"customer": "c-17"},
            },
            "urgent, with its own retries": {
                "queue": "mail",
                "priority": "high",
                "payload_base64": "aGVsbG8=",
                "headers": {"trace": "4bf9"},
                "retry": {"max_attempts": 8, "backoff": {"initial": "2s", "factor": 3, "max": "10m", "jitter": 0.5}},
                "expire_after": "1h",
            },
        },
    ),
    ApiCall(
        method="POST",
        path="/v1/tasks/batch",
        name="scheduleTasks",
        handler=lambda v1: v1.batch,
        summary="Schedule many tasks",
        about="Up to 10,000 tasks and 16 MiB. Tasks stand alone: each gets its own answer, in the same order, and "
        "those that are refused do not hold up the others.",
        tag="tasks",
        body=types.BatchRequest,
        answers={200: ("one item for each task", types.BatchAnswer)},
        refusals=SIZE,
        examples={"two": {"tasks": [{"delay": "15m", "payload": "one"}, {"delay": "20m", "payload": "two"}]}},
    ),
    ApiCall(
        method="POST",
        path="/v1/tasks/cancel",
        name="cancelTasks",
        handler=lambda v1: v1.cancel_many,
        summary="Cancel pending tasks by filter",
        about=_MANY,
        tag="tasks",
        body=bulk_types.CancelManyRequest,
        answers={200: ("how many", bulk_types.ChangedMany)},
        refusals=SIZE,
        examples={"a group": {"group": "order-17"}, "look first": {"queue": "mail", "dry_run": True}},
    ),
    ApiCall(
        method="POST",
        path="/v1/tasks/reschedule",
        name="rescheduleTasks",
        handler=lambda v1: v1.change_many,
        summary="Move pending tasks by filter",
        about=f"All to one moment; those that are due then anyway are left out. {_MANY}",
        tag="tasks",
        body=bulk_types.RescheduleManyRequest,
        answers={200: ("how many", bulk_types.ChangedMany)},
        refusals=SIZE,
        examples={"a group, later": {"group": "order-17", "delay": "1h"}},
    ),
    ApiCall(
        method="POST",
        path="/v1/tasks/run",
        name="runTasks",
        handler=lambda v1: v1.run_many,
        summary="Run pending tasks by filter now",
        about=f"Those that wait for their time. {_MANY}",
        tag="tasks",
        body=bulk_types.SelectionRequest,
        answers={200: ("how many", bulk_types.ChangedMany)},
        refusals=SIZE,
        examples={"release a group": {"group": "order-17"}},
    ),
    ApiCall(
        method="GET",
        path="/v1/tasks",
        name="listTasks",
        handler=lambda v1: v1.list,
        summary="List tasks",
        about="Soonest minute first; inside one minute that holds thousands in no stated order. A page examines a "
        "bounded number of tasks, so a short page with a cursor is legal: go on until the cursor is null.",
        tag="tasks",
        query=("state", *_FILTER),
        answers={200: ("a page", types.TaskPage)},
    ),
    ApiCall(
        method="GET",
        path="/v1/tasks/{id}",
        name="getTask",
        handler=lambda v1: v1.get,
        summary="Get a task",
        about="Its state, attempts, and its result while that is kept. Of a task that has ended the end is remembered "
        "for a while (`history.keep`): then `remembered` is true, and payload, headers and labels are not stated. "
        "With `wait` the answer comes when the task has ended, or after that time, whichever is first: its state says "
        "which.",
        tag="tasks",
        query=("wait",),
        answers={200: ("the task", types.Task)},
        refusals={404: "no record, and its time has not come: cancelled, or never was", 410: PENDING[410]},
    ),
    ApiCall(
        method="PATCH",
        path="/v1/tasks/{id}",
        name="changeTask",
        handler=lambda v1: v1.change,
        summary="Change a pending task",
        about="What is left out stays. `labels` replaces all labels.",
        tag="tasks",
        body=types.ChangeRequest,
        answers={200: ("the task as it is now", types.ChangedTask)},
        refusals={**PENDING, **SIZE},
        examples={"later": {"delay": "1h"}, "more urgent": {"priority": "critical"}},
    ),
    ApiCall(
        method="DELETE",
        path="/v1/tasks/{id}",
        name="cancelTask",
        handler=lambda v1: v1.cancel,
        summary="Cancel a pending task",
        about="Its idempotency key is kept for 24 h and answers 409 `key_cancelled` meanwhile, so that nobody takes it "
        "for a task that will run; with `free_key` it may be used again at once. `free_key` may also be given later, "
        "for a task that is cancelled already.",
        tag="tasks",
        query=("free_key", "running"),
        answers=CANCELLED,
        refusals=PENDING,
    ),
    ApiCall(
        method="POST",
        path="/v1/tasks/{id}/run",
        name="runTask",
        handler=lambda v1: v1.run,
        summary="Run a pending task now",
        tag="tasks",
        answers={200: ("its new due time", types.Moved)},
        refusals=PENDING,
    ),
    *BY_KEY,
    ApiCall(
        method="GET",
        path="/v1/queues",
        name="listQueues",
        handler=lambda v1: v1.queues,
        summary="List queues",
        about="Those with tasks due soon, ready or in flight.",
        tag="queues",
        answers={200: ("a line for each queue and task type", queue_types.Queues)},
    ),
    ApiCall(
        method="GET",
        path="/v1/queues/{queue}",
        name="getQueue",
        handler=lambda v1: v1.queue,
        summary="Get a queue",
        about="A queue exists by being used: one that holds nothing is all zeros. The answer also holds its rules, and "
        "says why its due tasks wait.",
        tag="queues",
        answers={200: ("the queue", queue_types.Queue)},
    ),
    ApiCall(
        method="PUT",
        path="/v1/queues/{queue}",
        name="setQueueRules",
        handler=lambda v1: v1.set_rules,
        summary="Set the rules of a queue",
        about="All of them: a rule that is left out is not set. In force when it is answered, and on every other node "
        "within a second. Queue `*` stands for all queues, as far as they have no such rule of their own.",
        tag="queues",
        body=queue_types.QueueRulesRequest,
        answers={200: ("the rules, and what holds for the queue", queue_types.RuledQueue)},
        refusals=SIZE,
        examples={"pause": {"paused": True}, "defaults": {"timeout": "30s", "retry": {"max_attempts": 8}}},
    ),
    ApiCall(
        method="PATCH",
        path="/v1/queues/{queue}",
        name="changeQueueRules",
        handler=lambda v1: v1.change_rules,
        summary="Change rules of a queue",
        about="What is left out stays, and `null` clears a rule.",
        tag="queues",
        body=queue_types.QueueRulesRequest,
        answers={200: ("the rules, and what holds for the queue", queue_types.RuledQueue)},
        refusals=SIZE,
        examples={"resume": {"paused": None}},
    ),
    ApiCall(
        method="DELETE",
        path="/v1/queues/{queue}",
        name="unsetQueueRules",
        handler=lambda v1: v1.unset_rules,
        summary="Return a queue to the default",
        about="Clears its rules; its tasks stay.",
        tag="queues",
        answers={204: ("no rule of its own is set", None)},
    ),
    ApiCall(
        method="GET",
        path="/v1/queue-rules",
        name="listQueueRules",
        handler=lambda v1: v1.rules,
        summary="List queues with rules",
        tag="queues",
        answers={200: ("every queue with rules of its own", queue_types.RuledQueues)},
    ),
    ApiCall(
        method="GET",
        path="/v1/history",
        name="listHistory",
        handler=lambda v1: v1.history,
        summary="List how tasks ended",
        about="The newest end first. Ends are remembered for `history.keep` (an hour unless configured otherwise, "
        "those of failures longer) and up to `history.entries`.",
        tag="tasks",
        query=history.FIELDS,
        answers={200: ("a page", history.EndedPage)},
    ),
    ApiCall(
        method="GET",
        path="/v1/events",
        name="followEvents",
        handler=lambda v1: v1.events,
        summary="Follow what happens",
        about="Server-sent events, each a CloudEvent 1.0 in JSON: what happens to all tasks from now on, whichever "
        "nodes see it. Best effort and bounded; where something is missing it says so. Behind `after` (or the header "
        "`Last-Event-ID`) it goes on where an earlier stream was cut.",
        tag="tasks",
        query=events.FIELDS,
        headers=("Last-Event-ID",),
        answers={200: ("a stream without an end", events.CloudEvent)},
        refusals={429: "too many follow events at this node"},
        streams=True,
    ),
    ApiCall(
        method="GET",
        path="/v1/dead",
        name="listDeadLetters",
        handler=lambda v1: v1.dead,
        summary="List dead letters",
        about="Tasks that failed for good, each with its reason.",
        tag="dead letters",
        query=_FILTER,
        answers={200: ("a page", types.TaskPage)},
    ),
    ApiCall(
        method="POST",
        path="/v1/dead/replay",
        name="replayDeadLetters",
        handler=lambda v1: v1.replay_many,
        summary="Replay dead letters by filter",
        about="Due at once, their attempts forgotten, newest first. `{}` takes all, as far as `limit`. `dry_run` "
        "counts and shows a sample.",
        tag="dead letters",
        body=bulk_types.ReplayRequest,
        answers={200: ("how many were brought back; call again until it is 0", bulk_types.Replayed)},
        refusals=SIZE,
        examples={"one queue": {"queue": "mail", "limit": 500}},
    ),
    ApiCall(
        method="POST",
        path="/v1/dead/discard",
        name="discardDeadLetters",
        handler=lambda v1: v1.discard_many,
        summary="Discard dead letters by filter",
        about="Deletes them for good, newest first. `dry_run` counts and shows a sample.",
        tag="dead letters",
        body=bulk_types.DiscardRequest,
        answers={200: ("how many were deleted; call again until `changed` is 0", bulk_types.ChangedMany)},
        refusals=SIZE,
        examples={"try first": {"queue": "mail", "dry_run": True}, "one queue": {"queue": "mail", "limit": 500}},
    ),
    ApiCall(
        method="POST",
        path="/v1/dead/{id}/replay",
        name="replayDeadLetter",
        handler=lambda v1: v1.replay,
        summary="Replay a dead letter",
        about="Due at once, its attempts forgotten.",
        tag="dead letters",
        answers={200: ("it was brought back", bulk_types.Replayed)},
        refusals=PENDING,
    ),
    ApiCall(
        method="DELETE",
        path="/v1/dead/{id}",
        name="discardDeadLetter",
        handler=lambda v1: v1.discard,
        summary="Discard a dead letter",
        about="Deletes it for good.",
        tag="dead letters",
        answers={204: ("deleted", None)},
        refusals=PENDING,
    ),
    ApiCall(
        method="GET",
        path="/v1/forecast",
        name="getForecast",
        handler=lambda v1: v1.forecast,
        summary="How many tasks are due when",
        about="In whole buckets of the store (a minute): the first step begins at or before `from`.",
        tag="cluster",
        query=("from", "to", "step"),
        answers={200: ("a count for each step", types.Forecast)},
    ),
    ApiCall(
        method="GET",
        path="/v1/scaling",
        name="getScaling",
        handler=lambda v1: v1.scaling,
        summary="How many processes or workers are needed",
        about="With the terms of the figure. With `queue` or `function` (or the kind `worker`) it is about the workers "
        "that serve these, else about the processes of nodes. It is the need of this moment: whoever scales by it "
        "goes up at once, and down when it has been lower for a while.",
        tag="cluster",
        query=("kind", "queue", "function", "places", "lead", "clear"),
        answers={200: ("the need of each kind", scaling.Scaling)},
    ),
    ApiCall(
        method="GET",
        path="/v1/nodes",
        name="listNodes",
        handler=lambda v1: v1.nodes,
        summary="List living nodes",
        tag="cluster",
        answers={200: ("the nodes heard of lately", nodes.Nodes)},
    ),
    ApiCall(
        method="GET",
        path="/v1/workers",
        name="listWorkers",
        handler=lambda v1: v1.workers,
        summary="List connected workers",
        about="A session with each node, for each kind of function. At most 100 of a node are told.",
        tag="cluster",
        answers={200: ("the sessions of workers with living nodes", nodes.Workers)},
    ),
)


def calls(service: Service, bodies: RequestBodies, settings: ApiSettings) -> V1:
    """What answers the calls."""
    shell = ShellRules(payloads=settings.shell, commands=frozenset(settings.shell_commands))
    rules = tasks.TaskRules(max_payload_bytes=settings.payload_limit, shell=shell, webhooks=settings.webhooks)
    return V1(service, bodies, rules, settings.root)


def routes(service: Service, bodies: RequestBodies, settings: ApiSettings) -> list[Route]:
    """The routes of ``/v1``."""
    v1 = calls(service, bodies, settings)
    by: dict[str, dict[str, Handler]] = {}
    for call in CALLS:
        handlers = by.setdefault(call.path, {})
        handlers[call.method] = _answering(call, call.handler(v1))
        if call.method == "GET" and not call.streams:
            handlers["HEAD"] = handlers["GET"]
    return [Route(path, handlers) for path, handlers in by.items()]


def _answering(call: ApiCall, replier: Replier) -> Handler:
    """The handler of a call: its replier's answer, as far as the caller may see it. LookupError: see `disclosure`."""
    rule = call_scopes.rule(call.method, call.path)
    kinds = [kind for _, kind in call.answers.values() if kind is not None]
    limits = {kind: disclosure.limits(rule, kind.__name__) for kind in kinds}

    async def answer(scope: Scope, headers: Headers, receive: Receive) -> Answer:
        reply = await replier(scope, headers, receive)
        value = reply.value
        if reply.parts is not None:
            return Answer(reply.status, b"", reply.headers, b"text/event-stream", reply.parts)
        if value is None:
            return Answer(reply.status, b"", reply.headers)
        # A type that `answers` does not name is a mistake in the table, and must not be sent unfiltered.
        shown = limits[type(value)]
        if shown is not None and not disclosure.whole(scope["auth"]):
            value = type(value)(**{name: getattr(value, name) for name in shown})
        return Answer(reply.status, encode(value), reply.headers)

    return answer
