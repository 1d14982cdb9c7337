"""`delaybox fsck` as a process on a real store."""

from __future__ import annotations

import asyncio
import json
import sys

from redis.asyncio import Redis

from delaybox.store import keys
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.servers import RealServer


async def _fsck(server: RealServer, prefix: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "delaybox",
            "fsck",
            "--redis",
            server.url,
            "--set",
            f"storage.prefix={prefix}",
            "--json",
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_a_clean_store_is_exit_code_0(server: RealServer, client: Redis, prefix: str) -> None:
    await Store.open(Servers(client), prefix=prefix)
    code, out, err = await _fsck(server, prefix)
    assert (code, err) == (0, "")
    assert json.loads(out)["problems"] == []


async def test_a_broken_store_is_exit_code_1_and_the_problem(server: RealServer, client: Redis, prefix: str) -> None:
    await Store.open(Servers(client), prefix=prefix)
    await client.zadd(f"{{{prefix}:0}}:buckets", {"12345": 12345})
    code, out, _ = await _fsck(server, prefix)
    assert code == 1
    assert json.loads(out)["problems"]


async def test_where_there_is_no_store_none_is_made(server: RealServer, client: Redis, prefix: str) -> None:
    code, _, err = await _fsck(server, prefix)
    assert code == 2
    assert prefix in err
    assert not await client.exists(keys.meta(prefix))
