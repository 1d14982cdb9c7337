"""What a client says of a node that it did not reach."""

from __future__ import annotations

import grpc
import pytest

from delaybox.client.errors import failure_of


class Broken(grpc.RpcError):
    def __init__(self, details: str) -> None:
        self._details = details

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return f"connections to all backends failing; last error: {self._details}"

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
