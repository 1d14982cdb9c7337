"""DelayBox: one-time tasks that fire on the millisecond, kept in Redis or Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from delaybox.client import AsyncClient, Client, NewTask, Retry
    from delaybox.wire.call import Call
    from delaybox.worker import Worker

__all__ = ["AsyncClient", "Call", "Client", "NewTask", "Retry", "Worker", "__version__"]

__version__ = "0.2.0"

_FROM = {
    "AsyncClient": "delaybox.client",
    "Call": "delaybox.wire.call",
    "Client": "delaybox.client",
    "NewTask": "delaybox.client",
    "Retry": "delaybox.client",
    "Worker": "delaybox.worker",
}


def __getattr__(name: str) -> Any:
    # Loaded when it is asked for: the command line and the node need no client, and gRPC takes a tenth of a second.
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(_FROM[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
