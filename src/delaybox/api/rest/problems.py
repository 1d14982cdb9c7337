"""Errors as HTTP answers: the one table of statuses, and both ways to write them."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Final

from delaybox.api import errors
from delaybox.api.rest.refusal import Refusal
from delaybox.api.rest.routing import Answer
from delaybox.core.errors import (
    DelayBoxError,
    IdempotencyConflict,
    InvalidTask,
    Overloaded,
    ScopeMissing,
    StoreUnavailable,
    Unauthenticated,
)
from delaybox.wire.json import types
from delaybox.wire.json.rendering import encode
from delaybox.wire.original import answer

_log = logging.getLogger("delaybox.api")

PROBLEM_JSON: Final = b"application/problem+json"
_BY_STATUS: Final = {
    400: "bad_request",
    403: "forbidden",
    404: "no_such_path",
    405: "method_not_allowed",
    408: "body_too_slow",
    413: "too_large",
    415: "unsupported_media_type",
    429: "overloaded",
    500: "internal",
}
"""Codes of refusals before the service is called."""


def problem_of(error: DelayBoxError) -> types.Problem:
    """An error as RFC 9457 has it."""
    status = errors.outside(error).http
    if status == 500:
        _log.error("unexpected %s: %s", error.code, error)
        return _problem(500, "internal", errors.DEFECT_TEXT)
    out = _problem(status, error.code, str(error))
    if isinstance(error, InvalidTask):
        out.field = error.field
    elif isinstance(error, IdempotencyConflict):
        out.task_id = error.task_id
    return out


def _problem(status: int, code: str, detail: str) -> types.Problem:
    return types.Problem(status, code, HTTPStatus(status).phrase, detail, f"urn:delaybox:{code}")


class Problems:
    """How one family of routes writes its errors. ``rfc9457``: as problems, else as the original did."""

    def __init__(self, *, rfc9457: bool) -> None:
        self._rfc9457 = rfc9457

    def refusal(self, refusal: Refusal, code: str = "") -> Answer:
        """A refusal before the service is called. ``code``: if it is not the status's usual one."""
        code = code or _BY_STATUS.get(refusal.status, "bad_request")
        return self._answer(_problem(refusal.status, code, refusal.message), refusal.headers)

    def error(self, error: DelayBoxError) -> Answer:
        """An error that the readers or the service raised."""
        return self._answer(problem_of(error), _headers_of(error))

    def defect(self) -> Answer:
        """An unexpected error."""
        return self._answer(_problem(500, "internal", errors.DEFECT_TEXT), ())

    def _answer(self, problem: types.Problem, headers: tuple[tuple[bytes, bytes], ...]) -> Answer:
        if self._rfc9457:
            return Answer(problem.status, encode(problem), headers, PROBLEM_JSON)
        return Answer(problem.status, answer.render_error(problem.detail), headers)


def _headers_of(error: DelayBoxError) -> tuple[tuple[bytes, bytes], ...]:
    if isinstance(error, Overloaded | StoreUnavailable) and error.retry_after_s:
        return ((b"retry-after", b"%d" % error.retry_after_s),)
    if isinstance(error, Unauthenticated):
        return ((b"www-authenticate", b'Bearer error="invalid_token"' if error.given else b"Bearer"),)
    if isinstance(error, ScopeMissing):
        return ((b"www-authenticate", f'Bearer error="insufficient_scope", scope="{error.scope}"'.encode()),)
    return ()


COMPATIBLE: Final = Problems(rfc9457=False)
V1: Final = Problems(rfc9457=True)


def family(path: str, v1: str) -> Problems:
    """How the routes at ``path`` write errors. ``v1``: the path of those of ``/v1``."""
    return V1 if path.startswith(v1) else COMPATIBLE
