"""The section ``webhooks``: whether and where this node sends HTTP tasks, and how they are signed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from delaybox.config.sections import Duration, Section, Size, mapping, split
from delaybox.core.limits import HOST
from delaybox.core.webhook import WebhookRules, check_allowed
from delaybox.wire.webhook_signing import MAX_SECRET_BYTES, MIN_SECRET_BYTES, PREFIX, key_of

SECRET_FORMS = (
    f"a secret of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64, with {PREFIX} "
    "before it or without, such as openssl rand -base64 32 makes; or a list of several (text with commas between them)"
)


def read_secret(value: object) -> object:
    """Reads one secret or several. ValueError."""
    secrets = split(value)
    if not isinstance(secrets, list | tuple) or not all(isinstance(one, str) for one in secrets):
        raise ValueError("secret")
    for one in secrets:
        key_of(one)
    return tuple(secrets)


def _secrets(value: object) -> object:
    return {_named(name): read_secret(secrets) for name, secrets in mapping(value).items()}


def _named(name: object) -> str:
    if not isinstance(name, str) or not HOST.fullmatch(name):
        raise ValueError("name")
    return name.lower()


def read_allowed(value: object) -> object:
    """Reads a list of hosts and networks. ValueError."""
    entries = split(value)
    if not isinstance(entries, list | tuple) or not all(isinstance(one, str) for one in entries):
        raise ValueError("allow")
    for one in entries:
        check_allowed(one)
    return tuple(entries)


class Webhooks(Section):
    """Off unless ``enabled``."""

    enabled: bool = Field(default=False, description="true or false")
    allow: Annotated[tuple[str, ...], BeforeValidator(read_allowed)] = Field(
        default=(),
        description="a list of host names (*.example.org: all below it), addresses or networks such as 10.1.0.0/16, or "
        "text with commas between them",
    )
    ports: Annotated[tuple[int, ...], BeforeValidator(split)] = Field(
        default=(80, 443), description="a list of ports, or text with commas between them"
    )
    schemes: Annotated[tuple[Literal["https", "http"], ...], BeforeValidator(split)] = Field(
        default=("https", "http"), min_length=1, description="https, http or both, with a comma between them"
    )
    cloudevents: Literal["none", "binary", "structured"] = Field(
        default="none", description="none, binary or structured, for tasks that do not say it themselves"
    )
    secret: Annotated[tuple[SecretStr, ...], BeforeValidator(read_secret)] = Field(default=(), description=SECRET_FORMS)
    secrets: Annotated[Mapping[str, tuple[SecretStr, ...]], BeforeValidator(_secrets)] = Field(
        default={},
        description="queues or host names with one secret or a list of them each, such as {hooks.example.org: "
        "[whsec_…, whsec_…]}, as YAML or (in a variable) as JSON",
    )
    concurrency: int = Field(default=1_000, ge=1, le=10_000, description="a number from 1 to 10000")
    per_host: int = Field(default=50, ge=1, le=10_000, description="a number from 1 to 10000")
    per_host_rate: int = Field(default=0, ge=0, le=100_000, description="a number up to 100000; 0: any")
    timeout: Duration = Field(
        default=10_000, ge=100, le=3_600_000, description="a duration with its unit from 100ms to 1h, such as 10s"
    )
    max_response: Size = Field(default=64 << 10, ge=0, le=1 << 20, description="a size from 0 to 1MiB, such as 64KiB")
    max_retry_after: Duration = Field(
        default=3_600_000, ge=0, le=7 * 86_400_000, description="a duration with its unit up to 7d, such as 1h"
    )
    ca_file: str | None = Field(default=None, min_length=1, description="the path of a PEM file")

    @property
    def rules(self) -> WebhookRules:
        """Where webhooks may go."""
        return WebhookRules(enabled=self.enabled, allow=self.allow, ports=self.ports, schemes=self.schemes)


def in_clear(secrets: tuple[SecretStr, ...]) -> tuple[str, ...]:
    """The secrets themselves."""
    return tuple(one.get_secret_value() for one in secrets)
