"""How the aggregation comes on, for its page of metrics: its lag, and what Spark tells of each micro-batch."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from kafka.errors import KafkaError
from pyspark import SparkContext
from pyspark.sql.streaming.listener import (
    JStreamingQueryListener,
    QueryProgressEvent,
    QueryStartedEvent,
    QueryTerminatedEvent,
    StreamingQueryListener,
)

from emostream.broker import EndOffsets
from emostream.metrics.catalogue import AGGREGATE
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.settings import Settings

ENDS_TIMEOUT_MS = 1_000  # whoever asks for the page waits for it


class _Caller(JStreamingQueryListener):
    """What Spark's JVM calls."""

    def onQueryProgress(self, jevent: Any) -> None:  # noqa: N802
        """Hand an event on that is read as one text; PySpark asks the JVM for it field by field, some hundred times."""
        self.pylistener.onQueryProgress(QueryProgressEvent.fromJson({"progress": json.loads(jevent.progress().json())}))


class Progress(StreamingQueryListener):
    """The numbers of all that aggregates in this process, one query after another."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self.metrics = Metrics(log, AGGREGATE)
        self.next_offsets: Mapping[int, int] = {}  # per partition of EMOJI_TOPIC, where the next batch begins
        self.emojis: int | None = None  # of the last batch
        self._settings = settings
        self._ends: EndOffsets | None = None
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
        """Records of EMOJI_TOPIC that are not counted yet; None where the broker does not say."""
        if not self.next_offsets:
            return None
        with self._lock:
            try:
                self._ends = self._ends or EndOffsets(self._settings, self._settings.emoji_topic)
                ends = self._ends.now(ENDS_TIMEOUT_MS)
            except KafkaError:
                return None
        return sum(max(0, end - self.next_offsets.get(partition, end)) for partition, end in ends.items())

    @property
    def _jlistener(self) -> Any:
        if not hasattr(self, "_jlistenerobj"):
            wrapper = SparkContext._jvm.PythonStreamingQueryListenerWrapper  # type: ignore[union-attr]
            self._jlistenerobj = wrapper(_Caller(self))
        return self._jlistenerobj

    # What Spark calls, in a thread of its own.
    def onQueryStarted(self, event: QueryStartedEvent) -> None:  # noqa: N802
        """A query began."""

    def onQueryProgress(self, event: QueryProgressEvent) -> None:  # noqa: N802
        """A micro-batch has ended, or there was none for 10 s, which says nothing."""
        progress = event.progress
        if progress.numInputRows:
            self._input, self._processed = progress.inputRowsPerSecond, progress.processedRowsPerSecond
            self._steps = {step: milliseconds / 1000 for step, milliseconds in progress.durationMs.items()}

    def onQueryTerminated(self, event: QueryTerminatedEvent) -> None:  # noqa: N802
        """A query ended."""
