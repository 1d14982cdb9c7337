"""import-legacy on a real server: everything is taken over once, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.errors import StoreRefused
from delaybox.core.retry import DEFAULT_RETRY, NO_RETRY
from delaybox.core.task import TaskType
from delaybox.service import Service
from delaybox.service.import_original import Import, ImportProgress
from delaybox.store import keys
from delaybox.store.connect import make_client
from delaybox.store.fsck import fsck
from delaybox.store.offset_pages import pending
from delaybox.store.original import OriginalSet
from delaybox.store.record import read
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.wire import body as wire_body
from delaybox.wire.gen import task_pb2
from tests.faults.harness import failpoints
from tests.servers import RealServer

DUE = 4_000_000_000_000


def member(payload: bytes, *, name: str | None = None, **header: bytes) -> bytes:
    """A task as the original serialized it."""
    header = {"executionTimestamp": str(DUE).encode(), **header}
    return task_pb2.Task(taskUuid=name or str(uuid.uuid4()), header=header, payload=payload).SerializeToString()


async def leave_behind(client: Any, key: str, members: Sequence[tuple[bytes, float]]) -> None:
    for at in range(0, len(members), 500):
        flat = [part for raw, score in members[at : at + 500] for part in (score, raw)]
        await client.execute_command("ZADD", key, *flat)


async def payloads(store: Store) -> list[bytes]:
    """Of everything pending, sorted."""
    found = await pending(store, limit=100_000, skip=0)
    return sorted(view.payload for view in found)


@pytest.fixture
async def store(client: Redis, prefix: str) -> Store:
    return await Store.open(Servers(client), prefix=prefix)


async def test_times_headers_and_payloads_come_over_and_the_set_is_emptied(
    client: Redis, prefix: str, store: Store
) -> None:
    key = f"{prefix}-old"
    large = os.urandom(100_000)
    raw = b"\xff\x00 not text"
    members = [(member(b"far", extra=raw), DUE), (member(b"now"), 0), (member(large), DUE + 7), (member(b""), DUE + 9)]
    await leave_behind(client, key, members)
    reports: list[int] = []
    done = await Import(OriginalSet(Servers(client), key), store).run(lambda p: reports.append(p.seen))
    assert (done.seen, done.created, done.left, done.total) == (4, 4, 0, 4) and reports[-1] == 4
    assert not await client.exists(key)
    views = {view.payload: view for view in await pending(store, limit=10, skip=0)}
    assert {p: v.due_ms for p, v in views.items() if p != b"now"} == {b"far": DUE, large: DUE + 7, b"": DUE + 9}
    assert views[b"now"].due_ms < DUE
    assert views[b"far"].header == {"executionTimestamp": str(DUE).encode(), "extra": raw}
    assert (await fsck(store)).problems == []


async def test_commands_stay_commands_that_are_not_retried(client: Redis, prefix: str, store: Store) -> None:
    key = f"{prefix}-old"
    await leave_behind(
        client, key, [(member(b"date", taskType=b"SHELL_CMD"), DUE), (member(b"x", taskType=b"MAIL"), DUE)]
    )
    done = await Import(OriginalSet(Servers(client), key), store).run()
    assert done.shell == 1
    views = {view.payload: view for view in await pending(store, limit=10, skip=0)}
    assert views[b"date"].type is TaskType.SHELL_CMD and views[b"x"].type is TaskType.PUB_SUB
    for payload, policy in ((b"date", NO_RETRY), (b"x", DEFAULT_RETRY)):
        task_id = ids.parse(views[payload].task_id)
        record = read(task_id, (await store.get(task_id)).value)
        assert wire_body.retry_of(wire_body.decode(record.body), DEFAULT_RETRY) == policy


async def test_what_is_no_task_stays_and_is_reported_without_its_contents(
    client: Redis, prefix: str, store: Store
) -> None:
    key = f"{prefix}-old"
    bad = [b"\xff\xffsecret", b"secret", task_pb2.Task(payload=b"secret").SerializeToString()]
    members = [(raw, float(n)) for n, raw in enumerate(bad)] + [(member(b"%d" % n), DUE + n) for n in range(300)]
    await leave_behind(client, key, [*members, (member(b"never"), 1e17)])
    for run in range(2):
        done = await Import(OriginalSet(Servers(client), key), store).run()
        assert (done.left, done.created) == (4, 0 if run else 300)
        assert len(done.reasons) == 4 and "secret" not in str(done.reasons)
    assert set(bad) <= set(await client.zrange(key, 0, -1)) and await client.zcard(key) == 4


async def test_one_uuid_with_two_meanings_is_not_lost(client: Redis, prefix: str, store: Store) -> None:
    key = f"{prefix}-old"
    await leave_behind(client, key, [(member(b"a", name="same"), DUE), (member(b"b", name="same"), DUE)])
    done = await Import(OriginalSet(Servers(client), key), store).run()
    assert (done.created, done.left) == (1, 1)
    assert "same" in done.reasons[0]
    assert await payloads(store) == [b"a"] and await client.zcard(key) == 1


async def test_a_dry_run_changes_nothing(client: Redis, prefix: str, store: Store) -> None:
    key = f"{prefix}-old"
    copies = [(member(b"copy"), DUE) for _ in range(3)]
    await leave_behind(client, key, [*copies, *((member(b"%d" % n), DUE + 1) for n in range(200))])
    done = await Import(OriginalSet(Servers(client), key), store, fold=True, dry=True).run()
    assert (done.seen, done.created, done.folded, done.left) == (203, 201, 2, 0)
    assert await client.zcard(key) == 203 and await payloads(store) == []


async def test_copies_are_folded_only_when_asked_and_remembered(client: Redis, prefix: str, store: Store) -> None:
    key = f"{prefix}-old"
    names = [str(uuid.uuid4()) for _ in range(3)]
    copies = [(member(b"copy", name=name), DUE) for name in names]
    other = [(member(b"copy"), DUE + 1), (member(b"copy", extra=b"1"), DUE), (member(b"copy", extra=b"1"), DUE)]
    await leave_behind(client, key, [*copies, *other])
    done = await Import(OriginalSet(Servers(client), key), store, fold=True).run()
    assert (done.created, done.folded, done.left) == (3, 3, 0)
    assert await payloads(store) == [b"copy"] * 3 and not await client.exists(key)
    found: Any = await client.hgetall(keys.folded(prefix))
    folded = {name.decode(): task_id.decode() for name, task_id in found.items()}
    assert len(folded) == 3 and len(set(names) & set(folded)) == 2
    for task_id in folded.values():
        assert (await Service(store).get(task_id)).payload == b"copy"
    assert 0 < await client.ttl(keys.folded(prefix)) <= 30 * 86_400
    # A copy that turns up later is folded into the same task.
    await leave_behind(client, key, copies)
    again = await Import(OriginalSet(Servers(client), key), store, fold=True).run()
    assert again.created == 0 and len(await payloads(store)) == 3
    await leave_behind(client, key, copies)
    assert (await Import(OriginalSet(Servers(client), key), store).run()).created == 3


async def test_a_key_of_another_kind_is_refused_and_none_is_nothing(client: Redis, prefix: str, store: Store) -> None:
    await client.set(f"{prefix}-old", "x")
    with pytest.raises(StoreRefused, match="is a string"):
        await Import(OriginalSet(Servers(client), f"{prefix}-old"), store).run()
    assert await Import(OriginalSet(Servers(client), f"{prefix}-none"), store).run() == ImportProgress()


async def command(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "delaybox", "import-legacy", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **(env or {})},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("where", ["after_import_store", "after_import_remove"])
async def test_killed_in_the_middle_and_run_again(
    server: RealServer, client: Redis, prefix: str, store: Store, where: str
) -> None:
    key = f"{prefix}-old"
    count = 2_000
    await leave_behind(client, key, [(member(b"%06d" % n), DUE + n) for n in range(count)])
    arguments = ["--redis", server.url, "--key", key, "--set", f"storage.prefix={prefix}", "--json"]
    for nth in (1, 2):
        code, _, _ = await command(*arguments, env=failpoints.environ(f"{where}=kill#{nth}"))
        assert code == -signal.SIGKILL
    left = await client.zcard(key)
    assert 0 < left < count
    code, out, err = await command(*arguments)
    assert code == 0, err
    report = json.loads(out)
    assert report["seen"] == left and report["left"] == 0
    assert (report["known"] > 0) == (where == "after_import_store")
    assert await payloads(store) == [b"%06d" % n for n in range(count)]
    assert not await client.exists(key) and (await fsck(store)).problems == []


async def test_durability_holds_before_a_member_is_deleted(server: RealServer, client: Redis, prefix: str) -> None:
    key = f"{prefix}-old"
    await leave_behind(client, key, [(member(b"a"), DUE)])
    strict = ("--set", f"storage.prefix={prefix}", "--set", "durability.mode=strict")
    code, _, err = await command("--redis", server.url, "--key", key, *strict)
    assert code and "has no replicas, and durability.replicas asks for 1" in err
    assert await client.zcard(key) == 1
    code, out, _ = await command("--redis", server.url, "--key", key, *strict, "--dry-run")
    assert code == 0 and "1 would be imported" in out


async def test_from_another_server(make_server: Any, server: RealServer, prefix: str, store: Store) -> None:
    old = make_server("--requirepass", "s3cret")
    source: Any = make_client(type(server.settings)(unix_path=old.unix_path, password="s3cret"))
    await leave_behind(source, "scheduled_tasks", [(member(b"a"), DUE), (b"\xff\xffjunk", DUE)])
    url = f"unix://:s3cret@{old.unix_path}"
    code, out, err = await command("--redis", server.url, "--from", url, "--set", f"storage.prefix={prefix}")
    assert code == 1 and "2 tasks in scheduled_tasks: 1 imported, 1 left" in out
    assert "s3cret" not in out + err and "junk" not in out + err
    assert await payloads(store) == [b"a"] and await source.zcard("scheduled_tasks") == 1
    await source.aclose()
