"""Listening sockets that nobody shares."""

from __future__ import annotations

import errno
import socket

from delaybox.core.errors import ConfigError


def bracketed(host: str) -> str:
    """A host as an address with a port shows it."""
    return f"[{host.strip('[]')}]" if ":" in host else host


def bind(host: str, port: int, backlog: int, *, option: str) -> socket.socket:
    """A listening socket; ConfigError says how to mend what is in the way. ``option``: the flag that names the port."""
    shown = f"{bracketed(host)}:{port}"
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigError(f"cannot listen on {shown}: the host is not known; give an address of this machine") from None
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        match error.errno:
            case errno.EADDRINUSE:
                why = f"the port is taken; stop the program that has it or choose another port with {option}"
            case errno.EACCES:
                why = f"this user may not use the port; choose one above 1023 with {option}"
            case errno.EADDRNOTAVAIL:
                why = "the address is not one of this machine; choose another with --host"
            case _:
                why = error.strerror or "unknown error"
        raise ConfigError(f"cannot listen on {shown}: {why}") from None
    return sock
