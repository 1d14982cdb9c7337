"""A task as its attempt sees it, however it came: in a node's message, or claimed by this process itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class AssignedBody(Protocol):
    """What the caller asked to be run."""

    @property
    def payload(self) -> bytes: ...

    @property
    def header(self) -> Mapping[str, bytes]: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def timeout_ms(self) -> int: ...


class AssignedTask(Protocol):
    """One delivery of a task. ``sequence``: its number in the session that it came by; the others as worker.proto's."""

    @property
    def sequence(self) -> int: ...

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def queue(self) -> str: ...

    @property
    def due_ms(self) -> int: ...

    @property
    def attempt(self) -> int: ...

    @property
    def token(self) -> int: ...

    @property
    def want_result(self) -> bool: ...

    @property
    def traceparent(self) -> str: ...

    @property
    def task(self) -> AssignedBody: ...
