"""Traces, metrics and logs for OpenTelemetry. Only what is loaded by name needs its packages (extra ``otel``)."""
