"""TLS, client certificates, users and passwords to the server: each works, and each is refused in words once."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from delaybox import AsyncClient, Worker
from delaybox.api.rest.settings import ApiSettings
from delaybox.config import load
from delaybox.core.errors import ConfigError, StoreRefused, StoreUnavailable
from delaybox.core.task import NewTask, TaskType
from delaybox.service import Service
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from delaybox.store.probe import ServerFeatures, probe
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.targets.pubsub import PubSubTarget
from tests.children import serving
from tests.engines import running, until
from tests.servers import RealServer
from tests.tls import Certificates, tls_front, tls_server
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["front", "redis-server"])
async def port(
    request: pytest.FixtureRequest, server: RealServer, certificates: Certificates, tmp_path: Path
) -> AsyncIterator[int]:
    if request.param == "front":
        async with tls_front(server.unix_path, certificates) as found:
            yield found
        return
    async with tls_server(tmp_path, certificates) as own:
        if own is None:
            pytest.skip("no redis-server with TLS on this machine")
        yield own


@pytest.fixture(params=["front", "redis-server"])
async def strict_port(
    request: pytest.FixtureRequest, server: RealServer, certificates: Certificates, tmp_path: Path
) -> AsyncIterator[int]:
    """Asks for a client certificate."""
    if request.param == "front":
        async with tls_front(server.unix_path, certificates, ask_client=True) as found:
            yield found
        return
    async with tls_server(tmp_path, certificates, ask_client=True) as own:
        if own is None:
            pytest.skip("no redis-server with TLS on this machine")
        yield own


async def _probe(settings: ServerSettings) -> ServerFeatures:
    client = make_client(settings)
    try:
        return await probe(client)
    finally:
        await client.aclose()


async def test_a_task_over_tls(port: int, certificates: Certificates, prefix: str) -> None:
    client = make_client(certificates.settings(port))
    try:
        await probe(client)
        service = Service(await Store.open(Servers(client), prefix=prefix))
        submitted = await service.submit(NewTask(payload=b"x" * 100_000, delay_ms=60_000))
        assert (await service.get(submitted.task_id)).payload == b"x" * 100_000
        await client.unlink(*(await client.keys(f"*{prefix}*")))
    finally:
        await client.aclose()


async def test_the_configuration_names_the_files(port: int, certificates: Certificates) -> None:
    ca = certificates.ca
    for environ in (
        {"REDIS_HOST": f"localhost:{port}", "DELAYBOX_STORAGE_REDIS_TLS": "true", "DELAYBOX_STORAGE_REDIS_CA_FILE": ca},
        {"DELAYBOX_REDIS": f"rediss://localhost:{port}?ssl_ca_certs={ca}"},
        {"DELAYBOX_REDIS": f"rediss://localhost:{port}", "DELAYBOX_STORAGE_REDIS_CA_FILE": ca},
    ):
        settings = load(environ=environ).config.server()
        assert settings == certificates.settings(port)
        await _probe(settings)


async def test_a_strangers_certificate_is_refused(port: int, certificates: Certificates) -> None:
    good = certificates.settings(port)
    for settings in (replace(good, tls_ca_file=certificates.wrong_ca), replace(good, tls_ca_file=None)):
        with pytest.raises(StoreRefused, match=r"certificate is not trusted .*storage\.redisCaFile"):
            await _probe(settings)


async def test_a_certificate_of_another_name_is_refused(port: int, certificates: Certificates) -> None:
    with pytest.raises(StoreRefused, match=r"not trusted .*mismatch.*by a name that its certificate has"):
        await _probe(certificates.settings(port, host="127.1"))


async def test_a_connection_without_tls_to_a_port_that_has_it(port: int) -> None:
    with pytest.raises(StoreUnavailable, match="if it speaks TLS on this port, write rediss://"):
        await _probe(ServerSettings(port=port))


async def test_tls_to_a_port_that_waits_for_the_rest_of_a_command() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as listening:
        settings = ServerSettings(port=listening.sockets[0].getsockname()[1], tls=True)
        client = make_client(settings, timeout_s=0.3)
        with pytest.raises(StoreUnavailable, match="if it speaks no TLS on this port, give its TLS port"):
            await probe(client)
        await client.aclose()


async def test_tls_to_a_port_that_has_none(server: RealServer, certificates: Certificates) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        # What Redis says to a handshake that it takes for a command.
        writer.write(b"-ERR unknown command\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(StoreRefused, match="does not speak TLS on this port"):
            await _probe(certificates.settings(port))


async def test_a_client_certificate(strict_port: int, certificates: Certificates) -> None:
    good = certificates.settings(strict_port)
    cert, key = certificates.client
    await _probe(replace(good, tls_cert_file=cert, tls_key_file=key))
    both = Path(cert).with_name("both.pem")
    both.write_text(Path(key).read_text() + Path(cert).read_text())
    await _probe(replace(good, tls_cert_file=str(both)))
    wrong_cert, wrong_key = certificates.wrong_client
    for settings, words in (
        (good, r"asks for a client certificate; give storage\.redisCertFile"),
        (replace(good, tls_cert_file=wrong_cert, tls_key_file=wrong_key), "does not accept our client certificate"),
    ):
        with pytest.raises((StoreRefused, StoreUnavailable)) as caught:
            await _probe(settings)
        # The front of these tests hangs up without a word, as some proxies do.
        if isinstance(caught.value, StoreRefused):
            assert re.search(words, str(caught.value))
        else:
            assert "reset" in str(caught.value) or "closed" in str(caught.value)
            assert "if it asks for a client certificate, give storage.redisCertFile" in str(caught.value)


def test_files_that_are_no_certificates_are_told_before_any_connection(certificates: Certificates) -> None:
    cert, key = certificates.client
    good = certificates.settings(1)
    for settings, words in (
        (replace(good, tls_ca_file="/nowhere"), r"CA certificates.*cannot read /nowhere \(No such file"),
        (replace(good, tls_ca_file=key), r"CA certificates.*\.key holds no PEM certificate"),
        (replace(good, tls_cert_file=cert, tls_key_file="/nowhere"), "client key.*cannot read /nowhere"),
        (replace(good, tls_cert_file=cert, tls_key_file=certificates.server[1]), "do not belong together"),
        (replace(good, tls_cert_file=key, tls_key_file=key), "are no PEM certificate"),
        (replace(good, tls_key_file=key), "needs the client certificate's file as well"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_client(settings)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"REDIS_HOST": "h", "DELAYBOX_STORAGE_REDIS_CA_FILE": "a"}, "TLS is not on: set storage.redisTls: true"),
        ({"DELAYBOX_REDIS": "unix:///s", "DELAYBOX_STORAGE_REDIS_TLS": "true"}, "a unix socket has no TLS"),
    ],
)
def test_configurations_that_contradict_themselves(environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(environ=environ)


async def test_a_user_of_the_acl(make_server: Callable[..., RealServer], certificates: Certificates) -> None:
    """What docs/security.md says that DelayBox's user needs is enough, and nothing of it is for show."""
    own = make_server("--requirepass", "right")
    admin = make_client(replace(own.settings, password="right"))
    password = ("on", ">correct-horse")
    await admin.execute_command("ACL SETUSER", "delaybox", *password, *ACL)
    await admin.execute_command("ACL SETUSER", "reader", *password, "~*", "+@read", "+@connection", "+info")
    async with tls_front(own.unix_path, certificates) as port:
        environ = {"REDIS_HOST": f"localhost:{port}", "REDIS_PASS": "correct-horse"}
        environ |= {"DELAYBOX_STORAGE_REDIS_TLS": "1", "DELAYBOX_STORAGE_REDIS_CA_FILE": certificates.ca}
        environ |= {"DELAYBOX_STORAGE_REDIS_USER": "delaybox"}
        settings = load(environ=environ).config.server()
        assert settings is not None
        client = make_client(settings)
        await probe(client)
        store = await Store.open(Servers(client), prefix="delaybox")
        service = Service(store)
        submitted = await service.submit(NewTask(payload=b"hi", delay_ms=60_000))
        assert (await service.get(submitted.task_id)).payload == b"hi"
        await service.cancel(submitted.task_id)
        assert (await service.counts()).pending == 0
        target = PubSubTarget(store, channel="TaskExecution")
        listening = client.pubsub()
        await listening.subscribe("TaskExecution")
        async with running(store, {TaskType.PUB_SUB: target}, channel="TaskExecution", lead_ms=1_000):
            for payload in (b"fired in place", b"leased" * 1_000):
                await service.submit(NewTask(payload=payload, delay_ms=50))

            async def is_done() -> bool:
                counts = await service.counts()
                return counts.pending == counts.in_flight == 0

            await until(is_done)
        published = [await listening.get_message(timeout=PATIENCE_S) for _ in range(3)]
        assert [message and message["type"] for message in published] == ["subscribe", "message", "message"]
        await listening.aclose()
        await client.aclose()
        for wrong, words in (
            (replace(settings, password="hunter2-hunter2"), "WRONGPASS|invalid username-password"),
            (replace(settings, username="nobody"), "WRONGPASS|invalid username-password"),
            (replace(settings, username=None), "WRONGPASS|invalid username-password"),
            (replace(settings, username="reader"), "ACL forbids"),
        ):
            with pytest.raises(StoreRefused, match=words) as caught:
                await _probe(wrong)
            assert "hunter2" not in str(caught.value)
            assert "correct-horse" not in str(caught.value)
    await admin.aclose()


async def test_clients_and_workers_straight_on_a_server(
    make_server: Callable[..., RealServer], certificates: Certificates
) -> None:
    """With TLS and a user of the ACL; what is wrong with either is said in words for them."""
    own = make_server("--requirepass", "right")
    admin = make_client(replace(own.settings, password="right"))
    await admin.execute_command("ACL SETUSER", "delaybox", "on", ">correct-horse", *ACL)
    await admin.aclose()
    async with tls_front(own.unix_path, certificates) as port:
        url, ca = f"rediss://delaybox:correct-horse@localhost:{port}", certificates.ca
        for wrong, ca_file, words in (
            (url, None, r"certificate is not trusted .*\(ca_file of a client or worker\)"),
            (url.replace("correct", "hunter2"), ca, "write both into the server's URL"),
        ):
            async with AsyncClient(wrong, ca_file=ca_file) as stranger:
                with pytest.raises(StoreRefused, match=words) as caught:
                    await stranger.publish("x")
            assert "hunter2" not in str(caught.value)
        worker = Worker("w", servers=url, ca_file=ca, clock=False)

        @worker.task
        async def double(number: int) -> int:
            return 2 * number

        async with AsyncClient(url, ca_file=ca) as client, worker.running():
            task = await client.schedule("double", 21, keep_result="1m")
            assert await task.result(PATIENCE_S) == 42


KEYS_AND_CHANNELS = ("~{delaybox:*", "~delaybox:*", "&{delaybox:*", "&delaybox:*", "&TaskExecution")
ACL = (*KEYS_AND_CHANNELS, "+@all", "-@admin", "-@dangerous", "+info")


async def test_a_node_over_tls(server: RealServer, certificates: Certificates, prefix: str, tmp_path: Path) -> None:
    """The whole node, its API process included; and one whose authority is wrong ends with words."""
    async with tls_front(server.unix_path, certificates) as port:
        settings = ApiSettings(server=certificates.settings(port), prefix=prefix)
        api = await serving(settings)
        await api.stop()
        wrong = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "delaybox",
                    "serve",
                    "--log-format",
                    "json",
                    "--http-port",
                    "0",
                    "--grpc-port",
                    "0",
                ),
                *("--redis", f"rediss://localhost:{port}", "--set", f"storage.redisCaFile={certificates.wrong_ca}"),
            ],
            stderr=subprocess.PIPE,
            cwd=tmp_path,
        )
        _, output = await asyncio.to_thread(wrong.communicate, timeout=PATIENCE_S)
        assert wrong.returncode == 3
        assert b"certificate is not trusted" in output
        assert b"Traceback" not in output
