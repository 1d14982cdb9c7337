"""From file, environment and flags to one checked `Config`.

The Go original's config.yaml and variable names work unchanged. Order: flags, environment, file, defaults. In a file
and in variable names neither case nor ``_`` and ``-`` matter. Every error names the key, where it was set, the value
(never a secret's) and the mend.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from delaybox.config import tokens, yamltext
from delaybox.config.model import Config
from delaybox.config.queues import bursts_without_rate
from delaybox.config.sections import Mistake, split
from delaybox.core.errors import ConfigError
from delaybox.store.address import without_credentials

DEFAULT_FILE = Path("config/config.yaml")
FILE_VARIABLE = "APP_CONF_PATH"

ORIGINAL_VARIABLES = {
    "SERVER_CONTEXT_PATH": "httpServer.contextPath",
    "REDIS_HOST": "storage.redisHost",
    "REDIS_PASS": "storage.redisPass",
    "BROKERS": "kafka.brokers",
    "WORKER_ENABLE": "workerEnable",
}
FLAGS = {
    "storage.redisUrl": "--redis",
    "httpServer.host": "--host",
    "httpServer.port": "--http-port",
    "grpcServer.port": "--grpc-port",
    "roles": "--roles",
    "dataDir": "--data-dir",
    "logFormat": "--log-format",
    "insecure": "--insecure",
    "workers.shell.enabled": "--enable-shell",
}
"""Keys that `delaybox serve` has a flag of its own for; each is also ``DELAYBOX_<FLAG>``."""

ORIGINAL_KEYS = (
    "frequency",
    "workerEnable",
    *(f"httpServer.{name}" for name in ("port", "mode", "contextPath")),
    *(
        f"storage.{name}"
        for name in ("redisHost", "redisPass", "redisDb", "schedulerChanel", "taskExecutionChanel", "schedulerKeyName")
    ),
    *(
        f"kafka.{name}"
        for name in (
            *("enabled", "brokers", "group", "schedulerTopic", "taskExecutionTopic"),
            *("saslEnabled", "saslUser", "saslPassword", "saslMechanism", "tlsEnable"),
        )
    ),
)
"""The keys of the original's config.yaml. Each is also ``APP_<KEY>``, as the original reads it: ``APP_FREQUENCY``,
``APP_HTTPSERVER.PORT``, or ``APP_HTTPSERVER_PORT`` where a name cannot have a dot. Other programs use APP_ as well, so
keys that are new in DelayBox are read only with DELAYBOX_ in front."""

# These are no keys: variables of the command line, of workers (the image has them for both), of KEDA, of commands that
# a node runs, of tests, and of Kubernetes (some for every service named delaybox).
_FOREIGN_VARIABLE = re.compile(
    r"DELAYBOX_((CONFIG|SERVER|GRPC_SERVERS|TOKEN|TASK_ID|ATTEMPT|FENCING)$|TEST_|FAULTS|FAILPOINTS|"
    r"(WORKER_(REDIS|METRICS_PORT|METRICS_HOST)|SCALER_TOKEN)$|"
    r"(.*_)?(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP)))"
)
_FLAG_RANK = 9
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checked configuration, warnings (one line each), and the file it came from."""

    config: Config
    warnings: tuple[str, ...]
    path: Path | None


@dataclass(frozen=True, slots=True)
class _Setting:
    """A value and where it was set. A higher ``rank`` wins."""

    value: object
    place: str
    rank: int


def load(
    *,
    path: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, object] | None = None,
) -> Loaded:
    """Read the file (``path``, else APP_CONF_PATH, else ./config/config.yaml if there is one), environment and flags.

    ``flags``: key as in the file ("httpServer.port") → value; None means not given. ConfigError names every mistake.
    """
    settings: dict[str, _Setting] = {}
    unknown: list[tuple[str, str]] = []
    file = _file(path, environ)
    found = [] if file is None else list(_from_file(file, environ))
    found += _from_environment(environ)
    found += [
        (key, _Setting(value, f"flag {FLAGS.get(key, '--set')}", _FLAG_RANK)) for key, value in (flags or {}).items()
    ]
    for given, setting in found:
        if setting.value in (None, ""):
            continue
        if _plain(given) == "storage.redishost" and "://" in str(setting.value):
            given = "storage.redisUrl"
        key = _KEYS.get(_plain(given))
        if key is None and setting.rank == _FLAG_RANK:
            raise ConfigError(_strange(given, setting.place).replace(" is ignored", ""))
        if key is None:
            unknown.append((given, setting.place))
        elif key not in settings or settings[key].rank < setting.rank:
            settings[key] = setting
        elif settings[key].rank == setting.rank:
            raise ConfigError(f"{key} stands twice in {setting.place}; keep one")
    if section := next((given for given, _ in unknown if _plain(given) in _SECTIONS), None):
        place = dict(unknown)[section]
        keys = ", ".join(key for key in _KEYS.values() if _plain(key.partition(".")[0]) == _plain(section))
        raise ConfigError(f"{section} in {place} must be a section with keys under it: {keys}")
    _one_server(settings)
    _add_token_file(settings)
    _add_key_file(settings)
    config = _validated(settings)
    _refuse_what_cannot_run(config, settings)
    warnings = [_strange(given, place) for given, place in unknown]
    warnings += [_seen(key, setting) for key, setting in settings.items() if _stands_open(key, setting)]
    # Not refused, because a node that has them may have run for years.
    warnings += [f"queues ({settings['queues'].place}): {why}" for why in bursts_without_rate(config.queues)]
    return Loaded(config, tuple(warnings), file)


def _file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read. A named one must exist; the default one need not."""
    named, named_by = path, "--config"
    if named is None and (variable := environ.get("DELAYBOX_CONFIG") or environ.get(FILE_VARIABLE)):
        named, named_by = Path(variable), "environment DELAYBOX_CONFIG or APP_CONF_PATH"
    if named is None:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    named = named.expanduser()
    if named.is_dir():
        named /= "config.yaml"
    if not named.is_file():
        raise ConfigError(
            f"there is no configuration file {named} (named by {named_by}); correct the path or leave it out"
        )
    return named


def _from_file(path: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, _Setting]]:
    try:
        content = yamltext.read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}); make it readable or name another one") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except yamltext.YamlMistake as mistake:
        where = f" line {mistake.line}" if mistake.line else ""
        raise ConfigError(f"{path}{where} is not valid YAML: {mistake}; mend that line") from None
    if content in (None, ""):
        return
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values (key: value), not a {type(content).__name__}")
    for key, value in _leaves(content, ""):
        yield key, _Setting(_expanded(value, environ), str(path), 0)


def _leaves(section: Mapping[str, object], path: str) -> Iterator[tuple[str, object]]:
    for key, value in section.items():
        if isinstance(value, dict) and _plain(f"{path}{key}") not in _WHOLE:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _expanded(value: object, environ: Mapping[str, str]) -> object:
    if isinstance(value, list):
        return [_expanded(item, environ) for item in value]
    if isinstance(value, dict):
        return {key: _expanded(item, environ) for key, item in value.items()}
    if value in ("null", "~"):
        return None
    return _REFERENCE.sub(lambda match: environ.get(match[1], ""), value) if isinstance(value, str) else value


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, _Setting]]:
    """The variables that mean a key. Of several for one key, DELAYBOX_… wins over APP_… over the original's own."""
    for name, value in sorted(environ.items()):
        place = f"environment {name}"
        if key := ORIGINAL_VARIABLES.get(name):
            yield key, _Setting(value, place, 1)
        elif name.startswith("APP_"):
            if key := _APP_VARIABLES.get(name):
                yield key, _Setting(value, place, 2)
            elif name in _NEVER_APP and value:
                yield name, _Setting(value, "the environment", 2)
        elif name.startswith("DELAYBOX_") and not value.startswith(("tcp://", "udp://")):
            if key := _VARIABLES.get(_plain(name.removeprefix("DELAYBOX_"))):
                yield key, _Setting(value, place, 3)
            elif not _FOREIGN_VARIABLE.match(name):
                yield name, _Setting(value, "the environment", 3)


def _one_server(settings: dict[str, _Setting]) -> None:
    """Of redisUrl and redisHost the one from the stronger source counts."""
    url, host = settings.get("storage.redisUrl"), settings.get("storage.redisHost")
    if url is None or host is None:
        return
    if url.rank == host.rank:
        raise ConfigError(f"storage.redisUrl and storage.redisHost both stand in {url.place}; keep one")
    del settings["storage.redisUrl" if url.rank < host.rank else "storage.redisHost"]


def _add_token_file(settings: dict[str, _Setting]) -> None:
    """The tokens of auth.tokensFile stand behind those of auth.tokens from here on."""
    file = settings.get("auth.tokensFile")
    if file is None:
        return
    try:
        found = tokens.from_file(Path(str(file.value)))
        # Raised here, where it is known that the mistake is in the file.
        tokens.parse(found)
    except Mistake as mistake:
        raise ConfigError(f"auth.tokensFile ({file.place}) {mistake}") from None
    given = settings.get("auth.tokens", _Setting((), file.place, file.rank))
    with contextlib.suppress(Mistake):  # the validation reports it
        settings["auth.tokens"] = replace(given, value=[*tokens.parse(given.value), *found])


def _add_key_file(settings: dict[str, _Setting]) -> None:
    """The keys of workers.shell.signingKeysFile stand behind those of signingKeys from here on."""
    name = "workers.shell.signingKeys"
    file = settings.get(f"{name}File")
    if file is None:
        return
    path = Path(str(file.value)).expanduser()
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"{name}File ({file.place}) names {path}, which cannot be read ({why}); make it readable or name another"
        ) from None
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise ConfigError(f"{name}File ({file.place}) names {path}, which holds no key; put one a line into it")
    given = settings.get(name)
    keys = split(given.value) if given else []
    if isinstance(keys, list | tuple):  # else the validation reports it
        settings[name] = _Setting([*keys, *found], given.place if given else str(path), file.rank)


def _validated(settings: Mapping[str, _Setting]) -> Config:
    nested: dict[str, Any] = {}
    for key, setting in settings.items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = setting.value
    try:
        config = Config.model_validate(nested)
    except ValidationError as error:
        raise ConfigError("\n".join(dict.fromkeys(_words(dict(one), settings) for one in error.errors()))) from None
    try:
        config.server()
    except ConfigError as error:
        key = "storage.redisUrl" if "storage.redisUrl" in settings else "storage.redisHost"
        raise ConfigError(f"{key} ({settings[key].place}): {error}") from None
    try:
        config.kafka.settings()
    except ConfigError as error:
        raise ConfigError(f"kafka.enabled ({settings['kafka.enabled'].place}) is true, but {error}") from None
    if config.events.kafka_topic and not config.kafka.enabled:
        where = settings["events.kafkaTopic"].place
        raise ConfigError(f"events.kafkaTopic ({where}) needs kafka.enabled: true; set that, or take the topic out")
    if config.events.webhook.url and (problem := config.events.webhook.problem()):
        raise ConfigError(f"events.webhook.url ({settings['events.webhook.url'].place}) {problem}")
    return config


def _words(error: Mapping[str, Any], settings: Mapping[str, _Setting]) -> str:
    location = [str(part) for part in error["loc"]]
    # Names the key that holds the value, and not the place inside the value.
    key = next((key for n in range(len(location), 0, -1) if (key := ".".join(location[:n])) in settings), "")
    if not key:
        return str(error.get("ctx", {}).get("error", error["msg"]))
    value, must = settings[key].value, _FIELDS[key].description
    if isinstance(mistake := error.get("ctx", {}).get("error"), Mistake):
        return f"{key} ({settings[key].place}) {mistake}"
    if key == "workers.shell.commands":
        value = _without_arguments(value)
    shown = "has a value that cannot be used" if _is_secret(key) else f"is {_shown(value)}"
    return f"{key} ({settings[key].place}) {shown}; it must be {must}"


def _refuse_what_cannot_run(config: Config, settings: Mapping[str, _Setting]) -> None:
    if (
        config.exposed
        and ("api" in config.roles or config.dashboard.port is not None)
        and not config.auth.tokens
        and not config.insecure
    ):
        key = config.exposed[0]
        setting = settings[key]
        raise ConfigError(
            f"{key} ({setting.place}) is {setting.value!r}: others could schedule and read tasks without a "
            "credential. Set auth.tokens, or give --insecure if that is meant, or listen on 127.0.0.1"
        )
    ports: dict[int, str] = {}
    for key, port in config.ports:
        if (other := ports.setdefault(port, key)) != key:
            raise ConfigError(f"{other} and {key} are both {port}; give each a port of its own")
    if problem := config.unsigned_commands:
        raise ConfigError(f"workers.shell.via ({settings['workers.shell.via'].place}) is topic, {problem}")


def _strange(given: str, place: str) -> str:
    if given.startswith("APP_"):
        return (
            f"{given} in {place} is ignored: under APP_ only the original's keys are read; name it DELAYBOX_{given[4:]}"
        )
    if given.startswith("DELAYBOX_"):
        near = difflib.get_close_matches(_plain(given.removeprefix("DELAYBOX_")), _VARIABLES, n=1)
        right = variable(_VARIABLES[near[0]]) if near else None
    else:
        near = difflib.get_close_matches(_plain(given), _KEYS, n=1)
        right = _KEYS[near[0]] if near else None
    return f"unknown key {given} in {place} is ignored" + (f"; did you mean {right}?" if right else "")


def _plain(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "")


def _fields(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    for field in model.model_fields.values():
        name = f"{path}{field.validation_alias or field.alias}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{name}.")
        else:
            yield name, field


def _is_secret(key: str) -> bool:
    """Whether the key's value may hold one: librdkafka's settings do."""
    return key in _MAY_HOLD_SECRETS or "SecretStr" in str(_FIELDS[key].annotation)


def _stands_open(key: str, setting: _Setting) -> bool:
    """Whether a secret came by the command line."""
    secret = _is_secret(key) and key != "kafka.properties"
    return setting.rank == _FLAG_RANK and secret and (key != "storage.redisUrl" or "@" in str(setting.value))


def variable(key: str) -> str:
    """The environment's name for a key, as docs/configuration.md writes it."""
    return f"DELAYBOX_{re.sub(r'(?<=[a-z])(?=[A-Z])', '_', key).replace('.', '_').upper()}"


def _seen(key: str, setting: _Setting) -> str:
    return (
        f"{key} ({setting.place}) holds a secret, and everybody on this machine can read a command line in the list of "
        f"processes; set it in the configuration file or in the variable {variable(key)}"
    )


def _without_arguments(commands: object) -> object:
    """Commands for an error: their arguments may be passwords."""
    if not isinstance(commands, Mapping):
        return f"a {type(commands).__name__}"
    return {
        name: {part: one if part == "path" else "…" for part, one in command.items()}
        if isinstance(command, Mapping)
        else f"a {type(command).__name__}"
        for name, command in commands.items()
    }


def _shown(value: object) -> str:
    """A value for an error: cut, and without what stands before an @."""
    text = repr(value)
    return repr(without_credentials(str(value))) if "@" in text else text if len(text) < 400 else f"{text[:400]}…"


_MAY_HOLD_SECRETS = frozenset({"auth.tokens", "kafka.properties"})


_FIELDS = dict(_fields(Config))
_KEYS = {_plain(key): key for key in _FIELDS}
_WHOLE = {_plain(key) for key, field in _FIELDS.items() if "Mapping" in str(field.annotation)}
"""Keys whose value is a mapping: its own keys are names that somebody chose."""
_SECTIONS = {_plain(key.partition(".")[0]) for key in _FIELDS if "." in key}
_VARIABLES = {plain.replace(".", ""): key for plain, key in _KEYS.items()}
_VARIABLES |= {_plain(flag.removeprefix("--")): key for key, flag in FLAGS.items()}
_APP_VARIABLES = {f"APP_{key.upper().replace('.', sign)}": key for key in ORIGINAL_KEYS for sign in (".", "_")}
_NEVER_APP = {f"APP_{key.upper().replace('.', '_')}" for key in _FIELDS if "." in key} - _APP_VARIABLES.keys()
"""Names that can only be meant as a key of DelayBox: whoever set one believes that it counts."""
