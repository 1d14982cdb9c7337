"""What configuration keeps to itself: secrets in mistakes, variables of other programs, text that explodes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from delaybox.config import load
from delaybox.config.load import ORIGINAL_KEYS
from tests.configurations import elsewhere, refused, written

__all__ = ["elsewhere"]


@pytest.mark.parametrize(
    "name",
    ["APP_REDIS", "APP_HOST", "APP_ROLES", "APP_INSECURE", "APP_HTTP_PORT", "APP_DATA_DIR", "APP_ENABLE_SHELL",
     "APP_LEASE", "APP_PARTITIONS", "APP_LOG_FORMAT", "APP_HTTP_SERVER_PORT", "APP_http_server_port", "APP_REDIS_HOST"],
)  # fmt: skip
def test_another_programs_variables_under_app_are_not_ours(name: str) -> None:
    assert load(environ={name: "x"}) == load(environ={})


@pytest.mark.parametrize("key", ORIGINAL_KEYS)
def test_the_originals_keys_are_read_under_app_as_it_reads_them(key: str) -> None:
    values = {"frequency": "7", "workerEnable": "false", "httpServer.port": "9", "httpServer.mode": "debug",
              "storage.redisDb": "3", "kafka.enabled": "false", "kafka.saslEnabled": "true", "kafka.tlsEnable": "true",
              "kafka.saslMechanism": "PLAIN"}  # fmt: skip
    value = values.get(key, "some-name")
    by_flag = load(flags={key: value}).config
    assert by_flag != load(environ={}).config or key in ("kafka.enabled", "kafka.saslMechanism")
    for name in (f"APP_{key.upper()}", f"APP_{key.upper().replace('.', '_')}"):
        loaded = load(environ={name: value})
        assert loaded.config == by_flag and not loaded.warnings


def test_a_key_of_ours_under_app_is_not_read_and_that_is_said() -> None:
    (message,) = load(environ={"APP_AUTH_TOKENS": "a" * 20}).warnings
    assert message.startswith(
        "APP_AUTH_TOKENS in the environment is ignored: under APP_ only the original's keys are read"
    )
    assert message.endswith("name it DELAYBOX_AUTH_TOKENS")


@pytest.mark.parametrize(
    "text",
    [
        "kafka: {properties: [sasl.password, Hunter2]}",
        "kafka: {properties: Hunter2}",
        'kafka: {properties: \'{"sasl.password": "Hunter2"\'}',
        f"kafka: {{properties: '{'[' * 100_000}Hunter2'}}",
        "kafka: {enabled: true, brokers: 'u:Hunter2@broker'}",
        "kafka: {oauthTokenUrl: 'u:Hunter2@idp'}",
        "workers: {shell: {commands: {a: {path: x, args: [Hunter2]}}}}",
        "workers: {shell: {signingKeys: Hunter2}}",
        "storage: {redisHost: 'u:Hunter2@h'}",
        "storage: {redisHost: 'u:Hunter2@h:x'}",
        "storage: {redisHost: 'Hunter2@h:6379'}",
        "storage: {redisUrl: 'u:Hunter2@h'}",
        "storage: {redisUrl: 'Hunter2:x@h'}",
        "storage: {redisUrl: 'redis://:Hunter2/x@h:6379'}",
        "storage: {redisUrl: 'redis://:1?Hunter2@h'}",
        "storage: {redisUrl: 'redis://u:1/Hunter2@h'}",
        "storage: {redisUrl: 'redis://:1#Hunter2@h'}",
        "storage: {redisPass: *Hunter2}",
        "storage: {redisPass: !Hunter2!x}",
        "storage: {redisPass: &Hunter2}\nx: &Hunter2 [&Hunter2 b, *Hunter2 c",
        "storage:\n  redisPass: %Hunter2: x: y",
        'storage: {redisPass: "Hunter2\\q"}',
        "auth: {tokens: [*Hunter2]}",
    ],
)
def test_no_mistake_prints_a_secret(text: str) -> None:
    message = refused(path=written(text))
    assert "hunter2" not in message.lower()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "with its aliases (*name) written out it has over 50000 values"),
        ("a: &a [*a]", "line 1 is not valid YAML: an alias (*name) stands inside what it names"),
        ("[" * 500_000, "it is nested over 64 deep"),
        ("a: " + "[" * 100 + "]" * 100, "it is nested over 64 deep"),
        ("a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(100)), "it is nested over 64 deep"),
        ("#" * (2 << 20), "it has over 1 MiB"),
    ],
)
def test_what_explodes_is_refused_before_it_does(text: str, words: str) -> None:
    assert words in refused(path=written(text))
    written(f"- x\n{text}", "many")
    assert refused(path=written("auth: {tokensFile: many}")).startswith("auth.tokensFile")


def test_aliases_that_are_used_as_meant_still_work() -> None:
    text = "kafka: {brokers: &b 'b:1', group: g}\nresults: {queues: {a: &d 1h, b: *d}}"
    assert load(path=written(text), environ={}).config.results.queues == {"a": 3_600_000, "b": 3_600_000}


def test_a_secret_on_the_command_line_is_warned_about() -> None:
    (message,) = load(environ={}, flags={"storage.redisUrl": "redis://:hunter2@h"}).warnings
    assert message.startswith("storage.redisUrl (flag --redis) holds a secret") and "hunter2" not in message
    assert message.endswith("DELAYBOX_STORAGE_REDIS_URL")
    for quiet in ({"storage.redisUrl": "redis://h"}, {"kafka.properties": '{"client.rack": "a"}'}, {}):
        assert load(environ={"REDIS_PASS": "hunter2"}, flags=quiet).warnings == ()
