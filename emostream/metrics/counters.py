"""What a stage counts: plain numbers, because a tap costs 20 µs and is counted several times.

prometheus-client's own counters take 0.5 to 2 µs each where several processes share them. It only writes the page
(page.py).
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from emostream.metrics.catalogue import Series, Stage
from emostream.process import Log

# A number, or one for each value of the label; None while it is not known.
Reading: TypeAlias = float | Mapping[str, float] | None
# Key of the series → value of its label, "" if it has none → number.
Samples: TypeAlias = dict[str, dict[str, float]]


class Histogram:
    """How many observations fell into each bucket. One thread observes, any thread may read."""

    def __init__(self, series: Series) -> None:
        self._bounds = series.buckets
        self.counts = [0] * (len(self._bounds) + 1)  # one per upper bound, and one for all values above the last
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
        """Return `(upper bound, how many observations are at most that)`, as Prometheus wants it."""
        total, found = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self.counts.copy(), strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Metrics:
    """The series of one stage: counters that any thread adds to, histograms, and gauges that functions return.

    The counters also go to the log, at most once in `seconds` and only after a change.
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
        """Call these functions, by key of their series, whenever samples are taken.

        Any thread may call them, and they should not wait.
        """
        self._readers |= readers

    def snapshot(self) -> dict[str, int]:
        """Return the counters that are not zero."""
        with self._lock:
            return {name: count for name, count in self._counts.items() if count}

    def samples(self) -> Samples:
        """Return the current number of every series that is known, except the histograms."""
        with self._lock:
            found: Samples = {key: {self.series[key].value: count} for key, count in self._counts.items()}
        for key, reader in self._readers.items():
            reading = reader()
            if reading is not None:
                found[key] = dict(reading) if isinstance(reading, Mapping) else {"": float(reading)}
        return found

    def log_if_due(self, final: bool = False) -> None:
        """Log the counters if they are due and have changed. `final`: they are due now."""
        now = time.monotonic()
        if now < self._due and not final:
            return
        self._due = now + self._seconds
        counts = self.snapshot()
        if counts != self._logged:
            self._log.info("so far", **counts)
            self._logged = counts


class MetricsSource(Protocol):
    """What a page of metrics gets its numbers from."""

    @property
    def series(self) -> Stage:
        """The series that it has."""

    @property
    def histograms(self) -> Mapping[str, Histogram]:
        """Its histograms, by key."""

    def samples(self) -> Samples:
        """Its current numbers."""
