"""Which processes a configuration asks for, and the settings of each."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from delaybox.api.dashboard.settings import DashboardSettings
from delaybox.api.grpc.settings import GrpcSettings
from delaybox.api.kafka.settings import IntakeSettings
from delaybox.api.rest.settings import ApiSettings
from delaybox.config.model import Config
from delaybox.config.webhooks import in_clear
from delaybox.core.errors import ConfigError
from delaybox.core.membership import member_id
from delaybox.core.task import TaskType
from delaybox.core.webhook import url_of
from delaybox.processes.spec import ProcessKind, Spec
from delaybox.roles.settings import (
    ClockSettings,
    EventsOut,
    KafkaOut,
    ShellSettings,
    TopicCommands,
    WebhookSettings,
    WorkSettings,
)
from delaybox.store.settings import StoreSettings
from delaybox.targets.kafka_settings import KafkaSettings

STREAM_LENGTH = 100_000


def counts(config: Config) -> dict[ProcessKind, int]:
    """How many processes of each kind a node with this configuration has, in the order of their start."""
    duties, kafka = config.duties, config.kafka.enabled
    wanted: dict[ProcessKind, int] = {}
    if config.probe.port is not None:
        wanted[ProcessKind.PROBE] = 1
    if config.dashboard.enabled and config.dashboard.port is not None:
        wanted[ProcessKind.DASHBOARD] = 1
    if "api" in duties:
        wanted[ProcessKind.REST] = config.processes.rest
        if config.grpc_server.enabled:
            wanted[ProcessKind.GRPC] = config.processes.grpc
        if kafka:
            wanted[ProcessKind.KAFKA] = config.processes.kafka
    if "clock" in duties:
        wanted[ProcessKind.CLOCK] = config.processes.clock
    if "work" in duties and config.webhooks.enabled:
        wanted[ProcessKind.WEBHOOK] = config.processes.webhook
    # Without shell commands there is nothing to run. But a node with the role work alone must be listed among the
    # nodes.
    if "work" in duties and (
        config.workers.shell.any or not wanted.keys() - {ProcessKind.PROBE, ProcessKind.DASHBOARD}
    ):
        wanted[ProcessKind.WORK] = config.processes.work
    return wanted


def specs(
    config: Config,
    node_id: str,
    grace_s: Callable[[ProcessKind], float],
    listening: Mapping[ProcessKind, socket.socket],
) -> list[Spec]:
    """The node's processes. ``grace_s``: what a kind has to finish in; ``listening``: the sockets of those that serve
    callers.

    The server's address and the store's id are added when they are known. ConfigError for keys that do not fit
    together.
    """
    if config.workers.shell.via == "topic":
        _brokers(config)
    if config.otel.metrics and not {ProcessKind.PROBE, ProcessKind.REST} & counts(config).keys():
        raise ConfigError("otel.metrics is true, but no process of this node shows metrics: set probe.port as well")
    sent = {
        "collector": config.otel.collector(os.environ),
        "logs_to": config.otel.logs_to(os.environ),
        "otlp_protocol": config.otel.protocol or "",
    }
    return [
        Spec(
            kind=kind,
            settings=_SETTINGS[kind](config, _common(config, node_id, grace_s(kind)) | sent),
            count=count,
            listening=listening.get(kind),
            shared=count > 1 or config.processes.auto,
        )
        for kind, count in counts(config).items()
    ]


def _common(c: Config, node_id: str, grace_s: float) -> dict[str, Any]:
    return {
        "prefix": c.storage.prefix,
        "key_keep_ms": c.keys.keep,
        "first_rules": c.queues,
        "index_labels": c.index.labels,
        "index_functions": c.index.functions,
        "history": c.history.rules(),
        "durability": c.durability.rules(),
        "events": c.events.rules(),
        "roles": c.duties,
        "node_id": node_id,
        "log_format": c.log_format,
        "guarded": c.workers.shell.any,
        "grace_s": grace_s,
    }


def _engine(c: Config, common: Mapping[str, Any]) -> dict[str, Any]:
    times = {"lease_ms": c.lease_ms, "heartbeat_ms": c.heartbeat_ms, "poll_ms": c.frequency_ms}
    return {**common, **times, "capacity": c.processes.capacity}


def _serving(c: Config, common: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **common,
        "payload_limit": c.limits.body,
        "wait_ms": c.limits.wait,
        "tokens": c.auth.tokens,
        "shell": c.workers.shell.enabled,
        "shell_commands": tuple(c.workers.shell.commands),
        "webhooks": c.webhooks.rules,
        "queues": c.results.rules(),
        "topics": c.kafka.rules() if c.kafka.enabled else None,
        "engines": _engines(c, common["node_id"]),
    }


def _engines(c: Config, node_id: str) -> tuple[str, ...]:
    """The members that must be alive for the node to be ready."""
    wanted = counts(c)
    return tuple(
        member_id(node_id, kind, number)
        for kind in (ProcessKind.CLOCK, ProcessKind.WORK, ProcessKind.WEBHOOK)
        for number in range(1, wanted.get(kind, 0) + 1)
    )


def _rest(c: Config, common: Mapping[str, Any]) -> ApiSettings:
    return ApiSettings(
        **_serving(c, common),
        host=c.http_server.host,
        context_path=c.http_server.context_path,
        allowed_hosts=c.http_server.allowed_hosts,
        dashboard=_pages(c, alone=False),
        # One process of a node sends them.
        metrics_to=c.otel.metrics_to(os.environ) if c.probe.port is None else None,
    )


def _dashboard(c: Config, common: Mapping[str, Any]) -> ApiSettings:
    return ApiSettings(
        **_serving(c, common),
        host=c.dashboard_host,
        context_path=c.http_server.context_path,
        allowed_hosts=c.http_server.allowed_hosts,
        dashboard=_pages(c, alone=True),
    )


def _pages(c: Config, *, alone: bool) -> DashboardSettings | None:
    return c.dashboard.settings(
        alone=alone,
        rest_port=c.http_server.port,
        grpc_port=c.grpc_server.port,
        grpc_tls=bool(c.grpc_server.tls.cert_file),
    )


def _grpc(c: Config, common: Mapping[str, Any]) -> GrpcSettings:
    tls = c.grpc_server.tls
    return GrpcSettings(
        **_serving(c, common),
        host=c.grpc_host,
        cert_file=tls.cert_file or "",
        key_file=tls.key_file or "",
        client_ca_file=tls.client_ca_file or "",
        reflection=c.grpc_server.reflection,
        workers="work" in c.duties,
        lease_ms=c.lease_ms,
        heartbeat_ms=c.heartbeat_ms,
        poll_ms=c.frequency_ms,
        max_output=c.results.max_bytes,
    )


def _kafka(c: Config, common: Mapping[str, Any]) -> IntakeSettings:
    return IntakeSettings(
        **common,
        kafka=_brokers(c),
        sources=c.kafka.scheduler_topics,
        group=c.kafka.group,
        instance=c.kafka.instance,
        topics=c.kafka.rules(),
        pass_through=c.kafka.value == "payload",
        payload_limit=c.limits.body,
        shell=c.workers.shell.enabled,
        shell_commands=tuple(c.workers.shell.commands),
        webhooks=c.webhooks.rules,
    )


def _clock(c: Config, common: Mapping[str, Any]) -> ClockSettings:
    by_topic = c.workers.shell.via == "topic"
    runs_commands = ProcessKind.WORK in counts(c) and c.workers.shell.any and not by_topic
    beside = TaskType.SHELL_CMD.value if runs_commands else ""
    if ProcessKind.WEBHOOK in counts(c):
        beside += TaskType.HTTP.value
    return ClockSettings(
        **_engine(c, common),
        channel=c.storage.task_execution_chanel,
        stream=STREAM_LENGTH if c.pubsub.stream else 0,
        in_place=c.pubsub.fire_in_place and not c.pubsub.require_subscriber,
        require_subscriber=c.pubsub.require_subscriber,
        kafka=_kafka_out(c, by_topic) if c.kafka.enabled else None,
        events_webhook=_events_out(c) if c.events.enabled and c.events.webhook.url else None,
        events_stream=c.events.stream if c.events.enabled else 0,
        input_channel=c.storage.scheduler_chanel,
        types_beside=beside,
        payload_limit=c.limits.body,
        catch_up_rate=c.catch_up.rate,
        dead_age_ms=c.dead_letters.age,
        quarantine_age_ms=c.quarantine.age,
    )


def _kafka_out(c: Config, commands: bool) -> KafkaOut:
    return KafkaOut(
        kafka=_brokers(c),
        rules=c.kafka.rules(),
        value=c.kafka.value,
        compression=c.kafka.compression,
        linger_ms=c.kafka.linger,
        delivery_timeout_ms=c.kafka.delivery_timeout,
        signing_keys=c.workers.shell.keys,
        commands=commands,
        events_topic=c.events.kafka_topic if c.events.enabled else "",
    )


def _events_out(c: Config) -> EventsOut:
    w = c.events.webhook
    secret = w.secret or c.webhooks.secrets.get(url_of(w.url).host) or c.webhooks.secret
    return EventsOut(
        url=w.url,
        rules=w.rules,
        secret=in_clear(secret),
        kinds=w.kinds,
        queue=w.queue,
        batch=w.batch,
        timeout_ms=w.timeout,
        ca_file=c.webhooks.ca_file or "",
    )


def _work(c: Config, common: Mapping[str, Any]) -> WorkSettings:
    shell = c.workers.shell
    limits = shell.limits
    topic = None
    if shell.via == "topic":
        topic = TopicCommands(
            kafka=_brokers(c),
            topic=c.kafka.task_execution_topic,
            group=c.kafka.group,
            instance=c.kafka.instance,
            signing_keys=shell.keys,
            accept_unsigned=shell.accept_unsigned,
        )
    commands = ShellSettings(
        payloads=shell.enabled,
        commands=shell.commands,
        user=shell.user,
        concurrency=shell.concurrency,
        timeout_ms=shell.timeout,
        grace_ms=shell.grace,
        keep_result_ms=shell.keep_result,
        cpu_s=-(-limits.cpu // 1_000),
        memory=limits.memory,
        file_size=limits.file_size,
        open_files=limits.open_files,
        processes=limits.processes,
    )
    return WorkSettings(**_engine(c, common), shell=commands if shell.any else None, topic=topic)


def _webhook(c: Config, common: Mapping[str, Any]) -> WebhookSettings:
    w = c.webhooks
    return WebhookSettings(
        **_engine(c, common),
        rules=w.rules,
        cloudevents=w.cloudevents,
        secret=in_clear(w.secret),
        secrets={name: in_clear(secrets) for name, secrets in w.secrets.items()},
        concurrency=w.concurrency,
        per_host=w.per_host,
        per_host_rate=w.per_host_rate,
        timeout_ms=w.timeout,
        max_answer=w.max_response,
        longest_wait_ms=w.max_retry_after,
        ca_file=w.ca_file or "",
        catch_up_rate=c.catch_up.rate,
    )


def _probe(c: Config, common: Mapping[str, Any]) -> ApiSettings:
    return ApiSettings(
        **_serving(c, common), host=c.probe.host, probes_only=True, metrics_to=c.otel.metrics_to(os.environ)
    )


def _brokers(c: Config) -> KafkaSettings:
    settings = c.kafka.settings()
    if settings is None:
        raise ConfigError("workers.shell.via is topic, which needs kafka.enabled: true; set that, or via: direct")
    return settings


_SETTINGS: dict[ProcessKind, Callable[[Config, Mapping[str, Any]], StoreSettings]] = {
    ProcessKind.REST: _rest,
    ProcessKind.GRPC: _grpc,
    ProcessKind.KAFKA: _kafka,
    ProcessKind.CLOCK: _clock,
    ProcessKind.WORK: _work,
    ProcessKind.WEBHOOK: _webhook,
    ProcessKind.PROBE: _probe,
    ProcessKind.DASHBOARD: _dashboard,
}
