"""The one table that says who may call what. A route without a line here is not served: `rule` raises for it.

Whatever else offers these calls (gRPC, a dashboard) asks this table too, by the REST call that does the same.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from delaybox.api.rest.edge import Refusal
from delaybox.core.access import Access, Grant
from delaybox.core.task import TaskType


class Open(Enum):
    """What is answered without a token."""

    PROBE = "probe"
    """Host and Origin are not looked at either: machines ask, by whatever name they know."""
    PAGE = "page"
    """Says nothing about tasks; a browser that opens it can not send a token."""


Rule = Access | Open

RULES: Final[dict[tuple[str, str], Rule]] = {
    ("GET", "/livez"): Open.PROBE,
    ("GET", "/readyz"): Open.PROBE,
    ("GET", "/metrics"): Open.PROBE,
    ("GET", "/openapi.json"): Open.PAGE,
    ("GET", "/docs"): Open.PAGE,
    ("GET", "/docs/{file}"): Open.PAGE,
    ("POST", "/task"): Access.SCHEDULE,
    ("GET", "/task"): Access.READ,
    ("GET", "/ping"): Access.READ,
    ("POST", "/v1/tasks"): Access.SCHEDULE,
    ("POST", "/v1/tasks/batch"): Access.SCHEDULE,
    ("GET", "/v1/tasks"): Access.READ,
    ("GET", "/v1/tasks/{id}"): Access.READ,
    ("DELETE", "/v1/tasks/{id}"): Access.CANCEL,
    ("PATCH", "/v1/tasks/{id}"): Access.SCHEDULE,
    ("POST", "/v1/tasks/{id}/run"): Access.SCHEDULE,
    ("GET", "/v1/queues"): Access.READ,
    ("GET", "/v1/queues/{queue}"): Access.READ,
    ("GET", "/v1/dead"): Access.READ,
    ("POST", "/v1/dead/replay"): Access.ADMIN,
    ("POST", "/v1/dead/{id}/replay"): Access.ADMIN,
    ("DELETE", "/v1/dead/{id}"): Access.ADMIN,
    ("GET", "/v1/forecast"): Access.READ,
    ("GET", "/v1/nodes"): Access.READ,
}
"""Method and route (without the context path) → what it takes. HEAD is GET. Names in braces do not matter."""

_BRACES = re.compile(r"\{[^}/]*\}")
_BY_SHAPE = {(method, _BRACES.sub("{}", route)): rule for (method, route), rule in RULES.items()}


def rule(method: str, route: str) -> Rule:
    """The rule of a route as it is written in the code; LookupError, which no start survives, when it has none."""
    try:
        return _BY_SHAPE["GET" if method == "HEAD" else method, _BRACES.sub("{}", route)]
    except KeyError:
        raise LookupError(f"{method} {route} has no rule in policy.RULES; add one before it is served") from None


def admit(grant: Grant, asked: Rule) -> None:
    """Refusal (403, names the scope) when a caller with ``grant`` may not do what ``asked`` stands before."""
    if isinstance(asked, Access):
        require(grant, asked)


def require(grant: Grant, access: Access, what: str = "this call") -> None:
    """Refusal (403, names the scope) when ``grant`` does not hold ``access``."""
    if access not in grant:
        raise Refusal(
            403,
            f"this token lacks the scope {access}, which {what} needs; add it to the token's scopes in auth.tokens",
            ((b"www-authenticate", f'Bearer error="insufficient_scope", scope="{access}"'.encode()),),
            code="scope_missing",
        )


def require_type(grant: Grant, task_type: TaskType) -> None:
    """Who puts a command into the store, new or by changing a task, needs the scope shell as well. Refusal else."""
    if task_type is TaskType.SHELL_CMD:
        require(grant, Access.SHELL, "a shell task")
