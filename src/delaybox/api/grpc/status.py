"""Errors as google.rpc.Status, with REST's codes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from delaybox.api import errors
from delaybox.core.errors import DelayBoxError, IdempotencyConflict, InvalidTask, PayloadTooLarge
from delaybox.wire.gen import scheduler_pb2 as pb

_log = logging.getLogger("delaybox.grpc")

DOMAIN: Final = "delaybox"
DETAILS: Final = "grpc-status-details-bin"
BY_NUMBER: Final[Mapping[int, grpc.StatusCode]] = MappingProxyType({code.value[0]: code for code in grpc.StatusCode})
_FIELDS: Final = {
    "at": "due_ms",
    "burst": "rules.burst",
    "delay": "delay_ms",
    "from": "from_ms",
    "state": "selection.filter.state",
    "step": "step_ms",
    "to": "to_ms",
}
"""What the service calls by REST's names."""


def error_of(error: DelayBoxError) -> pb.Error:
    """Why one task of a batch was refused."""
    found = errors.outside(error)
    if found is errors.DEFECT:
        _log.error("unexpected %s: %s", error.code, error)
        return pb.Error(code="internal", message=errors.DEFECT_TEXT)
    return pb.Error(
        code=error.code, message=str(error), field=field_of(error), retry_after_ms=errors.retry_after_ms(error)
    )


def field_of(error: DelayBoxError) -> str:
    """The field that was wrong; empty where it was none."""
    return _FIELDS.get(error.field, error.field) if isinstance(error, InvalidTask) else ""


def status_of(error: DelayBoxError, path: str = "") -> status_pb2.Status:
    """The whole status of one call. ``path``: the path in the request of the fields that its checks name."""
    answer = error_of(error)
    out = status_pb2.Status(code=errors.outside(error).grpc, message=answer.message)
    metadata = {"limit": str(error.limit)} if isinstance(error, PayloadTooLarge) else {}
    if isinstance(error, IdempotencyConflict):
        metadata["task_id"] = error.task_id
    out.details.add().Pack(error_details_pb2.ErrorInfo(reason=answer.code, domain=DOMAIN, metadata=metadata))
    if answer.field:
        whole = answer.field if not path or answer.field in (path, "request") else f"{path}.{answer.field}"
        violation = error_details_pb2.BadRequest.FieldViolation(field=whole, description=answer.message)
        out.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if answer.retry_after_ms:
        wait = Duration()
        wait.FromMilliseconds(answer.retry_after_ms)
        out.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=wait))
    return out
