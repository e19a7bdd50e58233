"""Counts and histograms of one process: plain numbers, because a tap costs 20 µs and counts often.

prometheus-client's own counters cost 0.5 to 2 µs each between the app's processes; it only writes the page (page.py).
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from emostream.metrics.catalogue import Series, Stage
from emostream.process import Log

# A number, or one for each value of the label; None where it is not known.
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
