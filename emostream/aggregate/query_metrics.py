"""The main publisher's numbers: its own counts, the lag, and Spark's numbers of the last micro-batch."""

from __future__ import annotations

import json
from collections.abc import Mapping

from kafka.errors import KafkaError
from pyspark.sql.streaming.listener import StreamingQueryProgress

from emostream.consumers import EndOffsets
from emostream.metrics.catalogue import AGGREGATE
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.settings import Settings

END_OFFSETS_TIMEOUT_MS = 1_000


class QueryMetrics:
    """The numbers of a main publisher. They outlive a query that fails."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self.metrics = Metrics(log, AGGREGATE)
        self.rooms: int | None = None  # in the last batch
        self.room_events: dict[str, int] = {}  # of the largest of these
        self.emojis: int | None = None  # in all of these
        self.next_offsets: Mapping[int, int] = {}  # up to where the query has read, by partition of EMOJI_TOPIC
        self.made_anew = False  # EMOJI_TOPIC is not the one that the query reads
        self.lag: int | None = None  # how many records are still to be read; None if the broker does not answer
        self._settings = settings
        self._topic_id = ""
        self._ends: EndOffsets | None = None
        self._input: float | None = None
        self._processed: float | None = None
        self._steps: dict[str, float] = {}
        self.metrics.read(
            lag=lambda: self.lag,
            rooms=lambda: self.rooms,
            room_events=lambda: self.room_events,
            emojis=lambda: self.emojis,
            spark_input=lambda: self._input,
            spark_processed=lambda: self._processed,
            spark_step=lambda: self._steps,
        )

    def begin(self, next_offsets: Mapping[int, int], topic_id: str) -> None:
        """A query begins to read the topic with this id at these offsets."""
        self.next_offsets, self._topic_id, self.made_anew = next_offsets, topic_id, False

    def measure(self) -> None:
        """Ask the broker for the lag."""
        try:
            self._ends = self._ends or EndOffsets(self._settings, self._settings.emoji_topic)
            ends = self._ends.now(END_OFFSETS_TIMEOUT_MS)
            self.made_anew = self._ends.topic_id != self._topic_id
        except KafkaError:
            self.lag = None
        else:
            self.lag = sum(max(0, end - self.next_offsets.get(partition, 0)) for partition, end in ends.items())

    def take(self, progress: StreamingQueryProgress | None) -> None:
        """Take Spark's numbers of the last micro-batch. One without records says nothing of how fast Spark is."""
        if progress is None:
            return
        for source in progress.sources:
            # These go beyond the last event: to the end of its transaction, and of those that were aborted.
            for partitions in json.loads(source.endOffset).values():
                self.next_offsets = {int(partition): offset for partition, offset in partitions.items()}
        if progress.numInputRows:
            self._input, self._processed = progress.inputRowsPerSecond, progress.processedRowsPerSecond
            self._steps = {step: milliseconds / 1000 for step, milliseconds in progress.durationMs.items()}
