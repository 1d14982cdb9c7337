"""How channels to the nodes are made: the same options for both gRPC libraries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc

from delaybox import __version__
from delaybox.client import endpoints as endpoints_module
from delaybox.client.batches import batch_request
from delaybox.core.errors import ConfigError
from delaybox.wire.gen import scheduler_pb2 as pb

if TYPE_CHECKING:
    from delaybox.client.grpc_loop import GrpcLoop
    from delaybox.client.grpc_threads import GrpcThreads

MAX_MESSAGE: Final = 64 * 1024 * 1024
"""The largest message that is accepted or sent, bytes."""


@dataclass(frozen=True, slots=True)
class ChannelTarget:
    """The nodes, and the credentials that they get."""

    endpoints: tuple[str, ...]
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, Any], ...]

    def batch(self, tasks: Sequence[pb.NewTask]) -> pb.ScheduleBatchRequest:
        """The request for tasks in bulk."""
        return batch_request(tasks)

    def blocking(self) -> GrpcThreads:
        """For threads; connects when the first call is made."""
        from delaybox.client.grpc_threads import GrpcThreads

        return GrpcThreads(self)

    def looping(self) -> GrpcLoop:
        """For one event loop; connects when the first call is made."""
        from delaybox.client.grpc_loop import GrpcLoop

        return GrpcLoop(self)


def grpc_target(
    endpoints: str | Iterable[str],
    *,
    token: str | None,
    tls: bool,
    ca_file: str | Path | None,
    cert_file: str | Path | None,
    key_file: str | Path | None,
) -> ChannelTarget:
    """ConfigError for endpoints, a token or files that cannot be used."""
    if token is not None and (not token.isascii() or not token.isprintable() or " " in token or not token):
        raise ConfigError("the token holds characters that no token has, or none at all")
    if (cert_file is None) != (key_file is None):
        raise ConfigError("cert_file and key_file belong together; give both or neither")
    credentials = None
    if tls or ca_file is not None or cert_file is not None:
        credentials = grpc.ssl_channel_credentials(
            _pem("ca_file", ca_file), _pem("key_file", key_file), _pem("cert_file", cert_file)
        )
    return ChannelTarget(
        endpoints_module.parse(endpoints),
        credentials,
        () if token is None else (("authorization", f"Bearer {token}"),),
        (
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            # One name may resolve to several nodes.
            ("grpc.lb_policy_name", "round_robin"),
            # gRPC's own pauses grow to two minutes, so a node that is back would long stay unused.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 3_000),
            # A network that drops everything is noticed within half a minute; nodes allow a ping every 5 s.
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.primary_user_agent", f"delaybox-python/{__version__}"),
        ),
    )


def _pem(option: str, path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {str(path)!r} cannot be read ({error.strerror}); name a PEM file") from None
