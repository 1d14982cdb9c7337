"""Listens on the execution channel in a process of its own, and logs each message as an execution.

Each gets the moment at which it was read from the socket, before anything is done with those before it: what this
process is behind with would be taken for what the node is late by.

``python -m tests.faults.harness.ears <oracle> <url of the server>``; prints a line when it has subscribed.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from pathlib import Path

import hiredis

from delaybox.store.address import ServerSettings
from tests.faults.harness.look import key_of, uuid_of
from tests.faults.harness.oracle import Start, Writer, now_us
from tests.faults.harness.rig import CHANNEL

_AT_ONCE = 200


async def main(oracle: Path, url: str) -> None:
    server, writer = ServerSettings.from_url(url), Writer(oracle)
    if server.unix_path:
        reader, sending = await asyncio.open_unix_connection(server.unix_path)
    else:
        reader, sending = await asyncio.open_connection(server.host, server.port)
    sending.write(b"*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%b\r\n" % (len(CHANNEL), CHANNEL.encode()))
    heard: deque[tuple[int, bytes]] = deque()
    more = asyncio.Event()

    async def log() -> None:
        parser = hiredis.Reader()
        while True:
            await more.wait()
            more.clear()
            while heard:
                at_us, data = heard.popleft()
                parser.feed(data)
                events: list[Start] = []
                while (message := parser.gets()) is not False:
                    if message[0] == b"message":
                        events.append(Start(uuid_of(message[2]), key_of(message[2]), 0, 0, 0, at_us))
                    else:
                        print("subscribed", flush=True)
                    if len(events) >= _AT_ONCE:
                        writer.write(*events)
                        events.clear()
                        await asyncio.sleep(0)
                if events:
                    writer.write(*events)
                await asyncio.sleep(0)

    logging = asyncio.create_task(log())
    while data := await reader.read(1 << 18):
        heard.append((now_us(), data))
        more.set()
    logging.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
