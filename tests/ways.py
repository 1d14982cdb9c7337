"""A claim has ways of its own for what it finds most (lib/few.lua, lib/one_lane.lua). Each does what all others do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

from delaybox.store.loader import load
from delaybox.store.replies import ClaimLimits
from tests.lab import CLOCK, Lab

LEASE = b"n" * 20
FEW = "lib/few.lua"
ANOTHER = b"ANOTHER WAY"


def ways(file: str) -> tuple[str, str]:
    """The claim with the way in this file alone, and without that way."""
    lines = resources.files("delaybox.store.scripts").joinpath(file).read_text().splitlines()
    own = "\n".join("" if line.lstrip().startswith("--") else line for line in lines) + "\n"
    source = load("claim", CLOCK).source
    assert source.count(own) == 1
    if file == FEW:
        # A function, which claim.lua calls.
        call, begin = "  if reply then return reply end\n", "  if not ((slots > 1 or"
        assert source.count(call) == source.count(begin) == 1
        alone = source.replace(call, f"  do return reply or '{ANOTHER.decode()}' end\n")
        return alone, source.replace(begin, "  if true or not ((slots > 1 or")
    before, begin, _ = own.partition("\nrepeat\n")
    assert begin and own.rstrip().endswith("\nuntil true")
    above, _, behind = source.partition(own)
    return f"{above}{own}do return '{ANOTHER.decode()}' end\n{behind}", f"{above}{before}\n{behind}"


async def content(lab: Lab) -> dict[bytes, Any]:
    """All that is stored; what is scored or named twice in one key would show as well."""
    read: dict[bytes, Callable[[bytes], Awaitable[Any]]] = {
        b"string": lab.client.get,
        b"hash": lab.client.hgetall,
        b"set": lab.client.smembers,
        b"zset": lambda key: lab.client.zrange(key, 0, -1, withscores=True),
        b"list": lambda key: lab.client.lrange(key, 0, -1),
        b"stream": lab.client.xrange,
    }
    found = {key: await read[await lab.client.type(key)](key) for key in await lab.client.keys("*")}
    # The ids of a stream's entries are the server's.
    return {key: [entry for _, entry in value] if key.endswith(b":stream") else value for key, value in found.items()}


async def claim_by(lab: Lab, source: str, limits: ClaimLimits) -> Any:
    claim = lab.store.claim_call(0, LEASE, limits)
    return await lab.client.eval(source, 1, claim.tag, *claim.args)


async def both(lab: Lab, two: tuple[str, str], limits: ClaimLimits) -> Any:
    """Both ways answer and store the same, and the usual claim goes the first. Its reply; what it did stays."""
    dump = {key: await lab.client.dump(key) for key in await lab.client.keys("*")}
    found = []
    for source in (*two, load("claim", CLOCK).source):
        await lab.client.unlink(*await lab.client.keys("*"))
        for key, value in dump.items():
            await lab.client.restore(key, 0, value)
        reply = await claim_by(lab, source, limits)
        # How many were fired by lane, in any order.
        reply[5] = dict(zip(reply[5][::2], reply[5][1::2], strict=True))
        found.append((reply, await content(lab)))
    assert found[0][0] == found[1][0]
    assert found[0][1] == found[1][1]
    assert found[2] == found[0], "the usual claim goes this way"
    return found[0][0]
