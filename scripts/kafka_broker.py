"""A real Apache Kafka broker (KRaft, one node) on free ports of this machine, for tests, the demo and benchmarks.

    python scripts/kafka_broker.py FOLDER     starts one, prints its address, ends when its standard input does

It runs in a container where an engine runs, else on this machine's Java from the jars of Maven Central, which are
fetched once into the user's cache. `why_not` says what is missing.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from delaybox.embedded import launch

VERSION = "4.1.2"
IMAGE = f"apache/kafka:{VERSION}"
START_S = 90.0
STOP_S = 20.0
FETCH_S = 600.0
ARCHIVE_S = 60.0
_POM = Path(__file__).with_name("kafka-jars") / "pom.xml"
# Below the range that outgoing connections take their ports from: a client that keeps trying a port there on which
# nobody listens is connected to itself one day, and the broker cannot have its port back.
_PORTS = range(20_000, 32_000)
_STARTED = "Kafka Server started"
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_MAIN = "kafka.Kafka"
_LOGGERS = {"defaultLogLevel": "warn", "log.kafka.server.KafkaRaftServer": "info"}


def why_not() -> str:
    """Why no broker can be started here; '' when one can."""
    if _docker() or (_jars().is_dir() and _java()):
        return ""
    if not _java():
        return "there is neither a container engine nor Java 17; install one, or name a broker in DELAYBOX_TEST_KAFKA"
    if shutil.which("mvn") is None:
        return "there is no Maven to fetch the broker's jars with; install it, or name a broker in DELAYBOX_TEST_KAFKA"
    return ""


@functools.cache
def _docker() -> str:
    """The container engine's command when it runs and has or gets the image, else ''."""
    command = shutil.which("docker") or shutil.which("podman")
    if command is None or subprocess.run([command, "info"], capture_output=True, timeout=30).returncode:
        return ""
    there = subprocess.run([command, "image", "inspect", IMAGE], capture_output=True).returncode == 0
    return (
        command if there or subprocess.run([command, "pull", "-q", IMAGE], capture_output=True).returncode == 0 else ""
    )


@functools.cache
def _java() -> str:
    """Java 17 or later, else ''."""
    named = Path(os.environ.get("JAVA_HOME", "")) / "bin" / "java"
    java = str(named) if named.is_file() else shutil.which("java") or ""
    if not java:
        return ""
    logged = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    version = re.search(r'version "(\d+)', logged)
    return java if version and int(version[1]) >= 17 else ""


def _jars() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "delaybox" / f"kafka-{VERSION}"


def _fetched() -> Path:
    """The folder of the broker's jars, filled by Maven when it is not there yet."""
    jars = _jars()
    jars.parent.mkdir(parents=True, exist_ok=True)
    with (jars.parent / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.is_dir():
            with tempfile.TemporaryDirectory(dir=jars.parent) as made:
                command = ["mvn", "-q", "-B", "-f", str(_POM), f"-Dkafka.version={VERSION}"]
                command += ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={made}/jars"]
                done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=FETCH_S)
                if done.returncode:
                    raise RuntimeError(f"Maven could not fetch Kafka {VERSION}: {done.stdout[-2000:]}")
                (Path(made) / "jars").rename(jars)
    return jars


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As the broker itself binds: connections of an earlier test that are fading away do not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


@functools.cache
def _archive(jars: Path) -> str:
    """The JVM's own archive of the classes that a broker loads (AppCDS), made once for these jars and this Java by a
    broker that starts and stops; '' where it cannot be made. Loading and checking them anew is most of a start."""
    logged = subprocess.run([_java(), "-version"], capture_output=True).stderr
    archive = jars.with_name(f"{jars.name}-{hashlib.sha256(logged + str(jars).encode()).hexdigest()[:12]}.jsa")
    with (jars.parent / "kafka-classes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            with tempfile.TemporaryDirectory(dir=jars.parent) as folder, contextlib.suppress(RuntimeError, OSError):
                made = Path(folder) / "classes.jsa"
                broker = Broker(Path(folder) / "broker", archive=made)
                broker.start()
                broker.stop(within_s=ARCHIVE_S)
                made.rename(archive)
    return str(archive) if archive.exists() else ""


class Broker:
    """One broker in a folder of its own, which it keeps when stopped or killed: `start` brings it back as it was.

    ``listeners``: those besides PLAINTEXT: SASL_PLAINTEXT, SASL_SSL, SSL. ``users`` (name → password) may log in by
    PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512; OAUTHBEARER takes unsigned tokens. ``tls``: the PEM files of the server
    (key and certificates in one) and of the authority whose clients it trusts. ``settings`` are the broker's own.
    ``archive``: where its JVM leaves the classes that it has loaded when the broker is stopped.
    """

    def __init__(
        self,
        folder: Path,
        *,
        partitions: int = 6,
        listeners: Sequence[str] = (),
        users: Mapping[str, str] | None = None,
        tls: tuple[Path, Path] | None = None,
        settings: Mapping[str, str] | None = None,
        heap: str = "512m",
        jvm: Sequence[str] = _JVM,
        archive: Path | None = None,
    ) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("PLAINTEXT", "CONTROLLER", *listeners)}
        self.log = folder / "broker.log"
        self._users = dict(users or {})
        self._archive = archive
        self._jvm = (f"-Xmx{heap}", f"-Xms{heap}", *jvm)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._container = ""
        folder.mkdir(parents=True, exist_ok=True)
        self._properties = folder / "server.properties"
        self._properties.write_text(
            "".join(
                f"{key}={value}\n" for key, value in (self._settings(partitions, tls) | dict(settings or {})).items()
            )
        )
        self._properties.chmod(0o600)

    @property
    def bootstrap(self) -> str:
        """The address for clients without credentials."""
        return self.address("PLAINTEXT")

    def address(self, listener: str) -> str:
        """host:port of one of its listeners."""
        return f"127.0.0.1:{self.ports[listener]}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns when it serves."""
        if not (self.folder / "data").exists():
            self._format()
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            command = self._command(_MAIN, str(self._properties))
            self._process, self._pipe = launch(command, output=output.fileno())
        give_up = time.monotonic() + START_S
        while _STARTED not in self.log.read_text(errors="replace")[before:]:
            if self._process.poll() is not None or time.monotonic() > give_up:
                logged = self.log.read_text(errors="replace")[before:]
                ended = self._process.poll()
                why = f"was not ready within {START_S:.0f} s" if ended is None else f"ended with exit code {ended}"
                self.kill()
                raise RuntimeError(f"the Kafka broker {why}; it logged: {logged[-3000:] or 'nothing'}")
            time.sleep(0.05)

    def stop(self, *, within_s: float = STOP_S) -> None:
        """SIGTERM: it signs off, and its clients see that it is gone."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(within_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait for the end. Its data stays."""
        if self._process is not None:
            if self._container:
                subprocess.run([_docker(), "kill", self._container], capture_output=True)
            self._process.kill()
            self._process.wait()
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """As long as the block lasts it holds its connections and answers nothing."""
        assert self._process is not None
        if self._container:
            subprocess.run([_docker(), "pause", self._container], check=True, capture_output=True)
        else:
            self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            if self._container:
                subprocess.run([_docker(), "unpause", self._container], check=True, capture_output=True)
            else:
                self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # One argument: every 64th id begins with a hyphen, and would be taken for an option of its own.
        arguments = ["format", "--standalone", "--config", str(self._properties), f"--cluster-id={cluster}"]
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            for name, password in self._users.items():
                arguments += ["--add-scram", f"{mechanism}=[name={name},password={password}]"]
        done = subprocess.run(self._command("kafka.tools.StorageTool", *arguments), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the Kafka broker's folder could not be made: {done.stdout}{done.stderr}")

    def _command(self, main: str, *arguments: str) -> list[str]:
        options = [*self._jvm, *(f"-Dorg.slf4j.simpleLogger.{name}={level}" for name, level in _LOGGERS.items())]
        if engine := _docker():
            self._container = f"delaybox-kafka-{uuid.uuid4().hex[:12]}"
            run = [engine, "run", "--rm", "--init", "--name", self._container, "--network", "host"]
            run += ["--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{self.folder}:{self.folder}"]
            return [*run, "--entrypoint", "java", IMAGE, *options, "-cp", "/opt/kafka/libs/*", main, *arguments]
        jars = _fetched()
        if self._archive is None:
            options += [f"-XX:SharedArchiveFile={archive}"] if (archive := _archive(jars)) else []
        elif main == _MAIN:
            options.append(f"-XX:ArchiveClassesAtExit={self._archive}")
        # Always in the same order, for the archive fits no other one.
        classes = os.pathsep.join(map(str, sorted(jars.glob("*.jar"))))
        return [_java(), *options, "-cp", classes, main, *arguments]

    def _settings(self, partitions: int, tls: tuple[Path, Path] | None) -> dict[str, str]:
        found = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.ports['CONTROLLER']}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()),
            "advertised.listeners": ",".join(
                f"{name}://{self.address(name)}" for name in self.ports if name != "CONTROLLER"
            ),
            "listener.security.protocol.map": ",".join(
                f"{name}:{'PLAINTEXT' if name == 'CONTROLLER' else name}" for name in self.ports
            ),
            "log.dirs": str(self.folder / "data"),
            "num.partitions": str(partitions),
            "offsets.topic.num.partitions": "4",
            # One broker is all there is.
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # Small and quick: a few threads, small buffers, no wait for more members of a group.
            "num.network.threads": "2",
            "num.io.threads": "2",
            "background.threads": "2",
            "num.recovery.threads.per.data.dir": "1",
            "log.cleaner.dedupe.buffer.size": str(16 << 20),
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
        }
        if any(name.startswith("SASL") for name in self.ports):
            found["sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"
            security = "org.apache.kafka.common.security"
            known = " ".join(f'user_{name}="{password}"' for name, password in self._users.items())
            modules = {
                "plain": f"{security}.plain.PlainLoginModule required {known}",
                "scram-sha-256": f"{security}.scram.ScramLoginModule required",
                "scram-sha-512": f"{security}.scram.ScramLoginModule required",
                "oauthbearer": f"{security}.oauthbearer.OAuthBearerLoginModule required",
            }
            for listener in (name for name in self.ports if name.startswith("SASL")):
                for mechanism, module in modules.items():
                    found[f"listener.name.{listener.lower()}.{mechanism}.sasl.jaas.config"] = f"{module};"
        if tls is not None:
            keys, authority = tls
            found |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(keys)}
            found |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(authority)}
            # Kafka's own clients are asked for a certificate; who presents none is let in, a stranger's is not.
            found["ssl.client.auth"] = "requested"
        return found


def main(folder: Path) -> None:
    if problem := why_not():
        sys.exit(f"no Kafka broker: {problem}")
    broker = Broker(folder)
    broker.start()
    print(broker.bootstrap, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Its end is the sign: whoever holds the other side may have been killed.
    while sys.stdin.buffer.read(4096):
        pass
    broker.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
