"""The main publisher's page of metrics: its own counts, the lag, and Spark's numbers of the last micro-batch."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from kafka.errors import KafkaError
from pyspark.sql.streaming.listener import StreamingQueryProgress

from emostream.broker import EndOffsets
from emostream.metrics.catalogue import AGGREGATE
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.settings import Settings

END_OFFSETS_TIMEOUT_MS = 1_000  # whoever asks for the page waits this long


class QueryMetrics:
    """The metrics of a main publisher. They outlive a query that fails."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self.metrics = Metrics(log, AGGREGATE)
        self.next_offsets: Mapping[int, int] = {}  # where the next batch begins, by partition of EMOJI_TOPIC
        self.emojis: int | None = None  # in the last batch
        self._settings = settings
        self._end_offsets: EndOffsets | None = None
        self._lock = threading.Lock()
        self._input: float | None = None
        self._processed: float | None = None
        self._steps: dict[str, float] = {}
        self.metrics.read(
            lag=self.lag,
            emojis=lambda: self.emojis,
            spark_input=lambda: self._input,
            spark_processed=lambda: self._processed,
            spark_step=lambda: self._steps,
        )

    def lag(self) -> int | None:
        """Return how many records of EMOJI_TOPIC are not counted yet; None if the broker does not answer."""
        if not self.next_offsets:
            return None
        with self._lock:
            try:
                self._end_offsets = self._end_offsets or EndOffsets(self._settings, self._settings.emoji_topic)
                ends = self._end_offsets.now(END_OFFSETS_TIMEOUT_MS)
            except KafkaError:
                return None
        return sum(max(0, end - self.next_offsets.get(partition, end)) for partition, end in ends.items())

    def take(self, progress: StreamingQueryProgress | None) -> None:
        """Take Spark's numbers of the last micro-batch. One without records says nothing of how fast Spark is."""
        if progress and progress.numInputRows:
            self._input, self._processed = progress.inputRowsPerSecond, progress.processedRowsPerSecond
            self._steps = {step: milliseconds / 1000 for step, milliseconds in progress.durationMs.items()}
