"""Metrics in the form that a scraper asks for: Prometheus's text, or OpenMetrics with examples of buckets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from delaybox.processes import examples

_WITH_CREATED: Final = frozenset({"counter", "histogram", "summary"})


def exposed(
    accept: str, registry: CollectorRegistry, change: Callable[[Collector], Collector] | None = None
) -> tuple[bytes, str]:
    """The metrics of a registry, with their content type. ``accept``: the scraper's header. ``change``: what is made of
    them first, such as other labels."""
    with_examples = "application/openmetrics-text" in accept
    # Examples are found by the labels with which they were counted, so they come first.
    source: Collector = _WithExamples(registry) if with_examples else registry
    shown = CollectorRegistry()
    shown.register(source if change is None else change(source))
    if not with_examples:
        return generate_latest(shown), CONTENT_TYPE_LATEST
    text: bytes = exposition.generate_latest(shown)  # type: ignore[no-untyped-call]
    return text, exposition.CONTENT_TYPE_LATEST


class WithoutCreated(Collector):
    """What another collector collects, without the moments at which its series were made, which nobody here needs.
    prometheus-client can leave them out by itself, but then it does so for the rest of a user's program as well."""

    def __init__(self, inner: Collector) -> None:
        self._inner = inner

    def collect(self) -> Iterator[Metric]:
        for metric in self._inner.collect():
            if metric.type in _WITH_CREATED:
                metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric


class _WithExamples(Collector):
    """What another collector collects, with the examples of all processes that share the folder."""

    def __init__(self, inner: Collector) -> None:
        self._inner = inner

    def collect(self) -> Iterator[Metric]:
        kept = examples.kept()
        for metric in self._inner.collect():
            if metric.type == "histogram" and kept:
                metric.samples = [
                    one if (found := kept.get((one.name, frozenset(one.labels.items())))) is None
                    else one._replace(exemplar=_exemplar(found))
                    for one in metric.samples
                ]  # fmt: skip
            yield metric


def _exemplar(of: examples.Example) -> Exemplar:
    return Exemplar({"trace_id": of.trace_id, "span_id": of.span_id}, of.value, of.at_s)
