"""The section ``otel``: where traces and metrics go. Without it the environment variables of OpenTelemetry count."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from pydantic import Field, field_validator

from delaybox.config.sections import Section
from delaybox.core.errors import ConfigError
from delaybox.otel import environment

log = logging.getLogger("delaybox.config")

_URL = re.compile(r"https?://[^\s/?#@]+/?")


class OtelSection(Section):
    endpoint: str | None = Field(
        default=None, description="http://host:port or https://host:port of a collector that takes OTLP over gRPC"
    )

    metrics: bool = Field(default=False, description="true or false")

    @field_validator("endpoint")
    @classmethod
    def _a_url(cls, value: str | None) -> str | None:
        if value and _URL.fullmatch(value) is None:
            raise ValueError("url")
        return value or None

    def collector(self, environ: Mapping[str, str]) -> str | None:
        """The collector's address; "": as the environment says; None: nothing is sent. ConfigError where the packages
        are missing that ``otel.endpoint`` needs."""
        named = environment.asked_for(environ)
        if environment.disabled(environ) or (self.endpoint is None and not named):
            return None
        if environment.installed():
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
        if environment.without_metrics(environ) or not (self.metrics or environment.asked_for_metrics(environ)):
            return None
        if self.endpoint is None and not environment.names_metrics(environ):
            if self.metrics:
                raise ConfigError(
                    "otel.metrics is true, but no collector is named; set otel.endpoint or OTEL_EXPORTER_OTLP_ENDPOINT"
                )
            return None
        if environment.installed():
            return self.endpoint or ""
        if self.metrics:
            raise ConfigError(
                f"otel.metrics is true, but the packages of OpenTelemetry are not installed; {environment.MEND}"
            )
        log.warning("OpenTelemetry's variables ask for metrics, but none are sent: %s for that", environment.MEND)
        return None
