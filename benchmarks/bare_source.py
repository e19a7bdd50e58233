"""Print how many events/s Spark's Kafka source reads of emoji-topic with nothing behind it, the second time.

The same session and micro-batches as the main publisher's, but the source's default options. benchmarks/aggregate.py
runs it.
"""

from __future__ import annotations

import tempfile

from pyspark.sql.streaming.readwriter import DataStreamReader

from emostream.aggregate.spark import make_session
from emostream.settings import load


def read(source: DataStreamReader) -> float:
    """Events/s of all micro-batches of one reading."""
    with tempfile.TemporaryDirectory() as checkpoint:
        sink = source.load().writeStream.format("noop").option("checkpointLocation", checkpoint)
        reading = sink.trigger(availableNow=True).start()
        reading.awaitTermination()
    batches = reading.recentProgress
    rows, milliseconds = (sum(float(batch[name]) for batch in batches) for name in ("numInputRows", "batchDuration"))
    return 1000 * rows / milliseconds


def main() -> None:
    """Read twice."""
    settings = load()
    session = make_session(settings)
    source = session.readStream.format("kafka").options(
        **{"kafka.bootstrap.servers": settings.kafka_bootstrap_servers}, subscribe=settings.emoji_topic,
        startingOffsets="earliest", maxOffsetsPerTrigger=settings.max_events_per_batch,
    )  # fmt: skip
    read(source)
    print(read(source))
    session.stop()


if __name__ == "__main__":
    main()
