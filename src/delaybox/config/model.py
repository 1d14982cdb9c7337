"""The keys: their types, defaults and bounds. A field's ``description`` finishes the sentence "it must be ..."."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AliasGenerator,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from delaybox.config.dashboard import DashboardSection
from delaybox.config.durability import DurabilitySection
from delaybox.config.events import EventsSection
from delaybox.config.history import HistorySection
from delaybox.config.kafka import Kafka
from delaybox.config.otel import OtelSection
from delaybox.config.queues import QUEUE_RULES_FORM, queue_rules
from delaybox.config.results import Results
from delaybox.config.sections import Duration, Milliseconds, Section, Size, split
from delaybox.config.tokens import FORMS as TOKEN_FORMS
from delaybox.config.tokens import parse as parse_tokens
from delaybox.config.webhooks import Webhooks
from delaybox.config.workers import WorkersSection
from delaybox.core.errors import ConfigError
from delaybox.core.limits import (
    BY_SERVER,
    DEFAULT_PAYLOAD_BYTES,
    KEY_KEEP_MS,
    LABEL,
    MAX_PARTITIONS,
    MAX_PAYLOAD_BYTES,
    MAX_PREFIX,
    MAX_WAIT_MS,
    MOST_INDEXED,
    PREFIX,
)
from delaybox.core.membership import LEAST_CAPACITY, MOST_CAPACITY
from delaybox.core.queue import QueueRules
from delaybox.core.scaling import LEAD_MS, LEAST_SPAN_MS, MAX_LEAD_MS
from delaybox.core.scopes import Token
from delaybox.embedded import default_data_dir
from delaybox.store.address import URL_FORMS, ServerSettings

ROLES: tuple[Literal["api", "clock", "work"], ...] = ("api", "clock", "work")


class HttpServerSection(Section):
    host: str = Field(
        default="127.0.0.1", min_length=1, description="an address to listen on, such as 127.0.0.1 or 0.0.0.0"
    )
    port: int = Field(default=8088, ge=0, le=65535, description="a port from 1 to 65535, or 0 for any free one")
    mode: Literal["debug", "release", "test"] = Field(
        default="release", description="debug, release or test (it changes nothing here)"
    )
    context_path: str = Field(default="", description="a path such as /api, without spaces, ? or #")
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(split)] = Field(
        default=(), description="a list of host names, or text with commas between them"
    )

    @field_validator("context_path")
    @classmethod
    def _normal_path(cls, value: str) -> str:
        # "/api", "/api/" and "api" are one path; "/" is none.
        if re.search(r"[\s?#%\\]|//|\.\.", value):
            raise ValueError("path")
        return f"/{path}" if (path := value.strip("/")) else ""


class Tls(Section):
    cert_file: str | None = Field(default=None, min_length=1, description="the path of a PEM file")
    key_file: str | None = Field(default=None, min_length=1, description="the path of a PEM file")
    client_ca_file: str | None = Field(default=None, min_length=1, description="the path of a PEM file")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.cert_file) != bool(self.key_file):
            given, missing = ("certFile", "keyFile") if self.cert_file else ("keyFile", "certFile")
            raise ValueError(f"grpcServer.tls.{given} is given without grpcServer.tls.{missing}: set both, or neither")
        if self.client_ca_file and not self.cert_file:
            raise ValueError(
                "grpcServer.tls.clientCaFile asks callers for certificates, but the node has none: set "
                "grpcServer.tls.certFile and keyFile"
            )
        return self


class GrpcServerSection(Section):
    enabled: bool = Field(default=True, description="true or false")
    host: str | None = Field(default=None, min_length=1, description="an address to listen on, as httpServer.host")
    port: int = Field(default=9088, ge=0, le=65535, description="a port from 1 to 65535, or 0 for any free one")
    tls: Tls = Tls()
    reflection: bool = Field(default=True, description="true or false")


class Storage(Section):
    redis_host: str | None = Field(default=None, description="host:port, such as localhost:6379")
    redis_user: str | None = Field(default=None, description="a user name")
    redis_pass: SecretStr | None = Field(default=None, description="a password")
    redis_db: int = Field(default=0, ge=0, description="a database number, 0 or more")
    redis_url: SecretStr | None = Field(default=None, description=URL_FORMS)
    redis_tls: bool = Field(default=False, description="true or false")
    redis_ca_file: str | None = Field(default=None, min_length=1, description="the path of a PEM file")
    redis_cert_file: str | None = Field(default=None, min_length=1, description="the path of a PEM file")
    redis_key_file: str | None = Field(default=None, min_length=1, description="the path of a PEM file")
    scheduler_chanel: str = Field(default="Scheduler", min_length=1, description="a channel's name")
    task_execution_chanel: str = Field(default="TaskExecution", min_length=1, description="a channel's name")
    scheduler_key_name: str = Field(default="scheduled_tasks", min_length=1, description="a key's name")
    prefix: str = Field(
        default="delaybox",
        pattern=f"^{PREFIX.pattern}$",
        description=f"1 to {MAX_PREFIX} letters, digits, or . _ : - characters",
    )

    def server(self) -> ServerSettings | None:
        """Where the configured server is; None: use the embedded one. ConfigError when it cannot be understood."""
        password = self.redis_pass.get_secret_value() if self.redis_pass else None
        if self.redis_url is not None:
            found = ServerSettings.from_url(self.redis_url.get_secret_value())
            found = replace(
                found,
                db=found.db or self.redis_db,
                username=found.username or self.redis_user,
                password=found.password or password,
            )
        elif self.redis_host is not None:
            found = ServerSettings.from_address(
                self.redis_host, db=self.redis_db, username=self.redis_user, password=password
            )
        else:
            return None
        found = replace(
            found,
            tls=found.tls or self.redis_tls,
            tls_ca_file=found.tls_ca_file or self.redis_ca_file,
            tls_cert_file=found.tls_cert_file or self.redis_cert_file,
            tls_key_file=found.tls_key_file or self.redis_key_file,
        )
        if found.tls and found.unix_path:
            raise ConfigError("a unix socket has no TLS; set storage.redisTls: false, or give host and port")
        if not found.tls and (found.tls_ca_file or found.tls_cert_file or found.tls_key_file):
            raise ConfigError(
                "certificates are given, but TLS is not on: set storage.redisTls: true, or give rediss://"
            )
        return found


class Auth(Section):
    tokens: Annotated[tuple[Token, ...], BeforeValidator(parse_tokens)] = Field(default=(), description=TOKEN_FORMS)
    tokens_file: Path | None = Field(
        default=None, description="the path of a file with one token a line, or a YAML list"
    )


class LimitsSection(Section):
    body: Size = Field(
        default=DEFAULT_PAYLOAD_BYTES,
        ge=1,
        le=MAX_PAYLOAD_BYTES,
        description="a size such as 1MiB or 1048576 (bytes)",
    )
    wait: Duration = Field(default=100, ge=0, description="a duration with its unit such as 100ms, or 0s for no limit")


class Kept(Section):
    """How long records are kept that wait for a person."""

    age: Duration = Field(default=0, ge=0, description="a duration with its unit such as 90d, or 0s to keep all")


class Keys(Section):
    """Idempotency keys."""

    keep: Duration = Field(
        default=KEY_KEEP_MS,
        ge=60_000,
        le=MAX_WAIT_MS,
        description="a duration with its unit from 1m to 3650d, such as 24h",
    )


class Index(Section):
    """What tasks are looked up by without a scan."""

    labels: Annotated[tuple[str, ...], BeforeValidator(split)] = Field(
        default=(),
        max_length=MOST_INDEXED,
        description=f"up to {MOST_INDEXED} names of labels, with commas between them",
    )
    functions: bool = Field(default=False, description="true or false")

    @field_validator("labels")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(LABEL.fullmatch(name) for name in value):
            raise ValueError("labels")
        return value


class CatchUpSection(Section):
    rate: int = Field(default=0, ge=0, le=10_000_000, description="overdue tasks a second, or 0 for no limit")


class PubSub(Section):
    # Documented with underscores, unlike the keys that continue the original's.
    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=str))

    fire_in_place: bool = Field(default=True, description="true or false")
    stream: bool = Field(default=False, description="true or false")
    require_subscriber: bool = Field(default=False, description="true or false")


_COUNT = "a number of processes from 1 to 64"


class ProcessesSection(Section):
    """How many of each kind; those that the roles do not ask for are not started."""

    rest: int = Field(default=1, ge=1, le=64, description=_COUNT)
    grpc: int = Field(default=1, ge=1, le=64, description=_COUNT)
    kafka: int = Field(default=1, ge=1, le=64, description=_COUNT)
    clock: int = Field(default=1, ge=1, le=64, description=_COUNT)
    work: int = Field(default=1, ge=1, le=64, description=_COUNT)
    auto: bool = Field(default=False, description="true or false")
    most: int = Field(default=0, ge=0, le=64, description="a number of processes from 1 to 64, or 0 for one a core")
    lead: Duration = Field(
        default=LEAD_MS, ge=LEAST_SPAN_MS, le=MAX_LEAD_MS, description="a duration with its unit from 1s to 60m"
    )
    cool_down: Duration = Field(
        default=120_000, ge=1_000, le=86_400_000, description="a duration with its unit from 1s to 24h"
    )
    webhook: int = Field(default=1, ge=1, le=64, description=_COUNT)
    capacity: float = Field(default=1.0, ge=LEAST_CAPACITY, le=MOST_CAPACITY, description="a number from 0.1 to 10")


class ProbeSection(Section):
    """Probes and metrics on a port of their own, whatever the roles."""

    host: str = Field(default="127.0.0.1", min_length=1, description="an address to listen on, as httpServer.host")
    port: int | None = Field(default=None, ge=0, le=65535, description="a port from 1 to 65535, or 0 for any free one")


class Config(Section):
    """Every setting of a node. Milliseconds and bytes, whatever units the file used."""

    frequency_ms: Milliseconds = Field(
        default=1_000,
        alias="frequency",
        ge=1,
        le=3_600_000,
        description="milliseconds (1 or more), or a duration such as 1s",
    )
    worker_enable: bool = Field(default=True, description="true or false")
    roles: Annotated[tuple[Literal["api", "clock", "work"], ...], BeforeValidator(split)] = Field(
        default=ROLES, min_length=1, description="some of api, clock and work, with commas between them"
    )
    http_server: HttpServerSection = HttpServerSection()
    grpc_server: GrpcServerSection = GrpcServerSection()
    storage: Storage = Storage()
    kafka: Kafka = Kafka()
    auth: Auth = Auth()
    limits: LimitsSection = LimitsSection()
    catch_up: CatchUpSection = CatchUpSection()
    pubsub: PubSub = PubSub()
    workers: WorkersSection = WorkersSection()
    webhooks: Webhooks = Webhooks()
    results: Results = Results()
    keys: Keys = Keys()
    index: Index = Index()
    history: HistorySection = HistorySection()
    durability: DurabilitySection = DurabilitySection()
    events: EventsSection = EventsSection()
    queues: Annotated[Mapping[str, QueueRules], BeforeValidator(queue_rules)] = Field(
        default={}, description=QUEUE_RULES_FORM
    )
    dead_letters: Kept = Kept()
    quarantine: Kept = Kept()
    processes: ProcessesSection = ProcessesSection()
    probe: ProbeSection = ProbeSection()
    dashboard: DashboardSection = DashboardSection()
    otel: OtelSection = OtelSection()
    insecure: bool = Field(default=False, description="true or false")
    partitions: int | None = Field(
        default=None, ge=1, le=MAX_PARTITIONS, description=f"a power of two from 1 to {MAX_PARTITIONS}"
    )
    lease_ms: Duration = Field(
        default=15_000,
        alias="lease",
        ge=1_000,
        le=3_600_000,
        description="a duration with its unit from 1s to 1h, such as 15s",
    )
    heartbeat_ms: Duration = Field(
        default=5_000,
        alias="heartbeat",
        ge=100,
        description="a duration with its unit, such as 5s, and at most half the lease",
    )
    data_dir: Path | None = Field(default=None, description="a folder's path")
    log_format: Literal["text", "json"] = Field(default="text", description="text or json")

    @field_validator("partitions")
    @classmethod
    def _power_of_two(cls, value: int | None) -> int | None:
        if value is not None and value & (value - 1):
            raise ValueError("power of two")
        return value

    @property
    def new_partitions(self) -> int:
        """Of a store that is made: what is configured, else `BY_SERVER`."""
        return BY_SERVER if self.partitions is None else self.partitions

    @model_validator(mode="after")
    def _heartbeat_fits(self) -> Self:
        if self.heartbeat_ms * 2 > self.lease_ms:
            raise ValueError(
                f"heartbeat ({self.heartbeat_ms} ms) must be at most half the lease ({self.lease_ms} ms), or a lease "
                "is lost with one late heartbeat: lower heartbeat or raise lease"
            )
        return self

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.duties:
            raise ValueError("roles is work alone and workerEnable is false: nothing is left to do; change one of them")
        return self

    @property
    def duties(self) -> tuple[str, ...]:
        """The roles, without work if workerEnable switches that off."""
        return tuple(role for role in ROLES if role in self.roles and (role != "work" or self.worker_enable))

    @property
    def unsigned_commands(self) -> str:
        """Why this node may not send or take shell commands by topic, and how to mend it; '' when it may, or has
        none."""
        shell = self.workers.shell
        concerned = "clock" in self.duties or ("work" in self.duties and shell.any)
        if shell.via != "topic" or not self.kafka.enabled or not concerned or shell.keys or shell.accept_unsigned:
            return ""
        return (
            "but there is no key to tell commands by: whoever may write to the topic could run commands. Set "
            "workers.shell.signingKeys (or signingKeysFile) to the same secret on every node; `openssl rand -hex 32` "
            "makes one. Or, where every writer of the topic may run commands, as with nodes of the Go original, set "
            "workers.shell.acceptUnsigned: true"
        )

    def server(self) -> ServerSettings | None:
        """The configured Redis or Valkey; None: the embedded one."""
        return self.storage.server()

    @property
    def data_folder(self) -> Path:
        """The embedded server's folder."""
        if self.data_dir is not None:
            return self.data_dir.expanduser().absolute()
        try:
            return default_data_dir()
        except RuntimeError:
            raise ConfigError("dataDir is not set and there is no home folder; name one with --data-dir") from None

    @property
    def grpc_host(self) -> str:
        """Where gRPC listens."""
        return self.grpc_server.host or self.http_server.host

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        """The keys of the ports that this node listens on, other than any free one, where all have one host."""
        hosts = {self.http_server.host}
        found = [("httpServer.port", self.http_server.port)] if "api" in self.roles else []
        if "api" in self.roles and self.grpc_server.enabled:
            hosts.add(self.grpc_server.host or self.http_server.host)
            found.append(("grpcServer.port", self.grpc_server.port))
        if self.probe.port is not None:
            hosts.add(self.probe.host)
            found.append(("probe.port", self.probe.port))
        return tuple((key, port) for key, port in found if port) if len(hosts) == 1 else ()

    @property
    def dashboard_host(self) -> str:
        """Where the dashboard listens, if it has a port of its own."""
        return self.dashboard.host or self.http_server.host

    @property
    def exposed(self) -> tuple[str, ...]:
        """The keys of the addresses that others than this machine's users can reach."""
        found = [] if _on_loopback(self.http_server.host) else ["httpServer.host"]
        if self.grpc_server.enabled and self.grpc_server.host and not _on_loopback(self.grpc_server.host):
            found.append("grpcServer.host")
        if (
            self.dashboard.enabled
            and self.dashboard.port is not None
            and self.dashboard.host
            and not _on_loopback(self.dashboard.host)
        ):
            found.append("dashboard.host")
        return tuple(found)


def _on_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
