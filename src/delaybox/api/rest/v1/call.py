"""What is told of one call of ``/v1``, and what several of them answer and refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from delaybox.api.rest.v1.handlers import V1, Replier


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiCall:
    """One call. ``name``: its name in generated clients.

    ``answers``: by status, what it means and the type of its body (None: no body).

    ``refusals``: the statuses of problems beside those that every call has.
    """

    name: str
    method: str
    path: str
    handler: Callable[[V1], Replier]
    summary: str
    about: str = ""
    tag: str
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    body: type[Struct] | None = None
    answers: Mapping[int, tuple[str, type[Struct] | None]]
    refusals: Mapping[int, str] = field(default_factory=dict)
    examples: Mapping[str, Any] = field(default_factory=dict)
    streams: bool = False
    """It is answered with server-sent events of the type in ``answers``."""


SIZE = {413: "the body, the payload or the headers are too large", 415: "the body is not application/json",
         408: "the body did not come within 30 s", 429: "too much waits already; see Retry-After"}  # fmt: skip
ONE = {404: "no such task", 409: "it runs right now, so it cannot be changed"}
PENDING = {**ONE, 410: "nothing of it is kept and its time is past: it has finished, or never was"}
CANCELLED: Mapping[int, tuple[str, type[Struct] | None]] = {
    204: ("cancelled; it will not run", None),
    202: ("`running`: the worker or node that runs it was asked to stop it; its state shows the end", None),
}
