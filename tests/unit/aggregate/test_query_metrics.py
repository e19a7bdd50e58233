"""Spark's numbers of a micro-batch → the page of metrics."""

from __future__ import annotations

from uuid import uuid4

from pyspark.sql.streaming.listener import StreamingQueryProgress

from emostream.aggregate.query_metrics import QueryMetrics
from emostream.process import Log
from testkit.settings import settings_with


def progress(rows: int, per_second: float) -> StreamingQueryProgress:
    """What StreamingQuery.lastProgress returns after a micro-batch of so many rows, made from the JSON of Spark."""
    return StreamingQueryProgress.fromJson(
        {
            "id": str(uuid4()), "runId": str(uuid4()), "name": None, "timestamp": "2026-01-31T20:15:00.000Z",
            "batchId": 7, "batchDuration": 250, "durationMs": {"addBatch": 200, "walCommit": 50}, "stateOperators": [],
            "sources": [], "sink": {"description": "ForeachBatchSink", "numOutputRows": -1},
            "numInputRows": rows, "inputRowsPerSecond": per_second, "processedRowsPerSecond": 4 * per_second,
        }
    )  # fmt: skip


def test_the_page_shows_the_last_micro_batch_that_had_records() -> None:
    found = QueryMetrics(settings_with(), Log("test"))
    found.take(None)
    assert "spark_input" not in found.metrics.samples()
    found.take(progress(100, 50.0))
    found.take(progress(0, 0.0))
    samples = found.metrics.samples()
    assert (samples["spark_input"], samples["spark_processed"]) == ({"": 50.0}, {"": 200.0})
    assert samples["spark_step"] == {"addBatch": 0.2, "walCommit": 0.05}
