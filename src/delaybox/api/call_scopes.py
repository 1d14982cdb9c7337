"""Which call needs which scope: the tables of who may call what, over REST and over gRPC.

A call without a line here is not served: `rule` and `grpc_rule` raise for it. A gRPC method that does the same as a
REST call has that call's rule.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from delaybox.core.errors import ScopeMissing, TypeDisabled
from delaybox.core.scopes import Access, Grant
from delaybox.core.task import TaskType, TaskView
from delaybox.wire.shell_rules import ShellRules


class WithoutToken(Enum):
    """Calls that need no token."""

    PROBE = "probe"
    """Host and Origin are not checked either, because machines ask, by whatever name they know."""
    PAGE = "page"
    """Shows nothing about tasks, and a browser that opens it cannot send a token."""
    IN_MESSAGE = "in message"
    """The caller can send no header, so its token comes in the message, and the call itself checks it."""


Rule = Access | WithoutToken

RULES: Final[dict[tuple[str, str], Rule]] = {
    ("GET", "/healthz"): WithoutToken.PROBE,
    ("GET", "/livez"): WithoutToken.PROBE,
    ("GET", "/readyz"): WithoutToken.PROBE,
    ("GET", "/metrics"): WithoutToken.PROBE,
    ("GET", "/openapi.json"): WithoutToken.PAGE,
    ("GET", "/docs"): WithoutToken.PAGE,
    ("GET", "/docs/{file}"): WithoutToken.PAGE,
    ("POST", "/task"): Access.SCHEDULE,
    ("GET", "/task"): Access.READ,
    ("GET", "/ping"): Access.READ,
    ("POST", "/v1/tasks"): Access.SCHEDULE,
    ("POST", "/v1/tasks/batch"): Access.SCHEDULE,
    ("POST", "/v1/tasks/cancel"): Access.CANCEL,
    ("POST", "/v1/tasks/reschedule"): Access.SCHEDULE,
    ("POST", "/v1/tasks/run"): Access.SCHEDULE,
    ("GET", "/v1/tasks"): Access.READ,
    ("GET", "/v1/tasks/{id}"): Access.READ,
    ("DELETE", "/v1/tasks/{id}"): Access.CANCEL,
    ("PATCH", "/v1/tasks/{id}"): Access.SCHEDULE,
    ("POST", "/v1/tasks/{id}/run"): Access.SCHEDULE,
    ("GET", "/v1/tasks/by-key"): Access.READ,
    ("DELETE", "/v1/tasks/by-key"): Access.CANCEL,
    ("PATCH", "/v1/tasks/by-key"): Access.SCHEDULE,
    ("POST", "/v1/tasks/by-key/run"): Access.SCHEDULE,
    ("GET", "/v1/queues"): Access.READ,
    ("GET", "/v1/queues/{queue}"): Access.READ,
    ("PUT", "/v1/queues/{queue}"): Access.ADMIN,
    ("PATCH", "/v1/queues/{queue}"): Access.ADMIN,
    ("DELETE", "/v1/queues/{queue}"): Access.ADMIN,
    ("GET", "/v1/queue-rules"): Access.READ,
    ("GET", "/v1/history"): Access.READ,
    ("GET", "/v1/events"): Access.READ,
    ("GET", "/v1/dead"): Access.READ,
    ("POST", "/v1/dead/replay"): Access.ADMIN,
    ("POST", "/v1/dead/discard"): Access.ADMIN,
    ("POST", "/v1/dead/{id}/replay"): Access.ADMIN,
    ("DELETE", "/v1/dead/{id}"): Access.ADMIN,
    ("POST", "/v1/dead/by-key/replay"): Access.ADMIN,
    ("DELETE", "/v1/dead/by-key"): Access.ADMIN,
    ("GET", "/v1/forecast"): Access.READ,
    ("GET", "/v1/scaling"): Access.READ,
    ("GET", "/v1/nodes"): Access.READ,
    ("GET", "/v1/workers"): Access.READ,
    # The dashboard. Its callers may send the token in a cookie.
    ("GET", "/"): WithoutToken.PAGE,
    ("GET", "/dashboard/login"): WithoutToken.PAGE,
    ("POST", "/dashboard/login"): WithoutToken.PAGE,
    ("POST", "/dashboard/logout"): WithoutToken.PAGE,
    ("GET", "/dashboard/static/{file}"): WithoutToken.PAGE,
    ("GET", "/dashboard"): Access.READ,
    ("GET", "/dashboard/live"): Access.READ,
    ("GET", "/dashboard/store"): Access.READ,
    ("GET", "/dashboard/forecast"): Access.READ,
    ("GET", "/dashboard/queues"): Access.READ,
    ("GET", "/dashboard/queues/{queue}"): Access.READ,
    ("POST", "/dashboard/queues/{queue}/rules"): Access.ADMIN,
    ("POST", "/dashboard/queues/{queue}/pause"): Access.ADMIN,
    ("POST", "/dashboard/queues/{queue}/resume"): Access.ADMIN,
    ("POST", "/dashboard/queues/{queue}/unset"): Access.ADMIN,
    ("GET", "/dashboard/tasks"): Access.READ,
    ("GET", "/dashboard/ended"): Access.READ,
    ("GET", "/dashboard/tasks/{id}"): Access.READ,
    ("GET", "/dashboard/tasks/{id}/payload"): Access.READ,
    ("POST", "/dashboard/tasks/{id}/run"): Access.SCHEDULE,
    ("POST", "/dashboard/tasks/{id}/move"): Access.SCHEDULE,
    ("POST", "/dashboard/tasks/{id}/cancel"): Access.CANCEL,
    ("POST", "/dashboard/tasks/{id}/stop"): Access.CANCEL,
    ("POST", "/dashboard/tasks/{id}/replay"): Access.ADMIN,
    ("POST", "/dashboard/tasks/{id}/discard"): Access.ADMIN,
    ("POST", "/dashboard/many/run"): Access.SCHEDULE,
    ("POST", "/dashboard/many/move"): Access.SCHEDULE,
    ("POST", "/dashboard/many/cancel"): Access.CANCEL,
    ("POST", "/dashboard/many/replay"): Access.ADMIN,
    ("POST", "/dashboard/many/discard"): Access.ADMIN,
    ("GET", "/dashboard/dead"): Access.READ,
    ("POST", "/dashboard/dead/replay"): Access.ADMIN,
    ("POST", "/dashboard/dead/discard"): Access.ADMIN,
    ("GET", "/dashboard/nodes"): Access.READ,
    ("GET", "/dashboard/webhooks"): Access.READ,
    ("GET", "/dashboard/schedule"): Access.SCHEDULE,
    ("POST", "/dashboard/schedule"): Access.SCHEDULE,
    ("POST", "/dashboard/schedule/lines"): Access.SCHEDULE,
}
"""Method and route (without the context path) → what a caller needs. HEAD is GET. Names in braces do not matter."""

_SCHEDULER: Final[dict[str, Rule]] = {
    "Schedule": RULES["POST", "/v1/tasks"],
    "ScheduleBatch": RULES["POST", "/v1/tasks/batch"],
    "ScheduleStream": RULES["POST", "/v1/tasks/batch"],
    "Get": RULES["GET", "/v1/tasks/{id}"],
    "List": RULES["GET", "/v1/tasks"],
    "Cancel": RULES["DELETE", "/v1/tasks/{id}"],
    "Reschedule": RULES["PATCH", "/v1/tasks/{id}"],
    "RunNow": RULES["POST", "/v1/tasks/{id}/run"],
    "CancelMany": RULES["POST", "/v1/tasks/cancel"],
    "RescheduleMany": RULES["POST", "/v1/tasks/reschedule"],
    "RunNowMany": RULES["POST", "/v1/tasks/run"],
    "ListDead": RULES["GET", "/v1/dead"],
    "History": RULES["GET", "/v1/history"],
    "ReplayDead": RULES["POST", "/v1/dead/{id}/replay"],
    "ReplayDeadMany": RULES["POST", "/v1/dead/replay"],
    "DiscardDead": RULES["DELETE", "/v1/dead/{id}"],
    "DiscardDeadMany": RULES["POST", "/v1/dead/discard"],
    "Queues": RULES["GET", "/v1/queues"],
    "QueueRules": RULES["GET", "/v1/queue-rules"],
    "SetQueue": RULES["PATCH", "/v1/queues/{queue}"],
    "UnsetQueue": RULES["DELETE", "/v1/queues/{queue}"],
    "Forecast": RULES["GET", "/v1/forecast"],
    "Scaling": RULES["GET", "/v1/scaling"],
    "Nodes": RULES["GET", "/v1/nodes"],
    "Watch": RULES["GET", "/v1/tasks/{id}"],
    "Events": RULES["GET", "/v1/events"],
}
GRPC_RULES: Final[dict[str, Rule]] = {
    **{f"/delaybox.v1.Scheduler/{method}": rule for method, rule in _SCHEDULER.items()},
    "/delaybox.v1.Worker/Work": Access.WORKER,
    "/externalscaler.ExternalScaler/IsActive": WithoutToken.IN_MESSAGE,
    "/externalscaler.ExternalScaler/StreamIsActive": WithoutToken.IN_MESSAGE,
    "/externalscaler.ExternalScaler/GetMetricSpec": WithoutToken.IN_MESSAGE,
    "/externalscaler.ExternalScaler/GetMetrics": WithoutToken.IN_MESSAGE,
    "/grpc.health.v1.Health/Check": WithoutToken.PROBE,
    "/grpc.health.v1.Health/Watch": WithoutToken.PROBE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": WithoutToken.PAGE,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": WithoutToken.PAGE,
}
"""Full name of a gRPC method → what a caller needs."""

_BRACES = re.compile(r"\{[^}/]*\}")
_BY_SHAPE = {(method, _BRACES.sub("{}", route)): rule for (method, route), rule in RULES.items()}


def rule(method: str, route: str) -> Rule:
    """The rule of a route as it is written in the code; LookupError, which ends the start of the process, when it has
    none."""
    try:
        return _BY_SHAPE["GET" if method == "HEAD" else method, _BRACES.sub("{}", route)]
    except KeyError:
        raise LookupError(f"{method} {route} has no rule in call_scopes.RULES; add one before it is served") from None


def grpc_rule(method: str) -> Rule:
    """The rule of a gRPC method by its full name; LookupError, which ends the start of the process, when it has
    none."""
    try:
        return GRPC_RULES[method]
    except KeyError:
        raise LookupError(f"{method} has no rule in call_scopes.GRPC_RULES; add one before it is served") from None


def admit(grant: Grant, asked: Rule) -> None:
    """ScopeMissing when a caller with ``grant`` may not make a call with the rule ``asked``."""
    if isinstance(asked, Access):
        require(grant, asked)


def require(grant: Grant, access: Access, what: str = "this call") -> None:
    """ScopeMissing when ``grant`` does not hold ``access``."""
    if access not in grant:
        raise ScopeMissing(access, what)


def require_type(grant: Grant, task_type: TaskType) -> None:
    """A caller that puts a command into the store, new or by a change, needs the scope shell as well. ScopeMissing."""
    if task_type is TaskType.SHELL_CMD:
        require(grant, Access.SHELL, "a shell task")


def require_payload(grant: Grant, before: TaskView, payload: bytes, shell: ShellRules) -> None:
    """Checks a new payload for a stored task. ScopeMissing, TypeDisabled, InvalidTask."""
    require_type(grant, before.type)
    if before.type is not TaskType.SHELL_CMD:
        return
    try:
        shell.check(payload, before.name)
    except TypeDisabled:
        if Access.READ in grant:
            raise
        # The error's text names the task's command, which this caller may not read.
        raise TypeDisabled(
            "payload", "this node does not run the command of this task; change it through a node that does"
        ) from None
