"""A store as a file and back: nothing is lost, nothing is stored twice, and wrong files are named."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.cli.app import app
from delaybox.core import ids
from delaybox.core.errors import ConfigError, IdempotencyConflict
from delaybox.core.query import TaskQuery
from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, Priority, Submitted, TaskState, TaskType, UniqueWhile
from delaybox.service import Service
from delaybox.service.export_store import Export, ExportProgress, Unfinished, look
from delaybox.service.import_store import ImportStore, StoreImportProgress
from delaybox.store import keys
from delaybox.store.address import ServerSettings
from delaybox.store.fsck import fsck
from delaybox.store.offset_pages import pending
from delaybox.store.servers import Servers
from delaybox.store.store import ClaimLimits, Store, Verdict
from delaybox.wire.exported import LONGEST, Damaged, Header, encode, read_header
from tests.cluster import RealCluster
from tests.engines import Recorder, running, until
from tests.servers import RealServer

HOUR = 3_600_000
LARGE = b"large" * 2_000


async def opened(client: Redis, prefix: str, partitions: int = 4) -> Store:
    return await Store.open(Servers(client), prefix=prefix, partitions=partitions)


async def exported(store: Store, *, begun: bytes = b"") -> tuple[bytes, ExportProgress]:
    out = io.BytesIO(begun)
    found = look(out, "f") if begun else Unfinished()
    out.truncate(found.size)
    out.seek(found.size)
    done = await Export(store, out, found=found).run()
    return out.getvalue(), done


async def imported(store: Store, raw: bytes, **how: Any) -> StoreImportProgress:
    source = io.BytesIO(raw)
    header = read_header(source.readline(LONGEST), "f.ndjson")
    return await ImportStore(store, source, "f.ndjson", header, **how).run()


async def filled(store: Store) -> Service:
    """A store with a bit of everything."""
    service = Service(store)
    await service.rules.set("mail", QueueRules(paused=True))
    tasks = [
        NewTask(payload=b"plain", delay_ms=HOUR, queue="mail", priority=Priority.HIGH),
        NewTask(payload=LARGE, delay_ms=2 * HOUR, idempotency_key="large"),
        NewTask(payload=b"far", delay_ms=1_000 * HOUR, group="g", labels={"a": "b"}),
        NewTask(type=TaskType.WORKER, name="f", payload=b"w", delay_ms=HOUR, unique_while=UniqueWhile.RUNNING,
                idempotency_key="lock", fairness_key="k"),
        *(NewTask(payload=b"%d" % n, delay_ms=HOUR + n, idempotency_key=f"key-{n}" if n % 2 else None)
          for n in range(700)),
    ]  # fmt: skip
    answers = await service.submit_many(tasks)
    assert not [one for one in answers if isinstance(one, BaseException)]
    moved = answers[4]
    assert not isinstance(moved, BaseException)
    await service.reschedule(moved.task_id, due_ms=None, delay_ms=30 * HOUR)
    # One that runs, one that has failed, one that failed once, one that has ended, one that was cancelled.
    work = [
        NewTask(type=TaskType.WORKER, name="f", payload=name.encode(), idempotency_key=name, group="g")
        for name in ("runs", "dead", "again", "done")
    ]
    for task in work:
        await service.submit(task)
    cancelled = await service.submit(NewTask(payload=b"c", delay_ms=HOUR, idempotency_key="cancelled"))
    await service.cancel(cancelled.task_id)
    for p in range(store.partitions):
        lease = (15_000).to_bytes(4, "big") + bytes([p]) * 16
        claimed = await store.claim(p, lease, ClaimLimits(slots=10, types="w"))
        for task_id, raw in zip(claimed.leased[0::2], claimed.leased[1::2], strict=True):
            if b"dead" in raw:
                await store.fail(p, lease, [Verdict(task_id, None, "broken")])
            elif b"again" in raw:
                await store.fail(p, lease, [Verdict(task_id, HOUR, "once more")])
            elif b"done" in raw:
                await store.ack(p, lease, [task_id])
    return service


async def everything(store: Store) -> dict[bytes, Any]:
    """All tasks that wait, by payload, without what an import may change."""
    views = await pending(store, limit=10_000, skip=0)
    return {
        v.payload: (v.due_ms, v.type, v.queue, v.priority, v.name, dict(v.labels), v.group, v.fairness_key, v.attempt)
        for v in views
    }


@pytest.mark.parametrize("partitions", [4, 2])
async def test_all_of_it_comes_back_once(client: Redis, prefix: str, partitions: int) -> None:
    """Into a store of as many partitions ids stay; into more or fewer they change in one place, always the same."""
    store = await opened(client, prefix)
    await filled(store)
    raw, done = await exported(store)
    assert (done.tasks, done.dead, done.keys, done.queues) == (706, 1, 2, 1)
    assert (done.newer, done.bad, done.quarantined) == (0, 0, 0)
    before = await everything(store)

    target = await opened(client, f"{prefix}-b", partitions)
    ids_before: dict[bytes, bytes] = {}
    came = await imported(target, raw, renamed=ids_before.__setitem__)
    assert (came.stored, came.dead, came.keys, came.queues, came.whole) == (707, 1, 2, 1, True)
    assert (came.known, came.ended, came.taken, came.bad, came.reasons) == (0, 0, 0, 0, [])
    assert (await fsck(target)).problems == []
    after = await everything(target)
    assert after.pop(b"runs")[-1] == 0, "one that ran waits, and nothing is charged"
    assert after == before
    assert bool(ids_before) == (partitions != 4)
    assert came.renamed == len(ids_before)
    assert all(old[:6] + old[8:] == new[:6] + new[8:] for old, new in ids_before.items())

    marks = [key async for key in client.scan_iter(match=keys.pattern(f"{prefix}-b") + ":import:*")]
    assert marks and all([0 < await client.ttl(key) <= 30 * 86_400 for key in marks])

    # The same lines store nothing twice, whether all were stored or some.
    again = await imported(target, raw)
    assert (again.stored, again.known, again.queues) == (0, 707, 0)
    other = await opened(client, f"{prefix}-c", partitions)
    lines = raw.splitlines(keepends=True)
    with pytest.raises(Damaged):
        await imported(other, b"".join(lines[:400]) + b"{}\n")
    rest = await imported(other, raw)
    assert rest.stored + rest.known == 707 and rest.stored < 707
    assert await everything(other) == await everything(target)
    assert (await fsck(other)).problems == []

    # Keys find what they found, ended and cancelled ones too.
    copy = Service(target)
    found = await copy.submit(NewTask(payload=LARGE, delay_ms=2 * HOUR, idempotency_key="large"))
    assert not found.created
    with pytest.raises(IdempotencyConflict, match="was cancelled"):
        await copy.submit(NewTask(payload=b"c", delay_ms=HOUR, idempotency_key="cancelled"))
    ended = NewTask(type=TaskType.WORKER, name="f", payload=b"done", idempotency_key="done", group="g")
    assert not (await copy.submit(ended)).created
    (letter,) = (await copy.dead_letters(TaskQuery())).items
    assert (letter.state, letter.reason, letter.payload) == (TaskState.FAILED, "broken", b"dead")
    assert (await copy.rules.of("mail")).own.paused


async def test_an_export_that_ended_early_goes_on(client: Redis, prefix: str) -> None:
    store = await opened(client, prefix)
    await filled(store)
    raw, whole = await exported(store)
    lines = raw.splitlines(keepends=True)
    for cut in (1, 3, 300, 650, len(lines) - 1):
        # Cut in the middle of a line, as a kill does it.
        begun = b"".join(lines[:cut]) + lines[cut][:20]
        again, done = await exported(store, begun=begun)
        assert cut == 1 or again.startswith(lines[0]), "of a header alone nothing can be gone on from"
        assert (done.tasks, done.dead, done.keys, done.queues) == (
            whole.tasks, whole.dead, whole.keys, whole.queues,
        )  # fmt: skip
        tasks = re.findall(rb'"task":"([^"]+)"', again)
        assert len(tasks) == len(set(tasks)) == whole.tasks
    found = look(io.BytesIO(raw), "f")
    assert found.whole


async def test_what_is_wrong_with_a_file_is_said(client: Redis, prefix: str) -> None:
    store = await opened(client, prefix)
    service = Service(store)
    await service.submit_many([NewTask(payload=b"%d" % n, delay_ms=HOUR) for n in range(5)])
    raw, _ = await exported(store)
    lines = raw.splitlines(keepends=True)
    for wrong, words in (
        (b"", "line 1: this is no export of a store"),
        (b'{"payload":"x"}\n', "line 1: this is no export of a store; name a file that `delaybox export` wrote"),
        (lines[0].replace(b'"partitions":4', b'"partitions":8'), "line 1: it is damaged"),
    ):
        with pytest.raises(Damaged, match=words):
            await imported(store, wrong)
    flipped = lines[4].replace(b'"value":"', b'"value":"A', 1)
    target = await opened(client, f"{prefix}-b")
    with pytest.raises(Damaged, match=r"f.ndjson, line 5: it is damaged .*give --skip-damaged"):
        await imported(target, b"".join([*lines[:4], flipped, *lines[5:]]))
    came = await imported(target, b"".join([*lines[:4], flipped, *lines[5:]]), skip_damaged=True)
    assert (came.stored + came.known, came.damaged, came.whole) == (4, 1, True)
    assert came.reasons == ["f.ndjson, line 5: it is damaged (its checksum is another, or it is cut off)"]
    cut = await imported(await opened(client, f"{prefix}-c"), b"".join(lines[:-1]))
    assert (cut.stored, cut.whole) == (5, False)
    newer = json.loads(lines[0][:1] + lines[0][len(b'{"crc":"00000000",') :])
    with pytest.raises(Damaged, match=r"format 2, written by DelayBox .*use that version or a later one"):
        await imported(target, encode(Header(**{**newer, "delaybox_export": 2})))


async def test_a_key_that_is_taken_and_times_that_have_passed(client: Redis, prefix: str) -> None:
    store = await opened(client, prefix)
    service = Service(store)
    now = await store.ping()
    await service.submit(NewTask(payload=b"mine", delay_ms=HOUR, idempotency_key="k"))
    past = [NewTask(type=TaskType.WORKER, name="f", payload=b"past", due_ms=now - n) for n in range(3)]
    await service.submit_many(past)
    raw, _ = await exported(store)
    target = await opened(client, f"{prefix}-b")
    await Service(target).submit(NewTask(payload=b"other", delay_ms=HOUR, idempotency_key="k"))
    came = await imported(target, raw, skip_past=True)
    assert (came.stored, came.taken, came.past) == (0, 1, 3)
    assert "its idempotency key belongs to another task here" in came.reasons[0]
    # By default what is overdue goes out at once, also in a store at work; and once, however often it is imported.
    busy = await opened(client, f"{prefix}-c")
    target_ = Recorder()
    async with running(busy, {TaskType.WORKER: target_}):
        came = await imported(busy, raw)
        assert (came.stored, came.overdue) == (4, 3)

        async def fired() -> bool:
            return len(target_.got) >= 3

        await until(fired)
        again = await imported(busy, raw)
        assert (again.stored, again.known) == (0, 4)
    assert len(target_.got) == 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealCluster]:
    found = RealCluster()
    found.start()
    yield found
    found.close()


def followed(page: str, **places: str) -> list[list[str]]:
    """The commands of a how-to, in order, with its servers replaced."""
    text = (Path(__file__).parents[2] / "docs" / "howto" / page).read_text()
    lines = "".join(re.findall(r"^```shell\n(.*?)^```", text, re.DOTALL | re.MULTILINE)).splitlines()
    for name, url in places.items():
        lines = [line.replace(f"redis://{name}:6379", url) for line in lines]
    return [shlex.split(line)[1:] for line in lines if line.startswith("delaybox ")]


def ran(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        code = app(words, standalone_mode=False)
    except SystemExit as end:
        code = end.code
    shown = capsys.readouterr()
    assert not code, (words, shown)
    return shown.out


def test_the_how_to_of_backups(
    make_server: Callable[..., RealServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old, new = make_server(), make_server()
    monkeypatch.chdir(tmp_path)
    asyncio.run(_fill(old.url))
    answers = []
    for words in followed("backup-and-restore.md", old=old.url, new=new.url):
        if "--resume" in words:
            whole = Path("tasks.ndjson").read_bytes()
            Path("tasks.ndjson").write_bytes(whole[:-90])
        answers.append(ran(words, capsys))
    assert Path("tasks.ndjson").read_bytes() == whole
    assert Path("tasks.ndjson").stat().st_mode & 0o077 == 0
    assert "707 tasks in tasks.ndjson: 707 stored" in answers[2]
    assert "clean: every invariant holds" in answers[3]
    assert "707 tasks in tasks.ndjson: 0 stored, 706 were here already" in answers[4]
    # What cannot be done is said.
    for words, error in (
        (["export", "tasks.ndjson"], "tasks.ndjson is there already; --resume goes on with it"),
        (["export", "tasks.ndjson", "--resume"], "holds a whole export already"),
        (["export", "none", "--resume"], "none is not there, so there is nothing to go on with"),
        (["export", "none/tasks"], "none/tasks: No such file or directory; name a file, in a folder that is there"),
        (["export", ".", "--resume"], r"\.: Is a directory; name a file"),
        (["import", "none"], "none is not there; name a file that `delaybox export` wrote"),
        (["import", "."], r"\.: Is a directory; name a file that `delaybox export` wrote"),
        (["import", "tasks.ndjson", "--ids", "none/ids"], "none/ids: No such file or directory; name a file, in a"),
    ):
        with pytest.raises(ConfigError, match=error):
            app([*words, "--redis", old.url], standalone_mode=False)


async def _fill(url: str) -> None:
    servers = Servers.connect(ServerSettings.from_url(url))
    store = await Store.open(servers, prefix="delaybox")
    await filled(store)
    await store.close()


def test_the_how_to_of_moving_to_a_cluster(
    make_server: Callable[..., RealServer],
    cluster: RealCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = make_server()
    monkeypatch.chdir(tmp_path)
    asyncio.run(_fill(old.url))
    answers = [ran(words, capsys) for words in followed("move-to-a-cluster.md", old=old.url, new=cluster.url)]
    assert "707 tasks in tasks.ndjson: 707 stored" in answers[4]
    assert "clean: every invariant holds" in answers[5]
    renamed = [line.split() for line in Path("ids.txt").read_text().splitlines()]
    assert len(renamed) > 200
    assert len({ids.partition(ids.parse(new)) for _, new in renamed}) > 32
    asyncio.run(_moved(cluster, renamed))


async def _moved(cluster: RealCluster, renamed: list[list[str]]) -> None:
    store = await Store.open(Servers.connect(cluster.settings), prefix="delaybox")
    assert store.partitions == 64
    service = Service(store)
    for _, new in renamed[:20]:
        assert (await service.get(new)).task_id == new
    found = await service.submit(NewTask(payload=LARGE, delay_ms=2 * HOUR, idempotency_key="large"))
    assert not found.created
    await store.close()


async def test_nothing_that_waits_is_missing_beside_nodes_at_work(client: Redis, prefix: str) -> None:
    """What waits the whole time is in the export, once, while tasks are scheduled, fired, cancelled and moved."""
    store = await opened(client, prefix)
    service = Service(store)
    still = await service.submit_many([NewTask(payload=b"%d" % n, delay_ms=HOUR + n * 997) for n in range(3_000)])
    waiting = {one.task_id for one in still if isinstance(one, Submitted)}
    stop = asyncio.Event()

    async def busy() -> None:
        while not stop.is_set():
            new = await service.submit_many(
                [NewTask(type=TaskType.WORKER, name="f", payload=b"b", delay_ms=n % 50) for n in range(100)]
                + [NewTask(payload=b"x", delay_ms=HOUR) for _ in range(50)]
            )
            for one in new[-20:]:
                assert isinstance(one, Submitted)
                await service.cancel(one.task_id)
            await asyncio.sleep(0)

    async with running(store, {TaskType.WORKER: Recorder()}):
        work = asyncio.create_task(busy())
        for _ in range(3):
            raw, _ = await exported(store)
            listed = [one.decode() for one in re.findall(rb'"task":"([^"]+)"', raw)]
            assert waiting <= set(listed)
            assert len(listed) == len(set(listed))
        stop.set()
        await work
    assert (await fsck(store)).problems == []
