"""How to reach Kafka, and the client library's settings that follow from it. Both directions use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")


def _nothing() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """Where the brokers are and how to log in. ``properties`` are librdkafka's own settings; they override the
    others."""

    brokers: tuple[str, ...]
    mechanism: str = ""
    """One of MECHANISMS; '' = no SASL."""
    user: str = ""
    password: str = field(default="", repr=False)
    oauth_token_url: str = ""
    oauth_client_id: str = ""
    oauth_client_secret: str = field(default="", repr=False)
    oauth_scope: str = ""
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    properties: Mapping[str, str] = field(default_factory=_nothing, repr=False)

    def describe(self) -> str:
        """For a log line; no secrets."""
        how = [self.mechanism] if self.mechanism else []
        how += ["TLS"] if self.tls else []
        return ", ".join(self.brokers) + (f" ({', '.join(how)})" if how else "")

    def client(self) -> dict[str, object]:
        """What producers, consumers and admin clients all need. A new one: callers add to it."""
        out: dict[str, object] = {
            "bootstrap.servers": ",".join(self.brokers),
            "client.id": "delaybox",
            # So a broker that comes back is found within a second or two, and not after the library's default of ten.
            "reconnect.backoff.max.ms": 1_000,
            "security.protocol": ("SASL_" if self.mechanism else "") + ("SSL" if self.tls else "PLAINTEXT"),
        }
        if self.mechanism:
            out["sasl.mechanism"] = self.mechanism
        if self.mechanism == "OAUTHBEARER":
            if self.oauth_token_url:
                out |= {"sasl.oauthbearer.method": "oidc", "sasl.oauthbearer.token.endpoint.url": self.oauth_token_url}
                out["sasl.oauthbearer.client.id"] = self.oauth_client_id
                out["sasl.oauthbearer.client.secret"] = self.oauth_client_secret
                if self.oauth_scope:
                    out["sasl.oauthbearer.scope"] = self.oauth_scope
        elif self.mechanism:
            out |= {"sasl.username": self.user, "sasl.password": self.password}
        files = {
            "ssl.ca.location": self.ca_file,
            "ssl.certificate.location": self.cert_file,
            "ssl.key.location": self.key_file or self.cert_file,
        }
        out |= {name: value for name, value in files.items() if value}
        return out | dict(self.properties)
