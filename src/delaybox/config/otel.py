"""The section ``otel``: where traces, metrics and logs go. Without it the environment variables of OpenTelemetry
count."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from delaybox.config.sections import Section
from delaybox.core.errors import ConfigError
from delaybox.otel import environment
from delaybox.otel.environment import Signal

log = logging.getLogger("delaybox.config")

_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")


class OtelSection(Section):
    endpoint: str | None = Field(
        default=None, description="http://host:port or https://host:port of a collector that takes OTLP"
    )

    protocol: Literal["grpc", "http/protobuf"] | None = Field(default=None, description="grpc or http/protobuf")

    metrics: bool = Field(default=False, description="true or false")

    logs: bool = Field(default=False, description="true or false")

    @field_validator("endpoint")
    @classmethod
    def _a_url(cls, value: str | None) -> str | None:
        if value and _URL.fullmatch(value) is None:
            raise ValueError("url")
        return value or None

    def collector(self, environ: Mapping[str, str]) -> str | None:
        """Where traces go; "": as the environment says; None: nothing is traced. ConfigError where the packages are
        missing that ``otel.endpoint`` needs, or for a protocol that is not there."""
        named = environment.asked_for(environ)
        if environment.switched_off(environ, "traces") or (self.endpoint is None and not named):
            return None
        if self._can_send(environ, "traces"):
            return self.endpoint or ""
        if self.endpoint is not None:
            raise ConfigError(
                f"otel.endpoint is set, but the packages of OpenTelemetry are not installed; {environment.MEND}"
            )
        log.warning("%s is set, but nothing is traced: %s for that", named, environment.MEND)
        return None

    def metrics_to(self, environ: Mapping[str, str]) -> str | None:
        """Where metrics go; "": as the environment says; None: nowhere. ConfigError where ``otel.metrics`` needs an
        address or packages that are not there."""
        return self._more_to(environ, "metrics", self.metrics)

    def logs_to(self, environ: Mapping[str, str]) -> str | None:
        """Where logs go, likewise."""
        return self._more_to(environ, "logs", self.logs)

    def _more_to(self, environ: Mapping[str, str], signal: Literal["metrics", "logs"], wanted: bool) -> str | None:
        if environment.switched_off(environ, signal) or not (wanted or environment.asks_for(environ, signal)):
            return None
        if self.endpoint is None and not environment.names_collector(environ, signal):
            if wanted:
                raise ConfigError(
                    f"otel.{signal} is true, but no collector is named; set otel.endpoint or "
                    "OTEL_EXPORTER_OTLP_ENDPOINT"
                )
            return None
        if self._can_send(environ, signal):
            return self.endpoint or ""
        if wanted:
            raise ConfigError(
                f"otel.{signal} is true, but the packages of OpenTelemetry are not installed; {environment.MEND}"
            )
        log.warning("OpenTelemetry's variables ask for %s, but none are sent: %s for that", signal, environment.MEND)
        return None

    def _can_send(self, environ: Mapping[str, str], signal: Signal) -> bool:
        protocol = environment.protocol_of(environ, signal, self.protocol or "")
        path = urlsplit(self.endpoint or "").path
        if protocol == environment.GRPC and path.strip("/"):
            raise ConfigError(
                f"otel.endpoint has the path {path}, which gRPC does not use; leave it out, or set otel.protocol to "
                "http/protobuf"
            )
        return environment.installed(protocol)
