"""Fill the tables in docs/ from the code they describe, or prove that they are current.

    generate_docs.py [--check]

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`; the words around it are written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer
from prometheus_client import CollectorRegistry

from delaybox import metrics
from delaybox.api import call_scopes
from delaybox.cli.app import app as cli
from delaybox.cli.exits import MEANINGS
from delaybox.config import FLAGS
from delaybox.config.load import _FIELDS, _VARIABLES, ORIGINAL_VARIABLES, _plain, variable
from delaybox.core.limits import CLUSTER_PARTITIONS, DEFAULT_PARTITIONS
from delaybox.store import event_metrics  # noqa: F401 - adds its metrics to the others
from delaybox.store.fsck_kinds import KINDS
from delaybox.targets import http_metrics  # noqa: F401 - adds its metrics to the others
from delaybox.wire.gen import scheduler_pb2, worker_pb2
from delaybox.worker.worker_metrics import WorkerMetrics

DOCS = Path(__file__).resolve().parent.parent / "docs"
_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)

NOT_YET = "not used yet: "
MEANING = {
    "frequency": "how often a partition is looked at even when nothing woke its engine. Due times do not wait for it",
    "workerEnable": "`false` takes `work` from the roles. PUB_SUB tasks fire all the same, as in the original",
    "roles": "`api` serves REST and gRPC, `clock` keeps time (fires PUB_SUB tasks, hands over what is due, takes back "
    "what dead nodes had), `work` runs shell commands and, beside `api`, serves workers over gRPC. Some node must have "
    "each",
    "processes.rest": "how many processes serve REST; they share its port",
    "processes.grpc": "how many processes serve gRPC; they share its port, and each claims for its own workers",
    "processes.kafka": "how many processes read `kafka.schedulerTopic`, as members of one group",
    "processes.clock": "how many processes keep time. They share the partitions with those of other nodes, and each "
    "stands in for others ([how](scaling.md#who-does-what))",
    "processes.work": "how many processes run shell commands, each `workers.shell.concurrency` at once",
    "processes.auto": "follow the need: add clock, gRPC, REST and webhook processes before the forecast needs them, "
    "and retire them after `coolDown`; the numbers above are the least ([how](howto/autoscale.md#processes-of-a-node))",
    "processes.most": "with `auto`: the most processes of each of these kinds",
    "processes.lead": "with `auto`: how far ahead tasks that become due are looked for",
    "processes.coolDown": "with `auto`: for how long fewer must have been enough before one is retired",
    "processes.webhook": "how many processes send webhooks, each `webhooks.concurrency` at once",
    "processes.capacity": "how much a clock or webhook process of this node can do, beside one that has 1: its share "
    "of the partitions goes by it. Less for a machine that is slower than the others ([how](scaling.md#who-does-what))",
    "otel.endpoint": "where traces go ([Traces](howto/traces.md)), and metrics and logs if they are wanted; without it "
    "where `OTEL_EXPORTER_OTLP_ENDPOINT` says. Where neither is set nothing is traced",
    "otel.protocol": "how it is reached; without it as `OTEL_EXPORTER_OTLP_PROTOCOL` says, else by gRPC. With "
    "`http/protobuf` the address may have a path",
    "otel.logs": "`true`: what the processes of this node log is sent to the collector as well "
    "([how](howto/traces.md#logs))",
    "otel.metrics": "`true`: what `/metrics` shows is sent to the collector as well "
    "([how](howto/traces.md#metrics-of-a-node))",
    "probe.host": "address of the probe port",
    "probe.port": "a port for `/livez`, `/readyz` and `/metrics` of the whole node, whatever its roles. Without it "
    "only nodes with the role `api` have them, on the port of REST",
    "dashboard.enabled": "`false`: this node shows no [dashboard](dashboard.md)",
    "dashboard.read_only": "the pages only show, whatever a token allows",
    "dashboard.host": "address of the dashboard's own port; as `httpServer.host` unless given",
    "dashboard.port": "a port and a process of its own for the dashboard, whatever the roles. Without it nodes with "
    "the role `api` show it on the port of REST",
    "dashboard.secret": "signs the cookies of those who are logged in; the same for all nodes behind one address. "
    "Unless given it is random and lies in the store",
    "httpServer.host": "address to listen on; one that is not loopback needs `auth.tokens` or `insecure`",
    "httpServer.port": "port of REST, metrics and probes",
    "httpServer.mode": "the original's; changes nothing",
    "httpServer.contextPath": "path in front of `/task` and `/ping`; `/api`, `/api/` and `api` are the same",
    "httpServer.allowedHosts": "names, beside localhost and loopback addresses, that the `Host` and `Origin` headers "
    "may carry. Checked on loopback always, elsewhere only when set",
    "grpcServer.enabled": "`false`: this node serves no gRPC",
    "grpcServer.host": "address of gRPC; without it that of `httpServer`",
    "grpcServer.port": "port of gRPC",
    "grpcServer.tls.certFile": "certificate of this node, with its chain; TLS is on when it is set",
    "grpcServer.tls.keyFile": "its key, unlocked",
    "grpcServer.tls.clientCaFile": "who must have signed the callers' certificates (mTLS); without it they need none",
    "grpcServer.reflection": "whether generic clients such as grpcurl can ask what there is",
    "storage.redisHost": "your server's address; without it and without `redisUrl` the embedded server is used. A URL "
    "here means `redisUrl`",
    "storage.redisUser": "user of that server",
    "storage.redisPass": "password of that server",
    "storage.redisDb": "database on that server",
    "storage.redisUrl": "your server as a URL; of this and `redisHost` give one",
    "storage.redisTls": "TLS to that server, as `rediss://` in the URL means. Its certificate and name are checked",
    "storage.redisCaFile": "the authorities that may have signed the server's certificate; without it those that the "
    "system trusts",
    "storage.redisCertFile": "certificate of this node, where the server asks for one",
    "storage.redisKeyFile": "its key, unlocked; without it the key stands in `redisCertFile`",
    "storage.schedulerChanel": "channel on which serialized tasks are taken in, by one node at a time",
    "storage.taskExecutionChanel": "channel on which due tasks are published",
    "storage.schedulerKeyName": "the original's sorted set, which `delaybox import-legacy` takes over",
    "storage.prefix": "start of every key; another prefix is another store on the same server",
    "kafka.enabled": "tasks are taken from `schedulerTopic`, and due `PUB_SUB` tasks go to `taskExecutionTopic` and "
    "not to the Redis channel (see [kafka.md](kafka.md))",
    "kafka.brokers": "some of the cluster's brokers; the others are learnt from them",
    "kafka.group": "group of the nodes that read `schedulerTopic`",
    "kafka.instance": "name of this node in the group that outlives a restart (`group.instance.id`): back within ten "
    "seconds it has its partitions at once, without a rebalance",
    "kafka.schedulerTopic": "topics whose records become tasks",
    "kafka.taskExecutionTopic": "topic of due tasks",
    "kafka.saslEnabled": "log in at the brokers",
    "kafka.saslUser": "for PLAIN and SCRAM",
    "kafka.saslPassword": "for PLAIN and SCRAM",
    "kafka.saslMechanism": "how to log in",
    "kafka.oauthTokenUrl": "for OAUTHBEARER: where tokens are had for a client's id and secret (OIDC)",
    "kafka.oauthClientId": "for OAUTHBEARER",
    "kafka.oauthClientSecret": "for OAUTHBEARER",
    "kafka.oauthScope": "for OAUTHBEARER, where the provider asks for one",
    "kafka.tlsEnable": "TLS to the brokers; their certificates and names are checked",
    "kafka.caFile": "the authorities that may have signed the brokers' certificates; without it those that the system "
    "trusts",
    "kafka.certFile": "certificate of this node, where brokers ask for one",
    "kafka.keyFile": "its key, unlocked; without it the key stands in `certFile`",
    "kafka.value": "what a message's value is: the serialized `Task`, as the original sends it, or the bare payload",
    "kafka.allowedTopics": "topics that tasks may name (header `kafkaTopic` or `topic`) instead of the execution topic",
    "kafka.compression": "of what is sent",
    "kafka.linger": "how long a message may wait for others to share a request",
    "kafka.deliveryTimeout": "a message not confirmed by then is given up, and its task handed back to be sent again",
    "kafka.properties": "settings of librdkafka for what has no key here; they win over those that have one",
    "auth.tokens": "callers must send one of them as `Authorization: Bearer …`. `scopes` are some of read, schedule, "
    "cancel, admin, worker, shell; a token without them has all but shell",
    "auth.tokensFile": "more of them, from a file (a mounted secret)",
    "limits.wait": "how long new tasks may wait in a process of REST or gRPC before they go to the store. Where all "
    "wait longer for half a second, it takes fewer calls with new tasks at once, and refuses more with 429 "
    "(`RESOURCE_EXHAUSTED`) and Retry-After, unread ([overload](reliability.md#overload))",
    "limits.body": "bytes a payload may have before it is base64-encoded; a whole request 1.5 times that and 128 KiB",
    "catchUp.rate": "how many tasks that are more than 5 s late this node takes in a second, so that what comes back "
    "after an outage does not flood those who do the work. What is due now is not held up by them",
    "pubsub.fire_in_place": "publish inside the claiming script, without a lease; `false` leases each task first",
    "pubsub.stream": "write each task also to a capped stream, one a partition: `{<prefix>:<p>}:stream`",
    "pubsub.require_subscriber": "a task that nobody received counts as failed and is tried again",
    "webhooks.enabled": "take `http` tasks, and with role `work` send them (see [the how-to](howto/webhooks.md)). A "
    "node whose API is to take them needs this section too, whoever sends them",
    "webhooks.allow": "hosts to which webhooks may go although they are not public, on any port. Everything else that "
    "is not public is refused: when it is scheduled, or, for names, when it is due",
    "webhooks.ports": "ports to which webhooks may go, but for hosts that `allow` names",
    "webhooks.schemes": "schemes that URLs may have",
    "webhooks.cloudevents": "the form of webhooks whose task names none: `binary` and `structured` "
    "[make CloudEvents](howto/webhooks.md#as-a-cloudevent)",
    "webhooks.secret": "signs requests by Standard Webhooks. With several each signs, so that receivers can change "
    "from one to the next",
    "webhooks.secrets": "other secrets for some hosts or queues; a host's come before its queue's",
    "webhooks.concurrency": "requests at once in one process",
    "webhooks.perHostRate": "requests a second to one host from one process; the rest waits in the store",
    "webhooks.perHost": "requests at once to one host; as many more as it answers in half a second wait in the "
    "process, the rest in the store",
    "webhooks.timeout": "for tasks that state none: from the look-up of the name to the last byte of the answer",
    "webhooks.maxResponse": "bytes of an answer's body that are read and can be kept",
    "webhooks.maxRetryAfter": "longest Retry-After that is waited for without a charge",
    "webhooks.caFile": "authorities that may have signed receivers' certificates, beside those that the system trusts",
    "workers.shell.via": "`topic`: due `SHELL_CMD` tasks go to `kafka.taskExecutionTopic`, and workers take them from "
    "there, as the original's do",
    "workers.shell.signingKeys": "with `via: topic`: the nodes' shared secret, by which workers tell the commands of "
    "nodes from those of anybody else who can write to the topic. The first key signs, all are accepted (see "
    "[kafka.md](kafka.md#shell-tasks-by-way-of-the-topic))",
    "workers.shell.signingKeysFile": "more of them, from a file (a mounted secret)",
    "workers.shell.acceptUnsigned": "with `via: topic`: run commands without a signature too, as the original's nodes "
    "send them. Whoever may write to the topic then runs commands as the node's user",
    "workers.shell.enabled": "run the payloads of `SHELL_CMD` tasks with `sh -c`, as the node's own user",
    "workers.shell.commands": "commands that tasks may name; a task's payload is their standard input. Given without "
    "`enabled`, only these are run. A node whose API is to take them needs them too, whoever runs them",
    "workers.shell.user": "whose rights commands have, where the node runs as root; without it the node's user's",
    "workers.shell.concurrency": "commands at once on this node; each slot is a process of about 10 MiB, mostly shared",
    "workers.shell.timeout": "for tasks that state none; then SIGTERM, `grace`, SIGKILL for all that it started",
    "workers.shell.grace": "between SIGTERM and SIGKILL",
    "workers.shell.keepResult": "how long exit code, output (64 KiB at most) and duration are kept",
    "workers.shell.limits.cpu": "CPU time of a process; SIGXCPU when it is used up",
    "workers.shell.limits.memory": "address space of a process",
    "workers.shell.limits.fileSize": "largest file that can be written",
    "workers.shell.limits.openFiles": "open files of a process",
    "workers.shell.limits.processes": "processes and threads that all commands together may add to those that the "
    "node's user had when the node started. The system does not hold root to it",
    "results.keep": "how long what a worker's function returned is kept, for tasks that say nothing of their own "
    "(`keep_result`) and whose queue says nothing. What nobody keeps costs nothing",
    "results.queues": "the same for the tasks of one queue",
    "queues": "rules of queues for a store in which none were ever set; from then on `delaybox queues set` changes "
    "them (docs/queues.md)",
    "results.maxBytes": "largest result; a function that returns more has failed, and is not tried again",
    "keys.keep": "how long an idempotency key outlives its task; the same on every node. Keys that are locks "
    "(`unique_while`) end with their task",
    "index.labels": "labels by which tasks are indexed, so that lists and changes by one of them need no scan. Tasks "
    "that are there already are indexed within minutes. A label that was named once stays indexed",
    "index.functions": "index tasks by the function or command that they name, so that lists and changes by it need no "
    "scan: as much as one label of each such task. What was indexed once stays so",
    "durability.mode": "when a caller is answered that a task is stored: `fast`, when the server has it; `durable`, "
    "when it is on the server's disk; `strict`, when its replicas have it too ([what each may lose](reliability.md))",
    "durability.replicas": "with `strict`: how many replicas must have it; all that may be promoted, to lose nothing",
    "durability.within": "a write that is not confirmed by then is answered 503 `unconfirmed`",
    "history.keep": "how long it is remembered how a task ended (outcome, times, attempts, node, reason); `0s`: not at "
    "all",
    "history.keepFailed": "the same of tasks that failed, at least `history.keep`",
    "history.entries": "ends that the whole store remembers; past it the oldest go first, those of failures last",
    "history.bytes": "the same in bytes of entries; the server needs about twice as much",
    "history.failures": "bytes of the reasons and tracebacks of failed attempts that the whole store remembers, for "
    "`history.keepFailed` after a task's last one: the last 10 of each task; past it the oldest go",
    "events.enabled": "keep the [feed of events](howto/events.md); `false`: this node writes none and offers none",
    "events.always": "write events although nobody reads them, so that a reader finds past ones; else they are written "
    "while somebody reads, and for five minutes afterwards",
    "events.keep": "how long the feed is kept after its last event",
    "events.entries": "events that the feed keeps; past it the oldest go",
    "events.bytes": "the same in bytes",
    "events.kafkaTopic": "also send each event to this topic of Kafka ([how](howto/events.md#to-a-kafka-topic)); takes "
    "`kafka.enabled`. Set the same at every node",
    "events.stream": "also add each event to a Redis stream that keeps about so many "
    "([how](howto/events.md#to-a-redis-stream)). Set the same at every node with the role `clock`",
    "events.webhook.url": "also send each event to this URL ([how](howto/events.md#to-a-url)). Set the same at every "
    "node with the role `clock`",
    "events.webhook.secret": "signs these requests by Standard Webhooks; with several each signs. Where none is "
    "given, that of `webhooks.secrets` for the URL's host does, else `webhooks.secret`",
    "events.webhook.kinds": "only these events are sent",
    "events.webhook.queue": "only events of this queue are sent",
    "events.webhook.allow": "the URL's host, or its network, where it is not public; `webhooks.allow` does not count "
    "here",
    "events.webhook.batch": "events in one request at most. 1: each request is one event; more: each is an array",
    "events.webhook.timeout": "for one request: from the look-up of the name to the last byte of the answer",
    "events.buffer": "events that wait for one slow reader; past it the oldest are left out, and it learns how many",
    "deadLetters.age": "dead letters older than this are deleted for good; the oldest go past 100,000 a partition too",
    "quarantine.age": "records that cannot be read are deleted for good after this; `delaybox quarantine` lists them",
    "insecure": "listen on more than loopback without any credential",
    "partitions": "parts of the store; fixed when the store is created",
    "lease": "how long a node that died keeps what it had taken",
    "heartbeat": "how often a node extends its leases",
    "dataDir": "folder of the embedded server",
    "logFormat": "readable text, or one JSON object a line",
}
DEFAULTS = {
    "partitions": f"`{DEFAULT_PARTITIONS}`, on a cluster `{CLUSTER_PARTITIONS}`",
    "dataDir": "`$XDG_DATA_HOME/delaybox`, else `~/.local/share/delaybox`; on macOS "
    "`~/Library/Application Support/delaybox`",
}
_SPANS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
_SIZES = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1))


def configuration() -> Iterator[str]:
    """Every key, section by section."""
    if wrong := _FIELDS.keys() ^ MEANING.keys():
        raise SystemExit(f"MEANING in {__file__} and the configuration's keys differ: {sorted(wrong)}")
    sections: dict[str, list[str]] = {"": []}
    for key in _FIELDS:
        sections.setdefault(key.rpartition(".")[0], []).append(key)
    for at, (section, keys) in enumerate(sections.items()):
        yield from [""] * (at > 0)
        yield f"### {section or 'At the top'}"
        yield ""
        yield "| key | must be | default | meaning | also set by |"
        yield "| --- | --- | --- | --- | --- |"
        for key in keys:
            field = _FIELDS[key]
            must = (field.description or "").replace("|", "\\|")
            yield f"| `{key}` | {must} | {_default(key, field.default)} | {MEANING[key]} | {_also(key)} |"


def _default(key: str, value: Any) -> str:
    if key in DEFAULTS:
        return DEFAULTS[key]
    if value is None or value in ((), "", {}):
        return "none"
    must = _FIELDS[key].description or ""
    if "a duration" in must:
        return f"`{_in_units(value, _SPANS)}`" if value else "`0s`"
    if must.startswith("a size"):
        return f"`{_in_units(value, _SIZES)}`"
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _in_units(value: int, units: tuple[tuple[str, int], ...]) -> str:
    """In the largest unit of which it is a whole number; as the configuration takes it."""
    return next(f"{value // size}{unit}" for unit, size in units if value % size == 0)


def _also(key: str) -> str:
    name = variable(key)
    if _VARIABLES.get(_plain(name.removeprefix("DELAYBOX_"))) != key:
        raise SystemExit(f"the variable {name} does not mean {key}")
    names = [f"`{name}`", *(f"`{name}`" for name, meant in ORIGINAL_VARIABLES.items() if meant == key)]
    if key in FLAGS:
        names.append(f"`{FLAGS[key]}`")
    return ", ".join(names)


def metrics_table() -> Iterator[str]:
    """Every metric of a node."""
    yield from _metrics_of(metrics.REGISTRY)


def worker_metrics_table() -> Iterator[str]:
    """Every metric of a worker."""
    yield from _metrics_of(WorkerMetrics().registry)


def _metrics_of(registry: CollectorRegistry) -> Iterator[str]:
    """Each metric with its kind, labels and help."""
    yield "| metric | kind | labels | meaning |"
    yield "| --- | --- | --- | --- |"
    for collector in sorted(registry._collector_to_names, key=lambda one: str(getattr(one, "_name", ""))):
        described: Any = collector
        (family,) = described.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in described._labelnames) or "none"
        yield f"| `{name}` | {family.type} | {labels} | {family.documentation} |"


def fsck_table() -> Iterator[str]:
    """Every kind of problem that fsck can report."""
    yield "| it says | meaning |"
    yield "| --- | --- |"
    for kind, text in KINDS.items():
        yield f"| `{kind}` | {text} |"


def policy_table() -> Iterator[str]:
    """Every REST call and what it takes."""
    yield "| call | needs |"
    yield "| --- | --- |"
    words: dict[call_scopes.Rule, str] = {
        call_scopes.WithoutToken.PROBE: "nothing; `Host` and `Origin` are not looked at",
        call_scopes.WithoutToken.PAGE: "no token",
    }
    for (method, route), rule in call_scopes.RULES.items():
        yield f"| `{method} {route}` | {words.get(rule) or f'`{rule}`'} |"


def grpc_table() -> Iterator[str]:
    """Each method of the services in delaybox.v1, how it streams, and its scope."""
    yield "| method | takes | answers | scope |"
    yield "| --- | --- | --- | --- |"
    for file in (scheduler_pb2, worker_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                rule = call_scopes.grpc_rule(f"/{service.full_name}/{method.name}")
                takes = "a stream of " * method.client_streaming + f"`{method.input_type.name}`"
                answers = "a stream of " * method.server_streaming + f"`{method.output_type.name}`"
                yield f"| `{service.name}.{method.name}` | {takes} | {answers} | {rule.value} |"


def scripts() -> Iterator[str]:
    """Every script, and how much one call of it does at most, as its head says."""
    yield "| script | one call does at most |"
    yield "| --- | --- |"
    for file in sorted((DOCS.parent / "src/delaybox/store/scripts").glob("*.lua")):
        head = re.search(r"^-- BOUND (.*(?:\n--       .*)*)", file.read_text(), re.MULTILINE)
        bound = " ".join(part.strip("- ") for part in head[1].splitlines()) if head else "none"
        yield f"| `{file.stem}` | {bound.replace('|', '/')} |"


def exit_codes() -> Iterator[str]:
    """Every exit code of the command line."""
    yield "| code | means |"
    yield "| --- | --- |"
    for code, text in MEANINGS.items():
        yield f"| {code.value} | {text} |"


EVERYWHERE = {"server", "token", "as_json", "help"}
"""Options told once, above the commands, where they mean what is said there."""
OWN = {("delaybox worker", "server"), ("delaybox worker", "token")}
"""Options of the same name that mean something else."""


def commands() -> Iterator[str]:
    """Every command of the command line with its arguments and options."""
    yield from _group(typer.main.get_command(cli), "delaybox")


def _group(group: Any, path: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        full = f"{path} {name}"
        if hasattr(command, "commands"):
            yield from _group(command, full)
            continue
        arguments = [param for param in command.params if param.opts[0][0] != "-"]
        yield f"### `{' '.join([full, *(param.metavar for param in arguments)])}`"
        yield ""
        yield " ".join(command.help.split())
        yield ""
        rows = [param for param in command.params if param.name not in EVERYWHERE or (full, param.name) in OWN]
        if not rows:
            continue
        yield "| option | |"
        yield "| --- | --- |"
        for param in rows:
            text = " ".join((param.help or "").split()).replace("|", "\\|")
            yield f"| {_spelled(param)} | {text}{_unless_given(param)} |"
        yield ""


def _spelled(param: Any) -> str:
    if param.opts[0][0] != "-":
        return f"`{param.metavar}`"
    kind = param.type_descriptor.annotation
    value = (param.metavar or "").replace("|", "\\|") or {bool: "", int: "NUMBER", float: "NUMBER"}.get(kind, "TEXT")
    if isinstance(kind, type) and issubclass(kind, Enum):
        value = "\\|".join(choice.value for choice in kind)
    elif isinstance(kind, type) and issubclass(kind, Path) and not param.metavar:
        value = "PATH"
    names = (*param.opts, *param.secondary_opts)
    return ", ".join(f"`{name}`" for name in names) + (f" `{value}`" if value else "")


def _unless_given(param: Any) -> str:
    default = param.default
    return (
        f" Default: {default:g}."
        if isinstance(default, int | float) and not isinstance(default, bool) and default
        else ""
    )


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "configuration": configuration,
    "metrics": metrics_table,
    "worker_metrics": worker_metrics_table,
    "fsck": fsck_table,
    "policy": policy_table,
    "grpc": grpc_table,
    "exit_codes": exit_codes,
    "commands": commands,
    "scripts": scripts,
}


def main(arguments: list[str]) -> int:
    used: set[str] = set()

    def fill(match: re.Match[str]) -> str:
        used.add(match[2])
        return match[1] + "\n".join(TABLES[match[2]]()) + match[3]

    stale: list[str] = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text()
        current = _BLOCK.sub(fill, text)
        if current != text:
            stale.append(page.name)
            if "--check" not in arguments:
                page.write_text(current)
    if missing := TABLES.keys() - used:
        raise SystemExit(f"no page in docs/ has a place for: {', '.join(sorted(missing))}")
    if stale and "--check" in arguments:
        print(f"docs/ does not match the code ({', '.join(stale)}): run `make docs` and commit it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
