"""Which fields of an answer a caller sees. One table for REST and gRPC, as `call_scopes` is for who may call.

A token without the scope ``read`` may schedule, move or cancel tasks, but must not learn what others stored: payloads,
headers, labels, results, lists of ids. So the answer to such a caller keeps only the fields that stand here. For an
answer that has no line here `limits` raises when the front end is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from delaybox.api import call_scopes
from delaybox.core.scopes import Access, Grant

Fields = frozenset[str]

_ALL: Final = None
"""Shows nothing that somebody else stored, or only what the call is for."""
_STANDING: Final = frozenset({"id", "state", "due", "due_ms"})

WITHOUT_READ: Final[Mapping[str, Fields | None]] = {
    # REST, by the type's name
    "Scheduled": _STANDING | {"created"},
    "ChangedTask": _STANDING,
    "Moved": _ALL,
    "BatchAnswer": _ALL,
    "Replayed": frozenset({"replayed", "matched"}),
    "ChangedMany": frozenset({"matched", "changed", "skipped", "scanned"}),
    "RuledQueue": _ALL,
    # delaybox.v1
    "TaskInfo": _STANDING,
    "BulkResponse": frozenset({"matched", "changed", "skipped"}),
    "ScheduleResponse": _ALL,
    "ScheduleBatchResponse": _ALL,
    "CancelResponse": _ALL,
    "RunNowResponse": _ALL,
    "ReplayDeadResponse": _ALL,
    "DiscardDeadResponse": _ALL,
    "SetQueueResponse": _ALL,
    "UnsetQueueResponse": _ALL,
    # A worker gets the tasks that it is to run: the scope worker is for that.
    "ToWorker": _ALL,
}
"""Type of an answer -> the fields that a caller without the scope read sees; None: all of them."""


def limits(rule: call_scopes.Rule, answer: str) -> Fields | None:
    """The fields of an ``answer`` to a call with that rule that are shown without ``read``; None: all of them.

    LookupError, which ends the start of the process, for an answer that has no line.
    """
    if isinstance(rule, call_scopes.WithoutToken) or rule is Access.READ:
        return None
    try:
        return WITHOUT_READ[answer]
    except KeyError:
        raise LookupError(
            f"{answer} answers a call that needs {rule.value} alone, and has no line in disclosure.WITHOUT_READ; "
            "say there what it shows to a caller without the scope read"
        ) from None


def whole(grant: Grant) -> bool:
    """Whether a caller sees every field of an answer."""
    return Access.READ in grant
