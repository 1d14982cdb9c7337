"""Listens on the execution channel and notes how late each task arrives.

A process of its own: its clock reads stand beside the socket, not behind the node's or the benchmark's work.
Prints ``{"ready": true}`` once subscribed, then one line with the lateness of every task in ms.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any

import hiredis

ID_TEXT = b"\x0a\x24"
"""Field 1 of the published Task, 36 characters: the id, whose first 12 hex digits are the due time."""


def due_of_message(message: bytes) -> int:
    if message[:2] != ID_TEXT:
        raise ValueError(f"a published Task starts with its id, not with {message[:8]!r}")
    return int(message[2:10] + message[11:15], 16)


def listen(options: dict[str, Any]) -> dict[str, Any]:
    """Until ``count`` messages came, or ``seconds`` went by."""
    if options["yielding"]:
        os.nice(10)  # it only counts: the server and the node are to have the cores
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(options["socket"])
    channel = options["channel"].encode()
    connection.sendall(b"*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%b\r\n" % (len(channel), channel))
    reader = hiredis.Reader()
    late: list[float] = []
    deadline = time.monotonic() + float(options["seconds"])
    print(json.dumps({"ready": True}), flush=True)
    while len(late) < int(options["count"]):
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            data = connection.recv(1 << 18)
        except TimeoutError:
            break
        now_ms = time.time_ns() / 1e6
        if not data:
            break
        reader.feed(data)
        while (message := reader.gets()) is not False:
            if message[0] == b"message":
                late.append(now_ms - due_of_message(message[2]))
    finished_ms = time.time_ns() / 1e6
    connection.close()
    found = {
        "n": len(late),
        "first_late_ms": min(late, default=0.0),
        "early": sum(1 for value in late if value < 0),
        "finished_ms": finished_ms,
    }
    return {**found, "lateness_ms": late} if options["each"] else found


if __name__ == "__main__":
    print(json.dumps(listen(json.loads(sys.argv[1]))), flush=True)
