"""The grpc.aio server of a process: its services, health, reflection, limits and TLS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc

from delaybox.api.grpc.calls import Guard, Service, handler_of
from delaybox.api.grpc.reflection import V1, Reflection
from delaybox.api.grpc.settings import GrpcSettings
from delaybox.core.errors import ConfigError
from delaybox.processes.listening import bind, bracketed

MAX_CALLS = 10_000
"""Calls under way, streams included; further ones get RESOURCE_EXHAUSTED."""


def make_server(settings: GrpcSettings, services: Sequence[Service], guard: Guard) -> grpc.aio.Server:
    """A server that is not listening yet. LookupError for a method without a rule."""
    options = [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.receive_limit),
        ("grpc.max_send_message_length", -1),
        # Callers may ask whether the node is still there, also between calls; one that is gone is noticed.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
    handlers = [handler_of(service, guard) for service in services]
    if settings.reflection:
        names = [service.descriptor.full_name for service in services]
        reflection = Reflection(names)
        handlers += [handler_of(reflection, guard), handler_of(reflection, guard, name=V1)]
    return grpc.aio.server(handlers=handlers, options=options, maximum_concurrent_rpcs=MAX_CALLS)


def listen(server: grpc.aio.Server, settings: GrpcSettings) -> int:
    """Opens the port and returns it; ConfigError says how to mend what is in the way."""
    # grpc would say only that it failed.
    bind(settings.host, settings.port, 1, option="--grpc-port").close()
    address = f"{bracketed(settings.host)}:{settings.port}"
    try:
        if settings.cert_file:
            return server.add_secure_port(address, _credentials(settings))
        return server.add_insecure_port(address)
    except RuntimeError:
        why = ", or the certificate and key do not fit each other" if settings.cert_file else ""
        raise ConfigError(f"cannot listen on {address}: another program was faster{why}") from None


def _credentials(settings: GrpcSettings) -> grpc.ServerCredentials:
    pair = (_read("keyFile", settings.key_file), _read("certFile", settings.cert_file))
    authority = _read("clientCaFile", settings.client_ca_file) if settings.client_ca_file else None
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _read(key: str, path: str) -> bytes:
    try:
        found = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"grpcServer.{key} names {path}, which cannot be read ({error.strerror}); correct the path or its rights"
        ) from None
    if b"-----BEGIN" not in found:
        raise ConfigError(f"grpcServer.{key} names {path}, which is no PEM file; convert it, or name another")
    return found
