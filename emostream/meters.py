"""What a process counts, measures and knows of itself → the text of its GET /metrics, made when somebody asks.

prometheus-client writes the text. Its own counters cost 0.5 to 2 µs a time, between the processes of the app; a tap
costs 20 µs and counts often. So counts are plain numbers here, and everything else is asked for with the page.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from emostream.metrics import PROCESS, Series, Stage
from emostream.runtime import Log

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
LISTEN_AGAIN_SECONDS = 1.0

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
# A number, one for each value of the label, or None where it is not known.
Reading: TypeAlias = float | Mapping[str, float] | None
# Series key → value of its label, "" where it has none → number.
Samples: TypeAlias = dict[str, dict[str, float]]


class Histogram:
    """How often a measure fell into each bucket. For one thread that observes; any may read."""

    def __init__(self, series: Series) -> None:
        self._bounds = series.buckets
        self.counts = [0] * (len(self._bounds) + 1)  # of the values up to each bound, and of those above
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many were observed."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """`(upper bound, how many are not above)`, as Prometheus has it."""
        total, found = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self.counts.copy(), strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Metrics:
    """The series of one stage: named counts that threads add to, histograms, and what is asked for with the page.

    The counts are a log line, too, every `seconds` in which one changed.
    """

    def __init__(self, log: Log, series: Stage, seconds: float = 10.0) -> None:
        self.series = series
        self.histograms = {key: Histogram(one) for key, one in series.items() if one.kind == "histogram"}
        self._log = log
        self._seconds = seconds
        self._lock = threading.Lock()
        self._counts = {key: 0 for key, one in series.items() if one.kind == "counter"}
        self._logged: dict[str, int] = {}
        self._due = time.monotonic() + seconds
        self._readers: dict[str, Callable[[], Reading]] = {}

    def add(self, name: str, number: int = 1) -> None:
        """Add to a count."""
        if number:
            with self._lock:
                self._counts[name] += number

    def read(self, **readers: Callable[[], Reading]) -> None:
        """Have these series asked for when the page is; a reader is called in any thread, and should not wait."""
        self._readers |= readers

    def snapshot(self) -> dict[str, int]:
        """All counts that are not zero."""
        with self._lock:
            return {name: count for name, count in self._counts.items() if count}

    def samples(self) -> Samples:
        """Every number there is now."""
        with self._lock:
            found: Samples = {key: {self.series[key].value: count} for key, count in self._counts.items()}
        for key, reader in self._readers.items():
            reading = reader()
            if reading is not None:
                found[key] = dict(reading) if isinstance(reading, Mapping) else {"": float(reading)}
        return found

    def log_if_due(self, final: bool = False) -> None:
        """Write the line when its time has come, or now where this is the last one."""
        now = time.monotonic()
        if now < self._due and not final:
            return
        self._due = now + self._seconds
        counts = self.snapshot()
        if counts != self._logged:
            self._log.info("so far", **counts)
            self._logged = counts


class Source(Protocol):
    """What has numbers for a page."""

    @property
    def series(self) -> Stage:
        """What they are of."""

    @property
    def histograms(self) -> Mapping[str, Histogram]:
        """Those that are no single numbers."""

    def samples(self) -> Samples:
        """The numbers now."""


class Workers:
    """The numbers of all workers of one app, through a file for each: whichever is asked tells them for all.

    What a worker that has ended had counted stays; what it had in hand does not.
    """

    histograms: Mapping[str, Histogram] = {}

    def __init__(self, directory: Path, metrics: Metrics, pid: int | None = None) -> None:
        self.series = metrics.series
        self._directory = directory
        self._metrics = metrics
        self._path = directory / f"{os.getpid() if pid is None else pid}.json"
        self._published: Samples = {}

    def publish(self) -> None:
        """Leave our numbers for the others. On a full disk they get old."""
        samples = self._metrics.samples()
        if samples != self._published:
            with suppress(OSError):
                self._directory.mkdir(parents=True, exist_ok=True)
                aside = self._path.with_suffix(".new")
                aside.write_bytes(msgspec.json.encode(samples))
                aside.replace(self._path)
                self._published = samples

    def samples(self) -> Samples:
        """Ours as they are now, and those that others have left."""
        found = self._metrics.samples()
        for path in self._directory.glob("*.json"):
            with suppress(OSError, msgspec.MsgspecError):
                if path != self._path:
                    self._add(found, msgspec.json.decode(path.read_bytes(), type=Samples), _alive(int(path.stem)))
        return found

    def _add(self, found: Samples, theirs: Samples, alive: bool) -> None:
        for key, numbers in theirs.items():
            one = self.series.get(key)
            if one is None or (one.kind == "gauge" and not alive):
                continue
            for value, number in numbers.items():
                known = found[key].get(value, 0.0)
                found[key][value] = max(known, number) if one.greatest else known + number


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


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
