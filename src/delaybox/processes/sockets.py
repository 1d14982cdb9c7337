"""Listening sockets. The node holds those of its children: when a child ends, the port stays open, and connections wait
in the backlog until there is a child again. Several children of one kind accept from the same socket.
"""

from __future__ import annotations

import errno
import socket

from delaybox.core.errors import ConfigError, DelayBoxError


class CannotListen(DelayBoxError):
    """The address cannot be bound; the message explains how to mend that."""

    code = "cannot_listen"


def bracketed(host: str) -> str:
    """A host as an address with a port shows it."""
    return f"[{host.strip('[]')}]" if ":" in host else host


def port_of(sock: socket.socket) -> int:
    """The port that a socket is bound to."""
    return int(sock.getsockname()[1])


def bind(host: str, port: int, backlog: int, *, option: str) -> socket.socket:
    """A listening socket, which no other program shares. ``option``: the flag or key that names the port, for messages.

    CannotListen explains what is in the way.
    """
    shown = f"{bracketed(host)}:{port}"
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise CannotListen(
            f"cannot listen on {shown}: the host is not known; give an address of this machine"
        ) from None
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
        raise CannotListen(f"cannot listen on {shown}: {why}") from None
    return sock


def inherited(fd: int | None) -> socket.socket:
    """In a child: the socket that its parent holds. Programs that the child starts do not inherit it."""
    if fd is None:
        raise ConfigError("this process got no socket to accept from; start it through the node")
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
