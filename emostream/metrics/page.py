"""Counters → the text of GET /metrics, written when somebody asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from emostream.metrics.catalogue import BUILD, PROCESS, Stage
from emostream.metrics.counters import Histogram, Metrics, Samples

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


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
        """Yield every series of the page. prometheus-client calls this."""
        for source in self._sources:
            yield from families(source.series, source.samples(), source.histograms)
        yield from families({"build": BUILD}, {"build": {BUILD.value: 1}}, {})
        yield from families(PROCESS, {key: {"": number} for key, number in process_numbers(self._pid).items()}, {})


def families(series: Stage, samples: Samples, histograms: Mapping[str, Histogram]) -> list[Family]:
    """Return these series as prometheus-client knows them. Series of one name, which differ in a label, become one."""
    found: dict[str, Family] = {}
    for key, one in series.items():
        labels = [one.label] if one.label else []
        family = found.setdefault(one.name, FAMILIES[one.kind](one.name, one.meaning, labels=labels))
        if isinstance(family, HistogramMetricFamily):
            family.add_metric([one.value] if one.label else [], histograms[key].buckets(), histograms[key].sum)
        else:
            for value, number in samples.get(key, {}).items():
                family.add_metric([value] if one.label else [], number)
    return list(found.values())


def process_numbers(pid: int) -> dict[str, float]:
    """Return the numbers of a process by key of PROCESS.

    Most are sums over the process and all its children. Its start and its limit of open files are its own.
    """
    found: dict[str, float] = {}
    pids = [pid]
    for one in pids:
        collected = ProcessCollector(registry=None, pid=partial(int, one)).collect()
        values = {sample.name: sample.value for family in collected for sample in family.samples}
        for key, series in PROCESS.items():
            value = values.get(series.name)
            if value is not None and (one == pid or key not in ("start", "max_fds")):
                found[key] = found.get(key, 0.0) + value
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                pids += map(int, children.read_text().split())
    return found
