"""How a client's calls travel: over gRPC to nodes, or straight to the Redis server that holds the tasks.

An address with the scheme of a Redis URL, or ``file:`` for the data folder of an embedded server, means Redis. What
serves it needs more packages than a client over gRPC, so it is loaded by name when such an address is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

from google.protobuf.message import Message

from delaybox.client.batches import StoredBatch, TaskBatch
from delaybox.client.channel import grpc_target
from delaybox.client.errors import Failure
from delaybox.client.steps import Invoke, OpenStream
from delaybox.core.errors import ConfigError
from delaybox.wire.gen import scheduler_pb2 as pb

EXTRA: Final = "delaybox[redis]"
_FACTORY: Final = "delaybox.direct.transport:direct_target"
_SCHEME = re.compile(r"(redis|valkey)s?(\+sentinel)?://|unix://|file:")


class BlockingStream(Protocol):
    """A stream of responses, for threads. See `steps.OpenStream`, `steps.Send`, `steps.Receive`, `steps.Drop`."""

    def send(self, message: Any) -> None:
        """A message, or what the target's ``batch`` made."""

    def receive(self) -> Message | StoredBatch | Failure | None: ...

    def drop(self) -> None: ...


class BlockingTransport(Protocol):
    """Carries calls out for several threads."""

    def invoke(self, effect: Invoke) -> Message | Failure:
        """Waits for the answer."""

    def open(self, effect: OpenStream) -> BlockingStream:
        """Raises Unreachable when it was closed."""

    def close(self) -> None:
        """Calls under way end as those of a closed client. Twice is harmless."""


class LoopStream(Protocol):
    """A stream of responses, for an event loop."""

    def send(self, message: Any) -> None:
        """A message, or what the target's ``batch`` made."""

    async def receive(self) -> Message | StoredBatch | Failure | None: ...

    def drop(self) -> None: ...


class LoopTransport(Protocol):
    """Carries calls out on one event loop."""

    async def invoke(self, effect: Invoke) -> Message | Failure:
        """Waits for the answer."""

    def open(self, effect: OpenStream) -> LoopStream:
        """Raises Unreachable when it was closed."""

    async def close(self) -> None:
        """Calls under way end as those of a closed client. Twice is harmless."""


class ClientTarget(Protocol):
    """Where a client's calls go. ``endpoints``: for people, without credentials."""

    @property
    def endpoints(self) -> tuple[str, ...]: ...

    def batch(self, tasks: Sequence[pb.NewTask]) -> Message | TaskBatch:
        """The request for tasks in bulk."""

    def blocking(self) -> BlockingTransport:
        """Connects when the first call is made."""

    def looping(self) -> LoopTransport:
        """Connects when the first call is made."""


def client_target(
    servers: str | Iterable[str],
    *,
    token: str | None,
    tls: bool,
    ca_file: str | Path | None,
    cert_file: str | Path | None,
    key_file: str | Path | None,
) -> ClientTarget:
    """The target of these addresses. ConfigError for addresses, a token or files that cannot be used."""
    security: dict[str, Any] = {
        "token": token, "tls": tls, "ca_file": ca_file, "cert_file": cert_file, "key_file": key_file,
    }  # fmt: skip
    url, others = direct_url(servers)
    if url is None:
        return grpc_target(others, **security)
    made: ClientTarget = loaded(_FACTORY, url)(url, **security)
    return made


def direct_url(servers: str | Iterable[str]) -> tuple[str | None, str | list[str]]:
    """The URL if the address leads to Redis, else None and the addresses. ConfigError for such a URL among others."""
    given = servers if isinstance(servers, str) else list(servers)
    several = [given] if isinstance(given, str) else given
    found = [one for one in several if _SCHEME.match(one.strip())]
    if not found:
        return None, given
    if len(several) > 1:
        raise ConfigError(
            f"{len(several)} servers are given, and one is a Redis URL; give that one alone, or only nodes (host:port)"
        )
    return found[0].strip(), given


def loaded(factory: str, url: str) -> Any:
    """What ``module:name`` names. ConfigError when a package that it needs is not installed."""
    module, _, name = factory.partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "delaybox":
            raise
        scheme, package = url.partition(":")[0], error.name.partition(".")[0]
        raise ConfigError(
            f"{scheme}: addresses need the package {package!r}, which is not installed; "
            f"pip install '{EXTRA}', or give a node's address (host:port), which needs nothing more"
        ) from None
