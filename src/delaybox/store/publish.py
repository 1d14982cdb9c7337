"""Publishing on the store's own server, for PUB_SUB tasks that are not fired in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from delaybox.store import keys
from delaybox.store.servers import Command
from delaybox.store.store import Store


async def publish(store: Store, channel: str, messages: Sequence[tuple[int, bytes]], *, stream: int = 0) -> list[Any]:
    """Publishes (partition, message) in one round trip; per message the number of listeners, or the error.

    ``stream``: also added to the partition's stream, capped at about this length; 0 = no stream. If one of the two
    fails, the message's result is that error, because it was not delivered in full.
    StoreUnavailable when the server did not answer (what was published then is unknown). Of a cluster, the number is
    that of all its primaries' subscribers at that moment.
    """
    commands: list[Command] = []
    for partition, message in messages:
        if stream:
            place = keys.stream(store.tags[partition])
            commands.append(("XADD", place, "MAXLEN", "~", stream, "*", "task", message))
        commands.append(("PUBLISH", channel, message))
    replies = await store.servers.replies(commands)
    if store.servers.sharded and 0 in replies:
        # A server of a cluster counts its own subscribers alone.
        there = await store.servers.listeners(channel)
        replies = [there if reply == 0 else reply for reply in replies]
    if not stream:
        return replies
    return [
        added if isinstance(added, BaseException) else reached
        for added, reached in zip(replies[0::2], replies[1::2], strict=True)
    ]


async def listeners(store: Store, channel: str) -> int:
    """How many subscribe to a channel on this server now. StoreUnavailable."""
    return await store.servers.listeners(channel)


async def ask_to_stop(store: Store, task_id: str) -> int:
    """Asks whoever runs a task to stop it. Returns how many nodes received the message. StoreUnavailable."""
    return await store.servers.publish(store.control_channel, f"cancel {task_id}")
