"""What systemd is told of a node (``Type=notify``): that it works, and that it ends.

The protocol of sd_notify(3): one datagram to the socket that NOTIFY_SOCKET names. Without the variable nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket

_log = logging.getLogger("delaybox.node")


def ready() -> None:
    """Everything has started."""
    _notify("READY=1\nSTATUS=it works")


def stopping() -> None:
    """The node ends in order."""
    _notify("STOPPING=1\nSTATUS=it finishes what runs")


def _notify(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            # "@" stands for the zero byte that abstract addresses begin with.
            sock.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)
    except OSError as error:
        _log.warning("the service manager at %s was not told %r: %s", address, message.partition("\n")[0], error)
