"""`delaybox store`: shows which store lies on the server, and accepts it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from delaybox.cli import messages
from delaybox.cli.exits import Exit
from delaybox.cli.server import any_server
from delaybox.core.partition import Shape, chosen
from delaybox.store.identity import Accepted, accept

if TYPE_CHECKING:
    from delaybox.config import Config

BUCKET_MS = 60_000


async def accept_store(config: Config, *, as_json: bool) -> int:
    """Accepts the store on the server, for nodes that miss a store that is gone."""
    prefix = config.storage.prefix
    async with any_server(config) as servers:
        wanted = Shape(os.urandom(8).hex(), chosen(config.new_partitions, cluster=servers.sharded), BUCKET_MS)
        done = await accept(servers, prefix, wanted)
    if as_json:
        messages.out_json({"accepted": done.shape.store_id, "partitions": done.shape.partitions, "made": done.made,
                      "instead_of": list(done.lost)})  # fmt: skip
    else:
        messages.out(_words(prefix, done))
    return Exit.DONE


def _words(prefix: str, done: Accepted) -> str:
    store = f"store {prefix!r} (id {done.shape.store_id}, {done.shape.partitions} partitions)"
    what = f"{store} was made, empty" if done.made else f"{store} is the one that is meant"
    if done.lost:
        return f"{what}; nodes that look for {', '.join(done.lost)} go on with it within a second or two"
    return f"{what}; no living node looks for another one"
