"""The metrics of all workers of one app, which any of them can report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from emostream.metrics.counters import Histogram, Metrics, Samples


class WorkerMetrics:
    """The sum of the metrics of all workers of one app. Each worker leaves its own in a file for the others.

    The counters of a worker that has ended still count; its gauges do not.
    """

    histograms: Mapping[str, Histogram] = {}

    def __init__(self, directory: Path, metrics: Metrics, pid: int | None = None) -> None:
        self.series = metrics.series
        self._directory = directory
        self._metrics = metrics
        self._path = directory / f"{os.getpid() if pid is None else pid}.json"
        self._published: Samples = {}

    def publish(self) -> None:
        """Write our numbers to our file if they have changed. While the disk is full the file stays as it is."""
        samples = self._metrics.samples()
        if samples != self._published:
            with suppress(OSError):
                self._directory.mkdir(parents=True, exist_ok=True)
                aside = self._path.with_suffix(".new")
                aside.write_bytes(msgspec.json.encode(samples))
                aside.replace(self._path)
                self._published = samples

    def samples(self) -> Samples:
        """Return the sum of our current numbers and those in the other workers' files."""
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


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
