"""A single ZSET that sends webhooks, with as little as does it: claim, one signed POST a task, ack.

It keeps what no webhook can do without (a claim with a lease, a signature, an answer that is waited for) and nothing
else: no check of addresses, no time-outs, retries, breaker or figures. It shows what the machine allows.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio
import uvloop

from benchmarks.peers.single_zset import ACK, CLAIM, KEYS
from benchmarks.workload import due_of
from delaybox import webhook

NAME = "single ZSET, bare HTTP"


class _Connection(asyncio.Protocol):
    """Sends one request at a time over a connection that stays open."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n") and self._answer is not None:
            self._answer.set_result(None)

    async def send(self, request: bytes) -> None:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._answer


class _Sender:
    def __init__(self, url: str, secret: str) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._path = str(parts.hostname), parts.port, parts.path
        self._keys = (webhook.key_of(secret),)
        self._idle: list[_Connection] = []

    async def send(self, task_id: bytes, body: bytes) -> None:
        if not self._idle:
            loop = asyncio.get_running_loop()
            self._idle.append((await loop.create_connection(_Connection, self._host, self._port))[1])
        connection = self._idle.pop()
        now = int(time.time())
        head = (
            f"POST {self._path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\ncontent-length: {len(body)}\r\n"
            f"{webhook.ID}: {task_id.hex()}\r\n{webhook.TIMESTAMP}: {now}\r\ndelaybox-due: {due_of(task_id)}\r\n"
            f"{webhook.SIGNATURE}: {webhook.sign(task_id.hex(), now, body, self._keys)}\r\n\r\n"
        )
        await connection.send(head.encode() + body)
        self._idle.append(connection)


async def serve(options: dict[str, Any]) -> None:
    """Until it is stopped: sleep until the head is due, claim, send, ack when all of the claim were answered."""
    client = redis.asyncio.Redis(unix_socket_path=options["unix"], protocol=3)
    sender = _Sender(options["url"], options["secret"])
    lease, under_way = 0, set[asyncio.Task[None]]()

    async def carry(lease: int, tasks: list[tuple[bytes, bytes]]) -> None:
        await asyncio.gather(*(sender.send(*task) for task in tasks))
        await client.execute_command("EVAL", ACK, len(KEYS), *KEYS, lease)

    print(json.dumps({"ready": True}), flush=True)
    while True:
        lease += 1
        due, bodies, head = await client.execute_command("EVAL", CLAIM, len(KEYS), *KEYS, 500, lease)
        if due:
            task = asyncio.ensure_future(carry(lease, list(zip(due, bodies, strict=True))))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        wait_s = float(head) / 1000 - time.time()
        if wait_s > 0 or not float(head):
            await asyncio.sleep(min(wait_s, 0.25) if float(head) else 0.25)


if __name__ == "__main__":
    uvloop.run(serve(json.loads(sys.argv[1])))
