"""What a configuration says, where it may say it, and how its mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from delaybox.api.rest.settings import ApiSettings
from delaybox.config import FLAGS, Config, load
from delaybox.core.errors import ConfigError
from delaybox.core.limits import BY_SERVER
from delaybox.processes.settings import decode, encode
from delaybox.store.address import ServerSettings
from tests.configurations import elsewhere, refused, written

__all__ = ["elsewhere"]

ORIGINAL = """
frequency: 100
workerEnable: ${WORKERS}
httpServer:
  port: 8089
  mode: debug
  contextPath: /api/
storage:
  redisHost: redis.internal:6380
  redisPass: ${SOME_PASS}
  redisDb: 2
  schedulerChanel: In
  taskExecutionChanel: Out
  schedulerKeyName: pending
kafka:
  enabled: false
  brokers: ${BROKERS}
  group: scheduler
  schedulerTopic: Scheduler
  taskExecutionTopic: TaskExecution
  saslEnabled: false
  saslUser:
  saslPassword:
  saslMechanism:
  tlsEnable: false
"""


BY_TOPIC = "kafka: {enabled: true, brokers: 'b:1'}\nworkers: {shell: {via: topic"


def test_nothing_configured_is_a_loopback_node_with_the_embedded_server() -> None:
    loaded = load(environ={})
    config = loaded.config
    assert loaded.path is None
    assert loaded.warnings == ()
    assert config.server() is None
    assert (config.http_server.host, config.http_server.port, config.http_server.context_path) == (
        "127.0.0.1",
        8088,
        "",
    )
    assert (config.lease_ms, config.heartbeat_ms, config.new_partitions) == (15_000, 5_000, BY_SERVER)
    assert config.limits.body == 1 << 20
    assert config.storage.task_execution_chanel == "TaskExecution"
    assert config.pubsub.fire_in_place
    assert config.worker_enable
    assert not config.exposed
    assert config.data_folder.is_absolute()


def test_the_originals_file_works_unchanged() -> None:
    loaded = load(path=written(ORIGINAL), environ={"SOME_PASS": "p w"})
    config = loaded.config
    assert loaded.warnings == ()
    assert config.frequency_ms == 100
    assert config.worker_enable, "an unset variable is no value"
    assert (config.http_server.port, config.http_server.mode, config.http_server.context_path) == (
        8089,
        "debug",
        "/api",
    )
    assert config.server() == ServerSettings(host="redis.internal", port=6380, db=2, password="p w")
    assert config.storage.scheduler_chanel == "In"
    assert config.storage.task_execution_chanel == "Out"
    assert config.storage.scheduler_key_name == "pending"


def test_case_and_underscores_in_keys_do_not_matter() -> None:
    path = written("HTTPSERVER: {PORT: 1}\nstorage: {redis_host: h}\npubsub: {fire_in_place: false}\ndata-dir: d\n")
    config = load(path=path, environ={}).config
    assert config.http_server.port == 1
    assert config.server() == ServerSettings(host="h")
    assert not config.pubsub.fire_in_place
    assert config.data_folder == Path("d").absolute()


def test_the_default_file_is_read_where_there_is_one() -> None:
    written("httpServer: {port: 7}", "config/config.yaml")
    assert load(environ={}).config.http_server.port == 7


@pytest.mark.parametrize("named", ["other/config.yaml", "other"])
def test_app_conf_path_names_the_file_or_its_folder(named: str) -> None:
    written("httpServer: {port: 7}", "config/config.yaml")
    written("httpServer: {port: 8}", "other/config.yaml")
    assert load(environ={"APP_CONF_PATH": named}).config.http_server.port == 8


def test_a_named_file_must_exist() -> None:
    assert "nowhere.yaml (named by --config)" in refused(path=Path("nowhere.yaml"))
    assert "APP_CONF_PATH" in refused(environ={"APP_CONF_PATH": "nowhere.yaml"})


@pytest.mark.parametrize(
    ("environ", "port"),
    [
        ({}, 1),
        ({"APP_HTTPSERVER_PORT": "2"}, 2),
        ({"APP_HTTPSERVER_PORT": "2", "DELAYBOX_HTTPSERVER_PORT": "3"}, 3),
        ({"DELAYBOX_HTTP_PORT": "4"}, 4),
        ({"DELAYBOX_HTTP_SERVER_PORT": "5"}, 5),
        ({"APP_HTTPSERVER_PORT": ""}, 1),
    ],
)
def test_environment_over_file(environ: dict[str, str], port: int) -> None:
    assert load(path=written("httpServer: {port: 1}"), environ=environ).config.http_server.port == port


def test_flags_over_environment() -> None:
    environ = {"DELAYBOX_HTTP_PORT": "4", "REDIS_HOST": "other:1"}
    flags = {"httpServer.port": 5, "storage.redisUrl": "rediss://me:pw@h:2/3", "httpServer.host": None}
    config = load(path=written("storage: {redisHost: third}"), environ=environ, flags=flags).config
    assert config.http_server.port == 5
    assert config.server() == ServerSettings(host="h", port=2, db=3, username="me", password="pw", tls=True)


def test_the_originals_variables() -> None:
    environ = {
        "SERVER_CONTEXT_PATH": "x",
        "REDIS_HOST": "r:1",
        "REDIS_PASS": "0123",
        "WORKER_ENABLE": "false",
        "BROKERS": "b:9092",
    }
    config = load(environ=environ).config
    assert config.http_server.context_path == "/x"
    assert config.server() == ServerSettings(host="r", port=1, password="0123")
    assert not config.worker_enable
    assert config.kafka.brokers == ("b:9092",)


def test_how_to_reach_kafka() -> None:
    path = written(
        "kafka: {enabled: true, brokers: 'a:1, b:2', saslEnabled: true, saslUser: me, saslPassword: 0123,"
        " saslMechanism: scram-sha-512, tlsEnable: true, caFile: ca.pem, properties: {client.rack: r1}}"
    )
    kafka = load(path=path, environ={}).config.kafka.settings()
    assert kafka is not None
    assert "0123" not in repr(kafka)
    found = kafka.client()
    assert found["bootstrap.servers"] == "a:1,b:2"
    assert found["security.protocol"] == "SASL_SSL"
    assert (found["sasl.mechanism"], found["sasl.username"], found["sasl.password"]) == ("SCRAM-SHA-512", "me", "0123")
    assert (found["ssl.ca.location"], found["client.rack"]) == ("ca.pem", "r1")
    assert load(path=written("kafka: {brokers: 'a:1'}"), environ={}).config.kafka.settings() is None


def test_the_louder_of_url_and_host_counts() -> None:
    path = written("storage: {redisUrl: 'redis://file:1', redisPass: secret}")
    assert load(path=path, environ={}).config.server() == ServerSettings(host="file", port=1, password="secret")
    found = load(path=path, environ={"REDIS_HOST": "env"}).config.server()
    assert found is not None
    assert found.host == "env"
    assert "keep one" in refused(path=written("storage: {redisUrl: 'redis://a', redisHost: b}"))


def test_a_redis_host_may_be_a_url() -> None:
    config = load(environ={"REDIS_HOST": "redis://:hunter2@h:1/2"}).config
    assert config.server() == ServerSettings(host="h", port=1, db=2, password="hunter2")
    assert "hunter2" not in repr(config)


def test_yaml_does_not_change_what_was_written() -> None:
    # YAML itself would read 83 and True here.
    config = load(path=written("storage: {redisPass: 0123, prefix: yes}"), environ={}).config
    assert config.storage.redis_pass is not None
    assert config.storage.redis_pass.get_secret_value() == "0123"
    assert config.storage.prefix == "yes"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("httpServer: {port: abc}", "httpServer.port (config.yaml) is 'abc'; it must be a port"),
        ("httpServer: {port: 70000}", "httpServer.port (config.yaml) is '70000'; it must be a port"),
        ("httpServer: {contextPath: 'a b'}", "httpServer.contextPath (config.yaml) is 'a b'; it must be a path"),
        ("httpServer: {mode: fast}", "it must be debug, release or test"),
        ("workerEnable: perhaps", "workerEnable (config.yaml) is 'perhaps'; it must be true or false"),
        ("partitions: 12", "partitions (config.yaml) is '12'; it must be a power of two"),
        ("lease: 15", "lease (config.yaml) is '15'; it must be a duration with its unit"),
        ("lease: 4s", "heartbeat (5000 ms) must be at most half the lease (4000 ms)"),
        ("frequency: 0", "frequency (config.yaml) is '0'; it must be milliseconds (1 or more)"),
        ("limits: {body: lots}", "limits.body (config.yaml) is 'lots'; it must be a size such as 1MiB"),
        ("storage: {prefix: 'a{b}'}", "storage.prefix (config.yaml) is 'a{b}'; it must be 1 to 64 letters"),
        ("storage: {redisDb: x}", "storage.redisDb (config.yaml) is 'x'; it must be a database number"),
        ("storage: {redisHost: 'h:port'}", "storage.redisHost (config.yaml): bad server address 'h:port'"),
        ("storage: {redisUrl: 'http://h'}", "storage.redisUrl (config.yaml): the server's URL starts with 'http'"),
        ("logFormat: xml", "logFormat (config.yaml) is 'xml'; it must be text or json"),
        ("httpServer: 8088", "httpServer in config.yaml must be a section with keys under it: httpServer.host"),
        ("workerEnable: [a]", "workerEnable (config.yaml)"),
        ("frequency: 1\nFrequency: 2", "frequency stands twice in config.yaml"),
        ("frequency: 1\nlease: 15s\nfrequency: 2", "line 3 is not valid YAML: a key above it in the same section has"),
        ("grpcServer: {port: 8088}", "httpServer.port and grpcServer.port are both 8088; give each a port of its own"),
        ("probe: {port: 9088}", "grpcServer.port and probe.port are both 9088"),
        (
            "queues: {mail: {timeot: 1s}}",
            "queues (config.yaml) cannot be used: mail: 'timeot' is not a rule of a queue; did",
        ),
        (
            "queues: {mail: {timeout: -1s}}",
            "queues (config.yaml) cannot be used: mail: timeout '-1s' is negative; give",
        ),
        ("queues: {Mail: {timeout: 1s}}", "queues (config.yaml) cannot be used: queue 'Mail' is not a queue name; use"),
        ("queues: {mail: 5}", "queues (config.yaml) cannot be used: mail has no rules; write them as {timeout: 30s}"),
        ("- a\n- b", "must hold keys and values"),
        ("a: [", "line 1 is not valid YAML"),
        ("kafka: {enabled: true}", "kafka.enabled (config.yaml) is true, but kafka.brokers is not set; give host:port"),
        ("kafka: {enabled: true, brokers: 'a:1,b'}", "kafka.brokers holds 'b'; each must be host:port"),
        ("kafka: {enabled: true, brokers: 'a:²'}", "kafka.brokers holds 'a:²'; each must be host:port"),
        (
            "kafka: {enabled: true, brokers: 'b:1', saslEnabled: true, saslUser: me}",
            "the mechanism is PLAIN, which needs kafka.saslUser and kafka.saslPassword; set both",
        ),
        (
            "kafka: {enabled: true, brokers: 'b:1', saslEnabled: true, saslMechanism: OAUTHBEARER}",
            "needs kafka.oauthTokenUrl, kafka.oauthClientId and kafka.oauthClientSecret",
        ),
        ("kafka: {enabled: true, brokers: 'b:1', caFile: ca.pem}", "set kafka.tlsEnable: true"),
        ("kafka: {enabled: true, brokers: 'b:1', tlsEnable: true, keyFile: k.pem}", "without kafka.certFile"),
        ("kafka: {saslMechanism: KERBEROS}", "it must be PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"),
        ("kafka: {value: json}", "kafka.value (config.yaml) is 'json'; it must be task or payload"),
        ("kafka: {taskExecutionTopic: 'a b'}", "it must be a topic's name"),
        ("httpServer: {host: 0.0.0.0}", "Set auth.tokens, or give --insecure"),
        (
            "auth: {tokens: [short]}",
            "auth.tokens (config.yaml) entry 1 is shorter than 16 characters; `delaybox token` makes",
        ),
        (
            "auth: {tokens: [{name: ci, token: 0123456789abcdef, expires: 2030-01-31}]}",
            "entry 1 (ci): expires '2030-01-31' is not a moment; give RFC 3339 with an offset",
        ),
        (
            f"{BY_TOPIC}}}}}",
            "but there is no key to tell commands by: whoever may write to the topic could run commands",
        ),
        (
            f"{BY_TOPIC}, signingKeys: [{'x' * 31}]}}}}",
            "(config.yaml) has a value that cannot be used; it must be a list",
        ),
        (
            f"{BY_TOPIC}, signingKeysFile: no/such}}}}",
            "names no/such, which cannot be read (No such file or directory)",
        ),
        (f"index: {{labels: [{', '.join(f'l{n}' for n in range(17))}]}}", "up to 16 names of labels"),
        ("auth: {tokens: ['sha256:zzzzzzzzzzzz']}", "entry 1 starts with sha256: but has not 64 hex digits after it"),
    ],
)
def test_mistakes_name_key_place_value_and_mend(text: str, words: str) -> None:
    assert words in refused(path=written(text))


@pytest.mark.parametrize("roles", ["api", "work", "api,work"])
def test_only_nodes_that_send_or_take_commands_by_topic_need_a_key(roles: str) -> None:
    # A node with `work` alone runs none here: shell commands are off.
    load(path=written(f"roles: {roles}\n{BY_TOPIC}}}}}"), environ={})
    load(path=written(f"{BY_TOPIC}, enabled: true, acceptUnsigned: true}}}}"), environ={})


def test_signing_keys_from_a_file_stand_behind_the_others_and_show_nowhere() -> None:
    file = written(f"# the old one\n{'b' * 40}\n\n", "keys")
    text = f"{BY_TOPIC}, signingKeys: {'a' * 32}, signingKeysFile: {file}}}}}"
    config = load(path=written(text), environ={}).config
    assert config.workers.shell.keys == ("a" * 32, "b" * 40)
    assert "aaa" not in repr(config) and "bbb" not in repr(config)
    environ = {"DELAYBOX_WORKERS_SHELL_SIGNING_KEYS": "c" * 32}
    assert load(path=written(f"{BY_TOPIC}}}}}"), environ=environ).config.workers.shell.keys == ("c" * 32,)
    assert "bbb" not in refused(path=written(f"{BY_TOPIC}, signingKeys: [{'b' * 20}]}}}}"))


def test_every_mistake_is_told_at_once() -> None:
    message = refused(environ={"DELAYBOX_HTTP_PORT": "x"}, flags={"logFormat": "y"}).splitlines()
    port, log_format = message
    assert port.startswith("httpServer.port (environment DELAYBOX_HTTP_PORT) is 'x'; it must be a port")
    assert log_format == "logFormat (flag --log-format) is 'y'; it must be text or json"


def test_secrets_show_neither_in_errors_nor_in_repr() -> None:
    message = refused(
        path=written("auth: {tokens: [hunter2]}\nstorage: {redisPass: [hunter2]}"),
        environ={"DELAYBOX_REDIS": "redis://:hunter2@h:x"},
    )
    assert "hunter2" not in message
    message = refused(environ={"DELAYBOX_REDIS": "redis://:hunter2@h:x"})
    assert "storage.redisUrl (environment DELAYBOX_REDIS)" in message
    assert "hunter2" not in message
    config = load(
        environ={"REDIS_PASS": "hunter2", "DELAYBOX_REDIS": "redis://h", "DELAYBOX_AUTH_TOKENS": "h" * 16}
    ).config
    assert "hunter2" not in repr(config) + repr(config.server())
    assert "hhhh" not in repr(config)


@pytest.mark.parametrize(
    ("text", "environ", "warning"),
    [
        ("storage: {redisHots: a}", {}, "storage.redisHots in config.yaml is ignored; did you mean storage.redisHost?"),
        ("qqqq: 1", {}, "unknown key qqqq in config.yaml is ignored"),
        ("", {"DELAYBOX_LOG_FROMAT": "x"}, "did you mean DELAYBOX_LOG_FORMAT?"),
    ],
)
def test_unknown_keys_are_warned_about_with_the_nearest(text: str, environ: dict[str, str], warning: str) -> None:
    (message,) = load(path=written(text), environ=environ).warnings
    assert warning in message


def test_a_burst_without_a_rate_is_warned_about() -> None:
    """It limits nothing. It is not refused, because a node that has it may have run for years."""
    text = "queues: {a: {burst: 5}, b: {burst: 5, rate: 9/s}, c: {burst: 5, resume_rate: 9/s}}"
    loaded = load(path=written(text), environ={})
    (message,) = loaded.warnings
    assert message.startswith("queues (") and "a: burst 5 has no rate, so it limits nothing; give a rate" in message
    assert loaded.config.queues["a"].burst == 5
    for rest in ("'*': {rate: 9/s}, a: {burst: 5}", "'*': {burst: 5}, a: {rate: 9/s}"):
        assert load(path=written(f"queues: {{{rest}}}"), environ={}).warnings == ()


def test_other_peoples_variables_are_left_alone() -> None:
    environ = {
        "APP_NAME": "x",
        "DELAYBOX_TEST_SERVER": "redis-server",
        "DELAYBOX_SERVICE_HOST": "10.0.0.1",
        "DELAYBOX_PORT": "tcp://10.0.0.1:8088",
        "DELAYBOX_HTTP_PORT": "tcp://10.0.0.1:8088",
        "DELAYBOX_PORT_8088_TCP_ADDR": "10.0.0.1",
        # Of workers and of KEDA: the image and the chart set them where nodes run.
        "DELAYBOX_WORKER_REDIS": "redis://h",
        "DELAYBOX_WORKER_METRICS_PORT": "8090",
        "DELAYBOX_WORKER_METRICS_HOST": "0.0.0.0",
        "DELAYBOX_SCALER_TOKEN": "secret",
    }
    loaded = load(environ=environ)
    assert loaded.warnings == ()
    assert loaded.config == Config()


@pytest.mark.parametrize(
    ("host", "exposed"),
    [
        *((host, False) for host in ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]")),
        *((host, True) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.evil.example")),
    ],
)
@pytest.mark.parametrize("key", ["httpServer.host", "grpcServer.host"])
def test_only_loopback_needs_no_credential(host: str, exposed: bool, key: str) -> None:
    flags = {key: host}
    if exposed:
        assert "--insecure" in refused(flags=flags)
    wanted = (key,) if exposed else ()
    assert load(environ={}, flags={**flags, "insecure": True}).config.exposed == wanted
    assert load(environ={"DELAYBOX_AUTH_TOKENS": "a" * 16}, flags=flags).config.exposed == wanted


@pytest.mark.parametrize(("text", "ms"), [("15s", 15_000), ("1500ms", 1_500), ("2m", 120_000), ("1.5 s", 1_500)])
def test_durations(text: str, ms: int) -> None:
    assert load(environ={}, flags={"lease": text, "heartbeat": "500ms"}).config.lease_ms == ms


@pytest.mark.parametrize(("text", "size"), [("1MiB", 1 << 20), ("64 KiB", 1 << 16), ("1mb", 10**6), ("77", 77)])
def test_sizes(text: str, size: int) -> None:
    assert load(environ={}, flags={"limits.body": text}).config.limits.body == size


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("results: {keep: 1h, queues: {reports: 1d, mail: 0s}}", {}),
        ("", {"DELAYBOX_RESULTS_KEEP": "1h", "DELAYBOX_RESULTS_QUEUES": '{"reports": "24h", "mail": "0s"}'}),
    ],
)
def test_how_long_results_are_kept(text: str, environ: dict[str, str]) -> None:
    found = load(path=written(text), environ=environ).config.results
    rules = found.rules()
    kept = [rules.of(queue).keep_result_ms for queue in ("default", "reports", "mail")]
    assert kept == [3_600_000, 86_400_000, 0]
    assert decode(ApiSettings, encode(ApiSettings(queues=rules))).queues == rules, "as the API's processes get them"
    assert found.max_bytes == 64 << 10


@pytest.mark.parametrize("queues", ["{Reports: 1d}", "{reports: 1}", "[reports]", "{reports: soon}"])
def test_queues_of_results_are_checked(queues: str) -> None:
    assert "results.queues" in (message := refused(path=written(f"results: {{queues: {queues}}}"))) and "1d" in message


def test_an_unknown_key_in_a_flag_is_an_error() -> None:
    assert "did you mean storage.prefix?" in refused(flags={"storage.prefx": "a"})


def test_every_flag_is_a_key() -> None:
    load(environ={}, flags=dict.fromkeys(FLAGS))
    assert all("unknown" not in refused(flags={key: "\x00 nonsense"}) for key in FLAGS if key != "dataDir")


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://", ServerSettings()),
        ("redis://h", ServerSettings(host="h")),
        ("redis://h:1/2", ServerSettings(host="h", port=1, db=2)),
        ("redis://h?db=3", ServerSettings(host="h", db=3)),
        ("redis://u:p%40@h", ServerSettings(host="h", username="u", password="p@")),
        ("redis://[::1]:7", ServerSettings(host="::1", port=7)),
        ("unix:///a/b.sock", ServerSettings(unix_path="/a/b.sock")),
        ("unix://:p@/a/b.sock?db=4", ServerSettings(unix_path="/a/b.sock", db=4, password="p")),
    ],
)
def test_server_urls(url: str, found: ServerSettings) -> None:
    assert ServerSettings.from_url(url) == found


@pytest.mark.parametrize("url", ["", "h:1", "http://h", "redis://h:x", "redis://h/x", "redis://h?nodb=1", "unix://a/b"])
def test_bad_server_urls(url: str) -> None:
    with pytest.raises(ConfigError, match=r"redis://|unix:///|must be a number"):
        ServerSettings.from_url(url)


def test_a_described_server_has_no_password() -> None:
    settings = ServerSettings.from_url("rediss://u:hunter2@h:1/2")
    assert settings.describe() == "h:1 (TLS), db 2"
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("environ", "duties"),
    [
        ({}, ("api", "clock", "work")),
        ({"WORKER_ENABLE": "false"}, ("api", "clock")),
        ({"DELAYBOX_ROLES": "work,api"}, ("api", "work")),
        ({"DELAYBOX_ROLES": "api, work", "WORKER_ENABLE": "false"}, ("api",)),
    ],
)
def test_roles(environ: dict[str, str], duties: tuple[str, ...]) -> None:
    assert load(environ=environ).config.duties == duties


def test_roles_that_leave_nothing_to_do_are_refused() -> None:
    assert "nothing is left to do" in refused(environ={"DELAYBOX_ROLES": "work", "WORKER_ENABLE": "false"})
    message = refused(flags={"roles": "api,worker"})
    assert (
        message
        == "roles (flag --roles) is 'api,worker'; it must be some of api, clock and work, with commas between" + " them"
    )


def test_only_a_node_that_serves_rest_needs_credentials() -> None:
    load(environ={"DELAYBOX_ROLES": "clock,work"}, flags={"httpServer.host": "0.0.0.0"})


@pytest.mark.parametrize("roles", ["api,clock", "clock"])
def test_a_dashboard_that_others_can_reach_asks_for_tokens(roles: str) -> None:
    environ = {"DELAYBOX_DASHBOARD_HOST": "0.0.0.0", "DELAYBOX_DASHBOARD_PORT": "8090", "DELAYBOX_ROLES": roles}
    with pytest.raises(ConfigError, match=r"dashboard\.host .*without a credential"):
        load(environ=environ)
    assert load(environ={**environ, "DELAYBOX_DASHBOARD_ENABLED": "false"}).config.exposed == ()
    assert load(environ={**environ, "DELAYBOX_AUTH_TOKENS": "a-token-of-the-tests"}).config.dashboard.port == 8090


def test_the_url_of_events_has_rules_of_its_own() -> None:
    text = "webhooks: {enabled: true, allow: ops.internal}\nevents: {webhook: {url: "
    for url, why in (
        ("http://127.0.0.1:80/x", "add it to events.webhook.allow"),
        ("http://localhost/x", "add localhost to events.webhook.allow"),
        ("http://10.1.2.3/x", "10.1.2.3"),
        ("ops/x", "has no scheme"),
        ("https://u:p@ops.example.org/x", "names a user or password"),
        ("https://ops.example.org/#x", "has a fragment"),
    ):
        message = refused(path=written(f"{text}'{url}'}}}}"))
        assert "events.webhook.url (" in message and why in message
    refused_kind = refused(path=written(f"{text}https://ops.example.org/x, kinds: [dead, alive]}}}}"))
    assert "events.webhook.kinds" in refused_kind and "retried" in refused_kind
    # No task can be in a queue of that name, so nothing would ever be sent.
    assert "events.webhook.queue" in refused(path=written(f"{text}https://ops.example.org/x, queue: Mail}}}}"))
    found = load(
        path=written(f"{text}'https://10.1.2.3:8443/x', allow: 10.0.0.0/8, kinds: 'dead,retried'}}}}"), environ={}
    )
    assert found.config.events.webhook.kinds == ("dead", "retried")
