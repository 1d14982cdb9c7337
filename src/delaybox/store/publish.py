"""Publishing on the store's own server, for PUB_SUB tasks that are not fired in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from delaybox.store import keys
from delaybox.store.loader import translate
from delaybox.store.store import Store


async def publish(store: Store, channel: str, messages: Sequence[tuple[int, bytes]], *, stream: int = 0) -> list[Any]:
    """Publishes (partition, message) in one round trip; per message the number of listeners, or the error.

    ``stream``: also added to the partition's stream, capped at about this length; 0 = no stream. If one of the two
    fails, the message's result is that error, because it was not delivered in full.
    StoreUnavailable when the server did not answer (what was published then is unknown).
    """
    pipe = store.client.pipeline(transaction=False)
    for partition, message in messages:
        if stream:
            pipe.xadd(keys.stream(store.tags[partition]), {"task": message}, maxlen=stream, approximate=True)
        pipe.publish(channel, message)
    try:
        replies: list[Any] = await pipe.execute(raise_on_error=False)
    except (RedisError, OSError) as error:
        raise translate(error) from error
    if not stream:
        return replies
    return [
        added if isinstance(added, BaseException) else heard
        for added, heard in zip(replies[0::2], replies[1::2], strict=True)
    ]


async def listeners(store: Store, channel: str) -> int:
    """How many subscribe to a channel on this server now."""
    try:
        reply: Any = await store.client.pubsub_numsub(channel)
    except (RedisError, OSError) as error:
        raise translate(error) from error
    return int(reply[0][1]) if reply else 0


async def ask_to_stop(store: Store, task_id: str) -> int:
    """Asks whoever runs a task to stop it. Returns how many nodes received the message. StoreUnavailable."""
    try:
        heard: Any = await store.client.publish(keys.control(store.prefix), f"cancel {task_id}")
    except (RedisError, OSError) as error:
        raise translate(error) from error
    return int(heard)
