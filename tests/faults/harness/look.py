"""The last look at a store: what lies where, read with plain commands rather than the store's own code.

A payload of the harness starts with ``{"k":"<key>"``, so a record can be matched with its producer by its bytes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import redis

from tests.faults.harness.checker import Final

_KEY = re.compile(rb'\{"k":"([^"]*)"')


def payload(key: str, **more: object) -> bytes:
    """What the harness puts into a task: its key and what the handler is to do (``w`` ms of work, ``f`` failures)."""
    return json.dumps({"k": key, **more}, separators=(",", ":")).encode()


def key_of(raw: bytes) -> str:
    """The key in a record or message; "" when it is none of the harness's."""
    found = _KEY.search(raw)
    return found[1].decode() if found else ""


def instructions(raw: bytes) -> dict[str, Any]:
    """The payload in a protobuf task: what a handler is to do; empty when it is none of the harness's."""
    at = raw.find(b'{"k":"')
    if at < 0:
        return {}
    found: dict[str, Any] = json.JSONDecoder().raw_decode(raw[at:].decode("utf-8", "replace"))[0]
    return found


def uuid_of(message: bytes) -> str:
    """The taskUuid (field 1) of a published task; "" when there is none."""
    return message[2:38].decode() if message[:2] == b"\x0a\x24" else ""


def merged(parts: Sequence[Final], fsck: Iterable[str] = ()) -> Final:
    """The looks at the servers of a cluster as one."""
    live = {task_id: key for part in parts for task_id, key in part.live.items()}
    dead = {task_id: key for part in parts for task_id, key in part.dead.items()}
    return Final(live=live, dead=dead, fsck=[*fsck, *(trouble for part in parts for trouble in part.fsck)])


def look(client: redis.Redis, *, prefix: str, fsck: Iterable[str] = ()) -> Final:
    """Every record of the store at ``prefix`` by place. A task found in two places is a structural fault (I6)."""
    places: dict[bytes, list[str]] = defaultdict(list)
    keys: dict[bytes, str] = {}
    trouble = list(fsck)
    for name in client.scan_iter(match=f"{{{prefix}:*", count=1000):
        _, _, rest = name.partition(b"}:")
        kind = rest.split(b":", 1)[0].decode()
        if kind not in ("b", "lease", "dead", "quarantine") or rest in (b"dead:at", b"quarantine:at"):
            continue
        for task_id, raw in client.hscan_iter(name, count=5000):
            places[task_id].append(kind)
            keys[task_id] = key_of(raw)
            if not keys[task_id]:
                apart = client.get(name.partition(b"}:")[0] + b"}:body:" + task_id)
                keys[task_id] = key_of(apart) if isinstance(apart, bytes) else ""
            if kind == "quarantine":
                trouble.append(f"{UUID(bytes=task_id)} is in quarantine")
    trouble += [f"{UUID(bytes=t)} lies in {' and '.join(where)}" for t, where in places.items() if len(where) > 1]
    live = {str(UUID(bytes=t)): keys[t] for t, where in places.items() if where[0] != "dead"}
    dead = {str(UUID(bytes=t)): keys[t] for t, where in places.items() if where[0] == "dead"}
    return Final(live=live, dead=dead, fsck=trouble)
