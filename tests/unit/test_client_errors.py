"""What a client says of a node that it did not reach."""

from __future__ import annotations

import grpc
import pytest

from delaybox.client.errors import Unreachable, failure_of
from delaybox.core.errors import Overloaded


class Broken(grpc.RpcError):
    def __init__(
        self,
        details: str,
        before: str = "connections to all backends failing; last error: ",
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
    ) -> None:
        self._details = before + details
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize(
    ("details", "mend"),
    [
        ("UNKNOWN: ipv4:127.0.0.1:9088: Failed to connect to remote host", "is a node listening there?"),
        ("UNKNOWN: Tls handshake failed: CERTIFICATE_VERIFY_FAILED", "give the authority that signed it as ca_file"),
        ("UNAVAILABLE: ipv4:127.0.0.1:9088: Socket closed", "if the node has TLS, give tls or ca_file"),
    ],
)
def test_no_connection_says_what_to_mend(details: str, mend: str) -> None:
    failure = failure_of(Broken(details), "node-a:9088")
    assert not failure.sent
    assert str(failure.error).startswith("node-a:9088: ") and mend in str(failure.error)


def test_who_calls_redis_itself_over_grpc_is_told_so() -> None:
    assert "write redis://cache:6379" in str(failure_of(Broken("UNAVAILABLE: Socket closed"), "cache:6379").error)


def test_a_call_that_http_refused_is_known_not_to_be_done() -> None:
    words = "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))"
    failure = failure_of(Broken(words, before=""), "node-a:9088")
    assert failure.refused and isinstance(failure.error, Overloaded)
    assert str(failure.error).startswith("node-a:9088 ")


def test_a_call_that_a_stopping_node_ended_may_be_sent_to_another() -> None:
    """A client with keys on its tasks raised it, as if the node had refused the task."""
    failure = failure_of(Broken("CANCELLED", before="", code=grpc.StatusCode.CANCELLED), "node-a:9088")
    assert isinstance(failure.error, Unreachable) and failure.sent and not failure.refused
    assert str(failure.error) == "node-a:9088 ended the call, because it is stopping"
