"""The section ``kafka``: the Go original's keys, and new ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator

from delaybox.config.sections import Duration, Section, mapping, split
from delaybox.core.errors import ConfigError
from delaybox.core.limits import MAX_TOPIC, TOPIC
from delaybox.store.address import without_credentials
from delaybox.targets.kafka_settings import MECHANISMS, KafkaSettings
from delaybox.wire.topics import TopicRules

_A_TOPIC = f"a topic's name: up to {MAX_TOPIC} letters, digits, or . _ - characters"
_A_PEM_FILE = "the path of a PEM file"
# As clients of other languages spell them.
_SPELLINGS = {
    "SCRAM256": "SCRAM-SHA-256",
    "SCRAM512": "SCRAM-SHA-512",
    "SHA256": "SCRAM-SHA-256",
    "SHA512": "SCRAM-SHA-512",
}


def _properties(value: object) -> object:
    return {str(name): str(one) for name, one in mapping(value).items()}


class Kafka(Section):
    enabled: bool = Field(default=False, description="true or false")
    brokers: Annotated[tuple[str, ...], BeforeValidator(split)] = Field(
        default=(), description="host:port, with commas between several"
    )
    group: str = Field(default="scheduler", min_length=1, description="a consumer group's name")
    instance: str = Field(default="", description="a name that no other node of the group has")
    scheduler_topic: str = Field(
        default="Scheduler", min_length=1, description="a topic's name, or several with commas between them"
    )
    task_execution_topic: str = Field(default="TaskExecution", pattern=f"^{TOPIC.pattern}$", description=_A_TOPIC)
    sasl_enabled: bool = Field(default=False, description="true or false")
    sasl_user: str | None = Field(default=None, description="a user name")
    sasl_password: SecretStr | None = Field(default=None, description="a password")
    sasl_mechanism: str = Field(default="PLAIN", description="PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER")
    oauth_token_url: str | None = Field(default=None, pattern="^https?://", description="an http or https address")
    oauth_client_id: str | None = Field(default=None, description="a client's id")
    oauth_client_secret: SecretStr | None = Field(default=None, description="a client's secret")
    oauth_scope: str | None = Field(default=None, description="scopes, with spaces between several")
    tls_enable: bool = Field(default=False, description="true or false")
    ca_file: str | None = Field(default=None, min_length=1, description=_A_PEM_FILE)
    cert_file: str | None = Field(default=None, min_length=1, description=_A_PEM_FILE)
    key_file: str | None = Field(default=None, min_length=1, description=_A_PEM_FILE)
    value: Literal["task", "payload"] = Field(default="task", description="task or payload")
    allowed_topics: Annotated[tuple[str, ...], BeforeValidator(split)] = Field(
        default=(), description="a list of topics' names, or text with commas between them"
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        default="lz4", description="none, gzip, snappy, lz4 or zstd"
    )
    linger: Duration = Field(default=2, ge=0, le=1_000, description="a duration with its unit from 0ms to 1s")
    delivery_timeout: Duration = Field(
        default=120_000, ge=1_000, le=300_000, description="a duration with its unit from 1s to 5m"
    )
    properties: Annotated[Mapping[str, str], BeforeValidator(_properties)] = Field(
        default={},
        repr=False,
        description="settings of librdkafka with their values, as YAML or (in a variable) as JSON",
    )

    @field_validator("sasl_mechanism")
    @classmethod
    def _known_mechanism(cls, value: str) -> str:
        plain = value.upper().replace("_", "-")
        found = _SPELLINGS.get(plain.replace("-", ""), plain)
        if found not in MECHANISMS:
            raise ValueError("mechanism")
        return found

    def rules(self) -> TopicRules:
        """Which topics a task may name."""
        return TopicRules(self.task_execution_topic, frozenset(self.allowed_topics))

    @property
    def scheduler_topics(self) -> tuple[str, ...]:
        """The topics to read."""
        return tuple(name for part in self.scheduler_topic.split(",") if (name := part.strip()))

    def settings(self) -> KafkaSettings | None:
        """How to reach the brokers; None when Kafka is off. ConfigError names what is missing."""
        if not self.enabled:
            return None
        if not self.brokers:
            raise ConfigError("kafka.brokers is not set; give host:port, with commas between several (or BROKERS)")
        if odd := next((broker for broker in self.brokers if not _is_address(broker)), None):
            raise ConfigError(
                f"kafka.brokers holds {without_credentials(odd)!r}; each must be host:port, such as kafka-1:9092"
            )
        mechanism = self.sasl_mechanism if self.sasl_enabled else ""
        if mechanism and mechanism != "OAUTHBEARER" and not (self.sasl_user and self.sasl_password):
            raise ConfigError(
                f"kafka.saslEnabled is true and the mechanism is {mechanism}, which needs kafka.saslUser and "
                "kafka.saslPassword; set both"
            )
        elsewhere = any(name.startswith("sasl.oauthbearer.") for name in self.properties)
        if mechanism == "OAUTHBEARER" and not self.oauth_token_url and not elsewhere:
            raise ConfigError(
                "kafka.saslMechanism is OAUTHBEARER, which needs kafka.oauthTokenUrl, kafka.oauthClientId and "
                "kafka.oauthClientSecret; set them"
            )
        if self.oauth_token_url and not (self.oauth_client_id and self.oauth_client_secret):
            raise ConfigError(
                "kafka.oauthTokenUrl needs kafka.oauthClientId and kafka.oauthClientSecret beside it; set both"
            )
        if not self.tls_enable and (self.ca_file or self.cert_file or self.key_file):
            raise ConfigError("certificates are given, but TLS is not on: set kafka.tlsEnable: true")
        if self.key_file and not self.cert_file:
            raise ConfigError("kafka.keyFile is given without kafka.certFile, whose key it is; set both")
        return KafkaSettings(
            brokers=self.brokers,
            mechanism=mechanism,
            user=self.sasl_user or "",
            password=_secret(self.sasl_password),
            oauth_token_url=self.oauth_token_url or "",
            oauth_client_id=self.oauth_client_id or "",
            oauth_client_secret=_secret(self.oauth_client_secret),
            oauth_scope=self.oauth_scope or "",
            tls=self.tls_enable,
            ca_file=self.ca_file or "",
            cert_file=self.cert_file or "",
            key_file=self.key_file or "",
            properties=self.properties,
        )


def _is_address(broker: str) -> bool:
    host, colon, port = broker.rpartition(":")
    return bool(host and colon) and port.isascii() and port.isdigit() and 0 < int(port) < 65_536 and "/" not in broker


def _secret(value: SecretStr | None) -> str:
    return value.get_secret_value() if value else ""
