"""Lua reads and writes the same records as Python: lib/record.lua beside store/record.py."""

from __future__ import annotations

import random
import struct
from importlib import resources
from typing import Any

from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.limits import MAX_DUE_MS
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.store.record import UnreadableRecord, draft, extension_entries, extension_of, read
from delaybox.wire import body as wire_body

LIB = resources.files("delaybox.store.scripts") / "lib"
HEAD = """
local id, rec = ARGV[1], ARGV[2]
local kind, flags, due, at = rec_head(id, rec)
if kind ~= 'ok' then return { kind } end
local attempt, losses, deliveries = rec_counters(rec)
local key = is_keyed(flags) and rec_key(rec, at) or ''
return { kind, flags, due, rec_lane(rec, at), attempt, losses, deliveries, key, is_stub(flags) and 1 or 0,
  string.sub(rec, body_at(rec, at, flags)) }
"""
EXTEND = """
local id, rec = ARGV[1], ARGV[2]
local _, flags, _, at = rec_head(id, rec)
return ext_set(rec, at, flags, tonumber(ARGV[3]), ARGV[4] == '=' and ARGV[5] or nil)
"""
BUILD = """
local id, rec = ARGV[1], ARGV[2]
local _, flags, due, at = rec_head(id, rec)
return rec_build(rec, at, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]))
"""


async def lua(client: Redis, source: str, *args: Any) -> Any:
    body = (LIB / "record.lua").read_text() + (LIB / "extension.lua").read_text() + source
    reply: Any = client.eval(body, 0, *args)
    return await reply


def random_task(rng: random.Random) -> NewTask:
    return NewTask(
        payload=rng.randbytes(rng.choice([0, 5, 300, 3_000])),
        type=rng.choice(list(TaskType)),
        queue=rng.choice(["default", "q", "x" * 64]),
        priority=rng.choice(list(Priority)),
        idempotency_key=rng.choice([None, "k", "\u00e9" * 128]),
        name=rng.choice(["", "n"]),
    )


async def test_lua_reads_what_python_writes_and_the_other_way_round(client: Redis) -> None:
    rng = random.Random(7)
    for _ in range(200):
        task, due = random_task(rng), rng.choice([0, 1, 2**32 - 1, 2**32, 1_800_000_000_123, MAX_DUE_MS])
        task_id = due.to_bytes(6, "big") + ids.tails(rng.randrange(4096), rng.randbytes(8))[0]
        raw = draft(task).record
        for _ in range(2):
            r = read(task_id, raw)
            assert await lua(client, HEAD, task_id, raw) == [
                b"ok", raw[1], r.due_ms, r.lane, r.attempt, r.lost, r.deliveries, r.key or b"", int(r.stub), r.body,
            ]  # fmt: skip
            # The same record with other counters: everything behind them stays byte for byte.
            want = (rng.randrange(2**16), rng.randrange(256), rng.randrange(2**32), rng.choice([0, 2**32, 2**47 - 1]))
            flags = raw[1] & ~3 | rng.randrange(4)
            raw = await lua(client, BUILD, task_id, raw, flags, *want)
            again = read(task_id, raw)
            assert (again.attempt, again.lost, again.deliveries, again.due_ms) == want
            assert (again.priority, again.lane, again.key, again.stub, again.body) == (
                flags & 3, r.lane, r.key, r.stub, r.body,
            )  # fmt: skip


async def test_they_agree_on_extensions(client: Redis) -> None:
    rng = random.Random(9)
    for _ in range(60):
        task_id = rng.randbytes(16)
        new = draft(random_task(rng))
        raw = new.record
        want: dict[int, bytes] = {}
        for _ in range(6):
            tag, value = rng.randint(1, 3), rng.choice([None, b"", rng.randbytes(6), rng.randbytes(300)])
            if value is None:
                want.pop(tag, None)
            else:
                want[tag] = value
            raw = await lua(client, EXTEND, task_id, raw, tag, "" if value is None else "=", value or b"")
            r = read(task_id, raw)
            assert (
                extension_entries(r.extension) == want and extension_of(extension_entries(r.extension)) == r.extension
            )
            assert (await lua(client, HEAD, task_id, raw))[9] == r.body == read(task_id, new.record).body
            assert raw != new.record or not want
        for tag in list(want):
            raw = await lua(client, EXTEND, task_id, raw, tag, "", b"")
        assert raw == new.record


async def test_they_agree_on_what_is_no_record(client: Redis) -> None:
    rng = random.Random(8)
    task_id = ids.tails(0, bytes(8))[0].rjust(16, b"\x01")
    for _ in range(500):
        raw = bytes([rng.choice([0, 0x0F, 0x10, 0x11, 0x12, 0x1F, 0x20, 0x21, 0x22, 0x30, 0xFF])]) + rng.randbytes(
            rng.randrange(24)
        )
        kind = (await lua(client, HEAD, task_id, raw))[0]
        try:
            read(task_id, raw)
            readable = True
        except UnreadableRecord:
            readable = False
        assert readable == (kind == b"ok"), (raw, kind)
        assert (kind == b"newer") == (raw[0] >= 0x30)


async def test_lua_reads_the_due_time_of_an_id(client: Redis) -> None:
    for due in (0, 1, 2**32, 1_800_000_000_123, MAX_DUE_MS, 2**48 - 1):
        task_id = due.to_bytes(6, "big") + bytes(10)
        text = await lua(client, "return string.format('%.0f', id_due(ARGV[1]))", task_id)
        assert int(text) == due == struct.unpack(">Q", b"\0\0" + task_id[:6])[0]


async def test_a_body_survives_in_either_place(client: Redis) -> None:
    task = NewTask(payload=b"p", header={"h": b"v"})
    raw = draft(task).record
    reply = await lua(client, HEAD, bytes(16), raw)
    assert wire_body.decode(reply[9]).payload == b"p"
