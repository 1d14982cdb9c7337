"""A client of a Redis or Valkey server: its connections, time-outs and TLS."""

from __future__ import annotations

import ssl
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.maint_notifications import MaintNotificationsConfig

from delaybox.core.errors import ConfigError
from delaybox.store.address import ServerSettings
from delaybox.store.connections import Doubt, TcpConnection, TlsConnection, UnixConnection, keepalive
from delaybox.store.sentinel import NamedTcpConnection, NamedTlsConnection, Sentinels


def make_client(settings: ServerSettings, *, timeout_s: float = 5.0, max_connections: int = 32) -> Redis:
    """A client that answers bytes over RESP3 and never retries: each kind of call decides what a time-out means.

    After a fail-over its connections find the new primary (`store.connections`).

    With all connections in use a call waits up to ``timeout_s`` for one. ConfigError for certificates that are none.
    """
    options: dict[str, Any] = {
        "db": settings.db,
        "username": settings.username,
        "password": settings.password,
        "protocol": 3,
        "decode_responses": False,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        # redis-py's default retries every command that timed out, claims and schedules included.
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "health_check_interval": 0,
        "driver_info": _driver(),
        "doubt": Doubt(),
    }
    if settings.unix_path:
        options |= {"connection_class": UnixConnection, "path": settings.unix_path}
    else:
        options |= {"connection_class": TcpConnection, "host": settings.host, "port": settings.port}
        options |= {"socket_keepalive": True, "socket_keepalive_options": keepalive(timeout_s)}
        # Only Redis Enterprise answers it, and asking costs a round trip on every new connection.
        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
        if settings.tls:
            options |= {"connection_class": TlsConnection, "tls": _tls_context(settings)}
        if settings.sentinel:
            named = NamedTlsConnection if settings.tls else NamedTcpConnection
            options |= {"connection_class": named, "sentinels": _sentinels(settings, options["doubt"])}
    pool = BlockingConnectionPool(max_connections=max_connections, timeout=timeout_s, **options)
    if settings.sentinel:
        options["sentinels"].leave = lambda: pool.disconnect(inuse_connections=True)
    return Redis.from_pool(pool)


@cache
def _driver() -> DriverInfo:
    """What connections say of this library. Made once: to find its version redis-py would read the metadata of its
    package for each connection: 0.33 ms of the processor, where all else takes 0.02."""
    return DriverInfo()


def _sentinels(settings: ServerSettings, doubt: Doubt) -> Sentinels:
    """The sentinels, each with a client of its own. They have users and passwords apart from those of the servers."""
    places = ((settings.host, settings.port), *settings.more)
    clients = [
        make_client(
            replace(
                settings,
                host=host,
                port=port,
                more=(),
                db=0,
                sentinel="",
                username=settings.sentinel_username,
                password=settings.sentinel_password,
            ),
            timeout_s=1.0,
            max_connections=2,
        )
        for host, port in places
    ]
    return Sentinels(settings.sentinel, clients, doubt, ", ".join(f"{host}:{port}" for host, port in places))


async def close_client(client: Redis) -> None:
    """Closes the connections of a client of `make_client`, and its looks at sentinels. Twice is harmless."""
    sentinels = client.connection_pool.connection_kwargs.get("sentinels")
    if sentinels is not None:
        await sentinels.close()
    await client.aclose()


def _tls_context(settings: ServerSettings) -> ssl.SSLContext:
    ca, cert, key = settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file
    for what, file in (("CA certificates", ca), ("client certificate", cert), ("client key", key)):
        try:
            if file is not None:
                with Path(file).open("rb"):
                    pass
        except OSError as error:
            raise ConfigError(f"the {what} for TLS to the server: cannot read {file} ({error.strerror})") from None
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise ConfigError(f"the CA certificates for TLS to the server: {ca} holds no PEM certificate") from None
    if cert is not None:
        try:
            # An empty password is given, because openssl would otherwise ask for the one of a locked key at the
            # terminal.
            context.load_cert_chain(cert, key, password="")
        except (ssl.SSLError, ValueError) as error:
            files = cert if key is None else f"{cert} and {key}"
            why = "do not belong together" if "MISMATCH" in str(error) else "are no PEM certificate and unlocked key"
            raise ConfigError(f"the client certificate for TLS to the server: {files} {why}") from None
    elif key is not None:
        raise ConfigError(f"the client key for TLS to the server, {key}, needs the client certificate's file as well")
    return context
