"""How far running tasks are, as their workers report. It is no part of a task's record: it may be lost, and it
expires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from redis.exceptions import RedisError

from delaybox.core import ids
from delaybox.store import keys
from delaybox.store.loader import translate
from delaybox.store.store import Store

KEPT_S = 600
_AT_ONCE = 500


async def note(store: Store, said: Mapping[bytes, bytes]) -> None:
    """Stores reports by task id, for 10 minutes or until the next report. StoreUnavailable."""
    entries = list(said.items())
    try:
        for at in range(0, len(entries), _AT_ONCE):
            pipe = store.client.pipeline(transaction=False)
            for task_id, text in entries[at : at + _AT_ONCE]:
                pipe.set(keys.progress(_tag(store, task_id), task_id), text, ex=KEPT_S)
            await pipe.execute()
    except (RedisError, OSError) as error:
        raise translate(error) from error


async def of(store: Store, task_ids: Sequence[bytes]) -> list[bytes | None]:
    """The last report of each task, None where there is none. StoreUnavailable."""
    pipe = store.client.pipeline(transaction=False)
    for task_id in task_ids:
        pipe.get(keys.progress(_tag(store, task_id), task_id))
    try:
        found: list[bytes | None] = await pipe.execute()
    except (RedisError, OSError) as error:
        raise translate(error) from error
    return found


def _tag(store: Store, task_id: bytes) -> str:
    return store.tags[ids.partition(task_id) % store.partitions]
