"""The operator's trial: what docs/production.md says, done on real processes. A bad day comes, its alert
is there by what the node shows, the day's page is followed, and the node works again. And a backup is restored.

Rolling restarts behind TLS stand in test_behind_nginx.py, upgrades under load in test_t32_upgrade.py.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.alerts import Alerts, needs_promtool, scraped
from tests.faults.harness.previous import unpacked, why_not
from tests.faults.harness.scale import FULL, scaled
from tests.nodes import Node
from tests.ports import free_port
from tests.servers import RealServer
from tests.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(300, 1_800))]

in_full = pytest.mark.skipif(not FULL, reason="in `make test-faults`")
SHOP = """
from delaybox import Worker
from delaybox.worker import Reject
worker = Worker("shop")

@worker.task
async def bill() -> str:
    {body}
"""

SAFE = ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]


class Site:
    """One store, and one node on it."""

    def __init__(self, server: RealServer, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self.server = server
        self.folder = folder
        self.node = self.another(environ)

    def another(self, environ: Mapping[str, str] | None = None) -> Node:
        """One more node on the same server."""
        return Node("--redis", self.server.url, "--http-port", "0", folder=self.folder, environ=environ).ready()

    def admin(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=self.server.unix_path)

    def post(self, payload: str = "x", **fields: Any) -> int:
        return self.node.call("POST", "/v1/tasks", {"delay": "1h", "payload": payload, **fields})[0]

    def works(self) -> None:
        """Returns when the node is ready and takes a task."""
        self.node.until(lambda: self.node.call("GET", "/readyz")[0] == 200)
        self.node.until(lambda: self.post() == 201)

    def run(self, *command: str) -> str:
        """What a command of delaybox writes; it must end well."""
        done = subprocess.run(
            [sys.executable, "-m", "delaybox", *command], capture_output=True, text=True, timeout=60, cwd=self.folder
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    server = RealServer(SAFE)
    server.start()
    made = Site(server, tmp_path_factory.mktemp("site"))
    yield made
    assert made.node.stop() == 0
    server.close()


@pytest.fixture
def alerts(site: Site, tmp_path: Path) -> Alerts:
    site.works()
    return Alerts(tmp_path, lambda: scraped(f"127.0.0.1:{site.node.port}"))


@needs_promtool
def test_redis_dies(site: Site, alerts: Alerts) -> None:
    assert not alerts.holds("DelayBoxStoreAway")
    site.server.kill()
    alerts.until("DelayBoxStoreAway")
    assert site.node.call("GET", "/readyz")[0] == 503
    assert site.post() == 503
    # The page: nodes go on by themselves when it is back.
    site.server.start()
    site.works()
    alerts.until_gone("DelayBoxStoreAway")


@needs_promtool
def test_the_disk_is_full(site: Site, alerts: Alerts) -> None:
    """The server's writes fail as on a full disk: its files may not grow any more."""
    assert not alerts.holds("DelayBoxStoreAway")
    before = resource.prlimit(site.server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(site.server.pid, resource.RLIMIT_FSIZE, (64, before[1]))
    site.node.until(lambda: site.post() == 503)
    alerts.until("DelayBoxStoreAway")
    status, _, reason = site.node.call("GET", "/readyz")
    assert status == 503
    assert b"disk" in reason, reason
    # The page: make room, and it goes on.
    resource.prlimit(site.server.pid, resource.RLIMIT_FSIZE, before)
    site.works()
    alerts.until_gone("DelayBoxStoreAway")


@needs_promtool
def test_the_memory_is_full(site: Site, alerts: Alerts) -> None:
    with site.admin() as admin:
        admin.config_set("maxmemory", "1mb")
        site.node.until(lambda: site.post() == 503)
        alerts.until("DelayBoxStoreAway")
        # The page: raise it.
        admin.config_set("maxmemory", "8gb")
    site.works()
    alerts.until_gone("DelayBoxStoreAway")


@in_full
@needs_promtool
def test_memory_gets_short(site: Site, alerts: Alerts) -> None:
    """It is said before anything is refused."""
    assert not alerts.holds("DelayBoxMemoryShort")
    with site.admin() as admin:
        admin.config_set("maxmemory", int(1.12 * admin.info("memory")["used_memory"]))
        alerts.until("DelayBoxMemoryShort")
        assert site.post() == 201
        # The page: raise it.
        admin.config_set("maxmemory", "8gb")
    alerts.until_gone("DelayBoxMemoryShort")


@needs_promtool
def test_the_store_is_emptied(site: Site, alerts: Alerts) -> None:
    assert not alerts.holds("DelayBoxStoreLost")
    with site.admin() as admin:
        admin.flushall()
    alerts.until("DelayBoxStoreLost")
    status, _, answer = site.node.call("POST", "/v1/tasks", {"payload": "x"})
    assert (status, answer["code"]) == (503, "store_lost")
    # The page: say that the empty one is meant.
    assert "was made, empty" in site.run("store", "accept", "--redis", site.server.url)
    site.works()
    alerts.until_gone("DelayBoxStoreLost")


@in_full
@needs_promtool
def test_a_node_is_gone(site: Site, alerts: Alerts) -> None:
    port = site.node.port
    site.node.process.kill()
    site.node.process.wait()
    alerts.until("DelayBoxNodesDown")
    site.node = Node("--redis", site.server.url, "--http-port", str(port), folder=site.folder).ready()
    alerts.until_gone("DelayBoxNodesDown")
    site.works()


@in_full
@needs_promtool
def test_a_poison_task(site: Site, alerts: Alerts) -> None:
    """What fails for good is found with its reason, and done when its cause is mended and it is replayed."""
    app = site.folder / "shop.py"
    command = [sys.executable, "-m", "delaybox.worker", "shop", "--redis", site.server.url, "--no-clock"]
    app.write_text(SHOP.format(body="raise Reject('no such order')"))
    with ended(subprocess.Popen(command, cwd=site.folder, stderr=subprocess.DEVNULL)):
        status, _, made = site.node.call("POST", "/v1/tasks", {"type": "worker", "name": "bill", "keep_result": "1h"})
        assert status == 201, made
        alerts.until("DelayBoxDeadLetters")
    where = ("--server", f"http://127.0.0.1:{site.node.port}")
    assert "no such order" in site.run("dead", "list", *where)
    # The page: mend the code, put it back.
    app.write_text(SHOP.format(body="return 'paid'"))
    with ended(subprocess.Popen(command, cwd=site.folder, stderr=subprocess.DEVNULL)):
        site.run("dead", "replay", made["id"], *where)
        site.node.until(lambda: site.node.call("GET", f"/v1/tasks/{made['id']}")[2].get("state") == "succeeded")


@in_full
@needs_promtool
def test_a_host_does_not_answer(site: Site, tmp_path: Path) -> None:
    node = site.another({"DELAYBOX_WEBHOOKS_ENABLED": "true", "DELAYBOX_WEBHOOKS_ALLOW": "127.0.0.1"})
    address = f"127.0.0.1:{node.port}"
    try:
        # Nobody listens there.
        port = free_port()
        url = f"http://127.0.0.1:{port}/hook"
        posted = [node.call("POST", "/v1/tasks", {"type": "http", "url": url, "queue": "hooks"})[0] for _ in range(20)]
        assert posted == [201] * 20
        until(lambda: 'answer="no_answer"' in scraped(address), lambda: scraped(address))
        alerts = Alerts(tmp_path, lambda: scraped(address))
        alerts.until("DelayBoxHostAway")
        # The page: see which, and cancel its tasks where it has gone for good.
        where = ("--server", f"http://{address}")
        assert f"127.0.0.1:{port}" in site.run("webhook", "hosts", *where)
        assert "cancelled" in site.run("cancel", "--queue", "hooks", *where)
    finally:
        assert node.stop() == 0


@in_full
def test_a_backup_is_restored(tmp_path: Path) -> None:
    """What was scheduled when it was made is there; what came due since fires once more."""
    server = RealServer(SAFE)
    server.start()
    try:
        site = Site(server, tmp_path)
        assert [site.post(f"kept {n}", labels={"when": "before"}) for n in range(20)] == [201] * 20
        with site.admin() as admin:
            admin.bgsave()
            until(lambda: not admin.info("persistence")["rdb_bgsave_in_progress"])
            assert admin.info("persistence")["rdb_last_bgsave_status"] == "ok"
        backup = tmp_path / "dump.rdb"
        shutil.copy(server.folder / "dump.rdb", backup)
        assert site.post("gone", labels={"when": "after"}) == 201
        # The page: stop nodes and server, put the file back, start the server from it, start the nodes.
        assert site.node.stop() == 0
        server.kill()
        shutil.rmtree(server.folder / "appendonlydir")
        shutil.copy(backup, server.folder / "dump.rdb")
        restored = RealServer(["--maxmemory-policy", "noeviction", "--appendonly", "no"])
        restored.folder.rmdir()
        restored.folder, restored.unix_path, restored.log = server.folder, server.unix_path, server.log
        restored.start()
        try:
            with site.admin() as admin:
                admin.config_set("appendonly", "yes")
                until(lambda: not admin.info("persistence")["aof_rewrite_in_progress"])
                assert (server.folder / "appendonlydir").is_dir()
            again = Site(restored, tmp_path)
            for when, count in (("before", 20), ("after", 0)):
                found = again.node.call("GET", f"/v1/tasks?label=when={when}&limit=100")[2]
                assert len(found["tasks"]) == count, found
            again.works()
            again.run("fsck", "--redis", restored.url)
            assert again.node.stop() == 0
        finally:
            restored.kill()
    finally:
        server.close()


@pytest.mark.skipif(bool(why_not("0.1.0")), reason=why_not("0.1.0"))
def test_an_upgrade_and_the_way_back(tmp_path: Path) -> None:
    """docs/upgrading.md: a node of the new version beside the old one, then the old one away; and back."""
    server = RealServer(SAFE)
    server.start()
    old = unpacked("0.1.0", tmp_path)
    nodes: list[Node] = []
    try:
        site = Site(server, tmp_path, old.environ)
        nodes.append(site.node)
        assert [site.post(labels={"by": "old"}) for _ in range(20)] == [201] * 20
        assert site.post(delay="1s", labels={"by": "due"}) == 201

        def pending(node: Node, by: str) -> list[str]:
            return [task["id"] for task in node.call("GET", f"/v1/tasks?label=by={by}&limit=100")[2]["tasks"]]

        upgrade, back = (None, "new", "old"), (old.environ, "old", "new")
        for environ, by, other in [upgrade, *([back, upgrade] if FULL else [])]:
            nodes.append(site.another(environ))
            assert site.post(labels={"by": other}) == 201, "the node before goes on beside it"
            before = pending(site.node, other)
            assert site.node.stop() == 0, site.node.output()
            site.node = nodes[-1]
            # What was due while nodes changed has fired; what the other version stored is listed, moved, cancelled.
            site.node.until(lambda: not pending(site.node, "due"))
            assert [site.post(labels={"by": by}) for _ in range(10)] == [201] * 10
            first, second, *rest = sorted(set(before) & set(pending(site.node, other)))
            assert len(rest) >= 5
            assert site.node.call("PATCH", f"/v1/tasks/{first}", {"delay": "2h"})[0] == 200
            assert site.node.call("DELETE", f"/v1/tasks/{second}")[0] in (200, 204)
            left = pending(site.node, other)
            assert first in left and second not in left
        site.run("fsck", "--redis", server.url)
        site.run("doctor", "--server", f"http://127.0.0.1:{site.node.port}", "--redis", server.url)
        assert site.node.stop() == 0
    finally:
        for node in nodes:
            node.stop()
        server.close()
