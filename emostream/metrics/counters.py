"""What a stage counts, as plain numbers.

prometheus-client only writes the page (page.py). Its own counters would take 0.5 to 2 µs each when several processes
share them, and a tap, which costs about 10 µs, is counted several times.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import msgspec

from emostream.metrics.catalogue import Series, Stage
from emostream.process import Log

# A number, or one for each value of the label; None while it is not known.
Reading: TypeAlias = float | Mapping[str, float] | None
# Key of the series → value of its label, "" if it has none → number.
Samples: TypeAlias = dict[str, dict[str, float]]


class Histogram:
    """Counts observations in buckets. One thread observes, any thread may read."""

    def __init__(self, series: Series) -> None:
        self._bounds = series.buckets
        self.counts = [0] * (len(self._bounds) + 1)  # one for each upper bound, and one for all higher values
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Return `(upper bound, number of observations up to it)` for each bucket, as Prometheus needs it."""
        total, found = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self.counts.copy(), strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Metrics:
    """The series of one stage: counters, histograms, and numbers that functions return. Any thread may count.

    The counters also go to the log, at most every `seconds` and only after a change.
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
        """Add to a counter."""
        if number:
            with self._lock:
                self._counts[name] += number

    def read(self, **readers: Callable[[], Reading]) -> None:
        """Call these functions, by the key of their series, for each page. Any thread may; they should not wait."""
        self._readers = self._readers | readers  # a new one, because another thread may be reading the old one

    def snapshot(self) -> dict[str, int]:
        """Return all counters that are not zero."""
        with self._lock:
            return {name: count for name, count in self._counts.items() if count}

    def samples(self) -> Samples:
        """Return the current number of every series except histograms; none for a gauge that is not known."""
        with self._lock:
            found: Samples = {key: {self.series[key].value: count} for key, count in self._counts.items()}
        for key, reader in self._readers.items():
            reading = reader()
            if reading is not None:
                found[key] = dict(reading) if isinstance(reading, Mapping) else {"": float(reading)}
        return found

    def log_if_due(self, final: bool = False) -> None:
        """Log the counters if they are due, or with `final` now, and if they have changed."""
        now = time.monotonic()
        if now < self._due and not final:
            return
        self._due = now + self._seconds
        counts = self.snapshot()
        if counts != self._logged:
            self._log.info("so far", **counts)
            self._logged = counts


class WorkerMetrics(Metrics):
    """The metrics of one of several workers. Each writes its own to a file, so any of them can report the sum.

    The counters of a worker that has ended still count; its gauges do not.
    """

    def __init__(self, log: Log, series: Stage, directory: Path, pid: int | None = None) -> None:
        super().__init__(log, series)
        self._directory = directory
        self._path = directory / f"{os.getpid() if pid is None else pid}.json"
        self._published: Samples = {}

    def publish(self) -> None:
        """Write our numbers to our file if they have changed. On a full disk, the old file stays."""
        samples = super().samples()
        if samples != self._published:
            with suppress(OSError):
                self._directory.mkdir(parents=True, exist_ok=True)
                aside = self._path.with_suffix(".new")
                aside.write_bytes(msgspec.json.encode(samples))
                aside.replace(self._path)
                self._published = samples

    def samples(self) -> Samples:
        """Return the sum of our current numbers and those in the other workers' files."""
        found = super().samples()
        for path in self._directory.glob("*.json"):
            with suppress(OSError, msgspec.MsgspecError):
                if path != self._path:
                    self._add(found, msgspec.json.decode(path.read_bytes(), type=Samples), path.stem)
        return found

    def _add(self, found: Samples, theirs: Samples, pid: str) -> None:
        alive = Path("/proc", pid).exists()
        for key, numbers in theirs.items():
            one = self.series.get(key)
            if one and (one.kind == "counter" or alive):
                for value, number in numbers.items():
                    known = found[key].get(value, 0.0)
                    found[key][value] = max(known, number) if one.greatest else known + number
