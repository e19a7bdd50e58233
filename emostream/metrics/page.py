"""Counters → the text of GET /metrics, written when somebody asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from emostream.metrics.catalogue import BUILD, PROCESS, Series
from emostream.metrics.counters import Metrics

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class MetricsPage(Collector):
    """GET /metrics of one process: what its sources count, and what the system knows of `pid` and its children."""

    def __init__(self, *sources: Metrics, pid: int | None = None) -> None:
        self._sources = sources
        self._pid = os.getpid() if pid is None else pid
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """Return the page in Prometheus' text format. Its media type is CONTENT_TYPE."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        """Yield every series of the page; prometheus-client calls this."""
        for source in self._sources:
            samples = source.samples()
            families: dict[str, Family] = {}
            for key, one in source.series.items():
                family = families.setdefault(one.name, _family(one))
                if isinstance(family, HistogramMetricFamily):
                    histogram = source.histograms[key]
                    family.add_metric([one.value] if one.label else [], histogram.buckets(), histogram.sum)
                else:
                    for value, number in samples.get(key, {}).items():
                        family.add_metric([value] if one.label else [], number)
            yield from families.values()
        build = GaugeMetricFamily(BUILD.name, BUILD.meaning, labels=[BUILD.label])
        build.add_metric([BUILD.value], 1)
        yield build
        found = process_numbers(self._pid)
        for key, one in PROCESS.items():
            if key in found:
                family = _family(one)
                assert not isinstance(family, HistogramMetricFamily)  # noqa: S101 - PROCESS has none
                family.add_metric([], found[key])
                yield family


def _family(one: Series) -> Family:
    labels = [one.label] if one.label else []
    if one.kind == "histogram":
        return HistogramMetricFamily(one.name, one.meaning, labels=labels)
    return (CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily)(one.name, one.meaning, labels=labels)


def process_numbers(pid: int) -> dict[str, float]:
    """Return the numbers of a process by key of PROCESS.

    They are sums over the process and all its children, except its start and its limit of open files.
    """
    found: dict[str, float] = {}
    pids = [pid]
    for one in pids:
        families = ProcessCollector(registry=None, pid=partial(int, one)).collect()
        values = {sample.name: sample.value for family in families for sample in family.samples}
        for key, series in PROCESS.items():
            value = values.get(series.name)
            if value is not None and (one == pid or key not in ("start", "max_fds")):
                found[key] = found.get(key, 0.0) + value
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                pids += map(int, children.read_text().split())
    return found
