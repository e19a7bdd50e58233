"""Events → how many of each emoji → the counts that a micro-batch publishes.

Pure: Spark's native functions, then a function of the rows that they return.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from emostream.aggregate.events_per_count import emoji_count
from emostream.broker import PARTITIONS
from emostream.records import Count
from emostream.settings import Settings

PARTITION_NUMBERS = range(PARTITIONS)


def count_events(events: DataFrame) -> DataFrame:
    """What read_records returns → one row per emoji: emoji, events, offsets, times.

    `first_offsets` and `last_offsets` have one element per partition, null if the emoji is not in that partition. The
    row whose `emoji` is null counts the records that are not events.
    """
    return events.groupBy("emoji").agg(*_measures())


def largest(counted: DataFrame, emojis: int) -> DataFrame:
    """What count_events returns → its row without an emoji, and the rows with most events.

    Of the latter there is one more than `emojis`, so that the caller can see whether there are more.
    """
    return counted.orderBy(*_order()).limit(emojis + 2)


def totals(counted: DataFrame) -> DataFrame:
    """What count_events returns → one row: the number of emojis, of their events, and each partition's last offset."""
    return counted.agg(
        F.count("emoji").alias("emojis"),
        F.sum(F.when(F.col("emoji").isNotNull(), F.col("events"))).alias("events"),
        F.array(*(F.max(F.get("last_offsets", F.lit(partition))) for partition in PARTITION_NUMBERS)).alias(
            "last_offsets"
        ),
    )


@functools.cache  # an expression takes many calls into the JVM, and every batch would wait for them
def _measures() -> tuple[Column, ...]:
    offsets = [F.when(F.col("partition") == partition, F.col("offset")) for partition in PARTITION_NUMBERS]
    return (
        F.sum("events").alias("events"),
        F.array(*map(F.min, offsets)).alias("first_offsets"),
        F.array(*map(F.max, offsets)).alias("last_offsets"),
        F.min("accepted_ms").alias("first_accepted_ms"),
        F.max("accepted_ms").alias("last_accepted_ms"),
    )


@functools.cache
def _order() -> tuple[Column, ...]:
    return F.col("emoji").isNotNull(), F.desc("events"), F.asc("emoji")


@dataclass(frozen=True)
class CountedBatch:
    """What one micro-batch publishes, and what it skipped.

    `next_offsets` and `first_bad_offsets` are by partition. `cut_emojis` and `cut_events` are what MAX_EMOJIS_PER_BATCH
    kept from being published.
    """

    counts: list[Count]
    next_offsets: dict[int, int]
    bad_records: int = 0
    first_bad_offsets: dict[int, int] = field(default_factory=dict)
    cut_emojis: int = 0
    cut_events: int = 0

    @property
    def events(self) -> int:
        """How many events the published counts stand for."""
        return sum(count.events or 0 for count in self.counts)


def summarize(
    rows: Iterable[Row], total: Row | None, batch_id: int, batched_ms: int, settings: Settings
) -> CountedBatch:
    """Rows of `largest` → a CountedBatch. Its counts are ordered by emoji; times are Unix milliseconds.

    `total` is the row of `totals` if there are more rows than `largest` returned, otherwise None.
    """
    rows = list(rows)
    bad = next((row for row in rows if row["emoji"] is None), None)
    found = sorted((row for row in rows if row["emoji"] is not None), key=lambda row: (-row["events"], row["emoji"]))
    kept = sorted(found[: settings.max_emojis_per_batch], key=lambda row: row["emoji"])
    all_emojis, all_events = (
        (total["emojis"], total["events"]) if total else (len(found), sum(row["events"] for row in found))
    )
    next_offsets = {
        partition: max(offsets) + 1
        for partition in PARTITION_NUMBERS
        if (offsets := [o for row in ([total] if total else rows) if (o := row["last_offsets"][partition]) is not None])
    }
    return CountedBatch(
        counts=[
            Count(
                emoji=row["emoji"],
                count=emoji_count(row["events"], settings.events_per_emoji, settings.rounding),
                events=row["events"],
                batch_id=batch_id,
                batch_emojis=len(kept),
                first_accepted_ms=row["first_accepted_ms"],
                last_accepted_ms=row["last_accepted_ms"],
                batched_ms=batched_ms,
            )
            for row in kept
        ],
        next_offsets=next_offsets,
        bad_records=bad["events"] if bad else 0,
        first_bad_offsets={p: o for p, o in enumerate(bad["first_offsets"]) if o is not None} if bad else {},
        cut_emojis=all_emojis - len(kept),
        cut_events=all_events - sum(row["events"] for row in kept),
    )
