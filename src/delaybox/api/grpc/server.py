"""The grpc.aio server of a process with its services, health, reflection and limits, and the front that listens for
it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc

from delaybox.api.grpc.calls import Servicer, handler_of
from delaybox.api.grpc.front import GREETING_S, MAX_CONNECTIONS, Front
from delaybox.api.grpc.guard import Guard
from delaybox.api.grpc.reflection import V1, Reflection
from delaybox.api.grpc.settings import GrpcSettings
from delaybox.core.errors import ConfigError
from delaybox.processes import counters, files

MAX_STREAMS = 100
"""Most calls at once on one connection; the caller's library keeps further ones back."""
WINDOW_BYTES = 256 * 1024
"""Most bytes of a stream that come before its message is read. It is fixed; grpc would let it grow with the
bandwidth."""
_FILES_EACH = 3
"""The caller's socket, and both ends of the one to the core."""
_OTHER_FILES = 200
_PENDING = 100_000
_SOCKET = "grpc.sock"
_LONGEST_PATH = 100
"""Longest path of a unix socket; in a deeper folder the socket is reached by the folder's descriptor in this
process."""
_GZIP_ONLY = 0b101
"""Compression that callers may use: none (bit 0) and gzip (bit 2)."""


def make_server(settings: GrpcSettings, services: Sequence[Servicer], guard: Guard) -> grpc.aio.Server:
    """A server that is not listening yet. LookupError for a method without a rule."""
    options = [
        ("grpc.max_receive_message_length", settings.receive_limit),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        # Past these the core would refuse calls at random, counting those that have ended and are not yet forgotten.
        ("grpc.http.overload_protection", 0),
        # The core would drop calls at random as soon as 1,000 wait to be looked at; the front keeps these few.
        ("grpc.server.max_pending_requests", _PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _PENDING),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        # A message is inflated here, where its caller was allowed to call and its size is counted.
        ("grpc.per_message_decompression", 0),
        ("grpc.compression_enabled_algorithms_bitset", _GZIP_ONLY),
        ("grpc.server_handshake_timeout_ms", int(GREETING_S * 1000)),
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
    return grpc.aio.server(handlers=handlers, options=options)


@contextlib.contextmanager
def front_of(settings: GrpcSettings) -> Iterator[Front]:
    """A front that is not listening yet, with a place for the socket between it and the core. ConfigError."""
    tls = _context(settings) if settings.cert_file else None
    connections = (files.raise_limit(_FILES_EACH * MAX_CONNECTIONS + _OTHER_FILES) - _OTHER_FILES) // _FILES_EACH
    # Only this user may enter the folder: a connection made there would bypass the certificates and the counting.
    folder = tempfile.mkdtemp(prefix="delaybox-grpc-", dir=os.environ.get(counters.VARIABLE))
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    path = f"{folder}/{_SOCKET}"
    if len(os.fsencode(path)) > _LONGEST_PATH:
        path = f"/proc/self/fd/{opened}/{_SOCKET}"
    try:
        yield Front(
            path,
            settings.receive_limit,
            settings.message_timeout_s,
            tls=tls,
            connections=max(16, connections),
        )
    finally:
        os.close(opened)
        shutil.rmtree(folder, ignore_errors=True)


async def listen(server: grpc.aio.Server, front: Front, sock: socket.socket) -> None:
    """Starts the server, and takes connections from ``sock``."""
    server.add_insecure_port(f"unix:{front.path}")
    await server.start()
    await front.start(sock)


def _context(settings: GrpcSettings) -> ssl.SSLContext:
    for key, path in (("certFile", settings.cert_file), ("keyFile", settings.key_file)):
        _check(key, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        # A password is given, because openssl would otherwise ask for the one of an encrypted key at the terminal.
        context.load_cert_chain(settings.cert_file, settings.key_file, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"grpcServer.certFile {settings.cert_file} and keyFile {settings.key_file} cannot be used together: "
            f"{error}; the key must be that of the certificate, and not encrypted"
        ) from None
    if settings.client_ca_file:
        _check("clientCaFile", settings.client_ca_file)
        try:
            context.load_verify_locations(settings.client_ca_file)
        except ssl.SSLError as error:
            raise ConfigError(
                f"grpcServer.clientCaFile {settings.client_ca_file} holds no certificate that can be used: {error}"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check(key: str, path: str) -> None:
    try:
        found = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"grpcServer.{key} names {path}, which cannot be read ({error.strerror}); correct the path or its rights"
        ) from None
    if b"-----BEGIN" not in found:
        raise ConfigError(f"grpcServer.{key} names {path}, which is no PEM file; convert it, or name another")
