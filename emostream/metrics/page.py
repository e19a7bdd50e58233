"""Counters → the text of GET /metrics, made when somebody asks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from emostream.metrics.catalogue import BUILD, PROCESS, Series
from emostream.metrics.counters import Source
from emostream.process import Log

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
LISTEN_AGAIN_SECONDS = 1.0

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Page(Collector):
    """GET /metrics of one process: its sources, and what the system says of `pid` and its children."""

    def __init__(self, *sources: Source, pid: int | None = None) -> None:
        self._sources = sources
        self._pid = os.getpid() if pid is None else pid
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """As Prometheus reads it; the media type is CONTENT_TYPE."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        """What prometheus-client calls."""
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
        found = processes(self._pid)
        for key, one in PROCESS.items():
            if key in found:
                family = _family(one)
                assert not isinstance(family, HistogramMetricFamily)  # noqa: S101 - the system has none
                family.add_metric([], found[key])
                yield family

    def serve(self, host: str, port: int, log: Log) -> None:
        """Answer for the rest of the process on a port of its own, as soon as nobody else is there.

        Who takes over from another, which then ends, would find its port taken at first.
        """

        def listen() -> None:
            told = False
            while True:
                try:
                    start_http_server(port, host, self._registry)
                except OSError as error:
                    if not told:
                        log.warning("metrics have to wait for METRICS_BASE_PORT", port=port, reason=error)
                    told = True
                    time.sleep(LISTEN_AGAIN_SECONDS)
                else:
                    return

        threading.Thread(target=listen, name="metrics", daemon=True).start()


def _family(one: Series) -> Family:
    labels = [one.label] if one.label else []
    if one.kind == "histogram":
        return HistogramMetricFamily(one.name, one.meaning, labels=labels)
    return (CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily)(one.name, one.meaning, labels=labels)


def processes(pid: int) -> dict[str, float]:
    """By key of PROCESS: of a process and all its children the sums, and what only the process itself has."""
    found: dict[str, float] = {}
    pids = [pid]
    for one in pids:
        families = ProcessCollector(registry=None, pid=partial(int, one)).collect()
        told = {sample.name: sample.value for family in families for sample in family.samples}
        for key, series in PROCESS.items():
            value = told.get(series.name)
            if value is not None and (one == pid or key not in ("start", "max_fds")):
                found[key] = found.get(key, 0.0) + value
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                pids += map(int, children.read_text().split())
    return found
