"""The embedded server: a Valkey (or Redis) of DelayBox's own, on a unix socket, with its data in one folder.

Whoever holds the lock on ``<folder>/server.lock`` has the server. The starting node takes the lock and hands the open
file to the server process, so the lock lives exactly as long as that process, however either of them dies. A second
node on the same folder finds the lock taken and attaches; when the lock comes free (the first node and its server are
gone, or the server crashed), whichever node takes it starts the server again on the same data.

The server keeps an append-only file (synced every second), never evicts, opens no TCP port, runs in its own session
(the terminal's Ctrl-C does not reach it) and ends with its node (see exec_server.py). Its folder must be this user's
alone (see trust.py), and it asks for a password that was made at random and stands there.
"""

from __future__ import annotations

from delaybox.embedded.folder import default_data_dir, has_run
from delaybox.embedded.process import find_binary, launch, reach
from delaybox.embedded.server import EmbeddedServer
from delaybox.embedded.trust import EmbeddedServerError

__all__ = [
    "EmbeddedServer",
    "EmbeddedServerError",
    "default_data_dir",
    "find_binary",
    "has_run",
    "launch",
    "reach",
]
