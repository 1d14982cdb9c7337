"""The section ``workers``: what runs tasks on this node, and how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from delaybox.config.sections import Duration, Section, Size, mapping, split
from delaybox.core.limits import NAME
from delaybox.wire.shell_signing import MIN_KEY

COMMAND_FORMS = (
    "names with an absolute path and arguments each, such as {backup: {path: /usr/bin/rsync, args: [-a, /srv, /mnt]}}, "
    "as YAML or (in a variable) as JSON"
)


def _commands(value: object) -> object:
    return {_name(name): _argv(command) for name, command in mapping(value).items()}


def _name(name: object) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError("name")
    return name


def _argv(command: object) -> tuple[str, ...]:
    if isinstance(command, tuple):
        return command
    if not isinstance(command, Mapping) or command.keys() - {"path", "args"}:
        raise ValueError("command")
    path, args = command.get("path"), command.get("args") or []
    if not isinstance(path, str) or not PurePosixPath(path).is_absolute() or not isinstance(args, list):
        raise ValueError("path")
    argv = (path, *args)
    if not all(isinstance(one, str) and "\0" not in one for one in argv):
        raise ValueError("args")
    return argv


def _keys(value: object) -> object:
    keys = split(value)
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) and len(key) >= MIN_KEY for key in keys):
        raise ValueError("keys")
    return keys


class ShellLimits(Section):
    """Limits of one command, set by the shell that runs it."""

    cpu: Duration = Field(
        default=300_000, ge=0, description="a duration in whole seconds such as 5m, or 0s for no limit"
    )
    memory: Size = Field(default=2 << 30, ge=0, description="a size such as 2GiB, or 0 for no limit")
    file_size: Size = Field(default=1 << 30, ge=0, description="a size such as 1GiB, or 0 for no limit")
    open_files: int = Field(default=1024, ge=0, description="a number such as 1024, or 0 for no limit")
    processes: int = Field(default=256, ge=0, description="a number such as 256, or 0 for no limit")


class Shell(Section):
    """SHELL_CMD. Off unless ``enabled``; ``commands`` alone allow only themselves."""

    enabled: bool = Field(default=False, description="true or false")
    commands: Annotated[Mapping[str, tuple[str, ...]], BeforeValidator(_commands)] = Field(
        default={}, description=COMMAND_FORMS
    )
    via: Literal["direct", "topic"] = Field(default="direct", description="direct or topic")
    signing_keys: Annotated[tuple[SecretStr, ...], BeforeValidator(_keys)] = Field(
        default=(),
        description=f"a list of keys of {MIN_KEY} characters or more, or text with commas between them; "
        "`openssl rand -hex 32` makes one",
    )
    signing_keys_file: Path | None = Field(default=None, description="the path of a file with one key a line")
    accept_unsigned: bool = Field(default=False, description="true or false")
    user: str = Field(default="", description="the name of a user of this machine")
    concurrency: int = Field(default=16, ge=1, le=256, description="a number from 1 to 256")
    timeout: Duration = Field(default=300_000, ge=1, description="a duration with its unit, such as 5m")
    grace: Duration = Field(default=500, ge=0, le=60_000, description="a duration with its unit from 0s to 1m")
    keep_result: Duration = Field(default=86_400_000, ge=0, description="a duration with its unit, such as 24h")
    limits: ShellLimits = ShellLimits()

    @property
    def any(self) -> bool:
        """Whether there are shell tasks at all."""
        return self.enabled or bool(self.commands)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of shell work that travels by topic, in clear: the first signs."""
        return tuple(key.get_secret_value() for key in self.signing_keys)


class WorkersSection(Section):
    shell: Shell = Shell()
