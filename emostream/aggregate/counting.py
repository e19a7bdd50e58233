"""Records of EMOJI_TOPIC → how often each emoji was tapped → the counts that a micro-batch publishes.

Pure: Spark's native functions on the one side, a function of rows on the other. aggregate.py has all that acts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from emostream.broker import PARTITIONS
from emostream.records import CONTROL_CHARACTERS, MAX_TEXT_BYTES, Count
from emostream.settings import Settings

EVENT_SCHEMA = "user_id string, emoji string, timestamp string, count string"
PARTITION_NUMBERS = range(PARTITIONS)
# An event as our own app writes it: no space between, nothing escaped, and an emoji that does not begin with a space.
# To see that takes a third of the time of reading it as JSON, which says the same of it. U+FFFD is what is not UTF-8.
_STRING = r'[^"\\\x00-\x1f\ufffd]*'
PLAIN_EVENT = (
    rf'^(?U)\{{"user_id":"{_STRING}","emoji":"((?!\s)[^"\\{CONTROL_CHARACTERS}\ufffd]+)","timestamp":"[0-9T:.+-]+"\}}\z'
)


def read_records(records: DataFrame) -> DataFrame:
    """Kafka source columns (value, partition, offset, timestamp) → emoji, events, partition, offset, accepted_ms.

    `emoji` is null, and `events` 1, where a record is no event.
    """
    plain, emoji, events = parsed_event()
    # Two steps, or Spark would look for each use of `plain` anew.
    return records.select(plain.alias("plain"), "value", "partition", "offset", "timestamp").select(
        emoji.alias("emoji"),
        events.alias("events"),
        "partition",
        "offset",
        F.unix_millis("timestamp").alias("accepted_ms"),
    )


def count_events(events: DataFrame) -> DataFrame:
    """What read_records returns → one row per emoji: emoji, events, offsets, times.

    `first_offsets` and `last_offsets` have an element per partition, null where the emoji is not in it. The records
    that are no events are the row whose `emoji` is null.
    """
    return events.groupBy("emoji").agg(*_measures())


def largest(counted: DataFrame, emojis: int) -> DataFrame:
    """Of what count_events returns: the records that are no events, and the emojis with most events.

    One more than `emojis`, so that whoever reads it sees that there are more.
    """
    return counted.orderBy(*_order()).limit(emojis + 2)


def totals(counted: DataFrame) -> DataFrame:
    """Of what count_events returns, one row: how many emojis, their events, and the last offset of each partition."""
    return counted.agg(
        F.count("emoji").alias("emojis"),
        F.sum(F.when(F.col("emoji").isNotNull(), F.col("events"))).alias("events"),
        F.array(*(F.max(F.get("last_offsets", F.lit(partition))) for partition in PARTITION_NUMBERS)).alias(
            "last_offsets"
        ),
    )


def parsed_event() -> tuple[Column, Column, Column]:
    """Three columns: the emoji of a plain event in `value`, else ""; of `plain` and `value` the emoji, and its number.

    The emoji is null where there is no event. What is one is as in records.py; of user_id and timestamp only that
    they are strings matters here.
    """
    value = F.col("value").cast("string")
    # As the one element of an array, because from_json does not mind what comes after the object it has read.
    events = F.from_json(F.concat(F.lit("["), value, F.lit("]")), f"array<struct<{EVENT_SCHEMA}>>")
    event = F.get(events, F.lit(0))
    emoji, count = event["emoji"], event["count"]
    valid = (
        (F.size(events) == 1)
        & event["user_id"].isNotNull()
        & event["timestamp"].isNotNull()
        & (F.octet_length(emoji) <= MAX_TEXT_BYTES)
        & ~emoji.rlike(r"(?U)^\s*$")
        & ~emoji.rlike(f"[{CONTROL_CHARACTERS}]")
        # from_json turns 5, true or {"a":1} into their text. What looks like such a text must have been a string.
        & (~emoji.rlike(r"^[-0-9tf\[{]") | value.rlike(r'"emoji"\s*:\s*"'))
        & (count.isNull() | count.rlike("^([1-9][0-9]{0,2}|1000)$"))  # 1 to MAX_MERGED_TAPS
    )
    is_plain = F.octet_length("plain").between(1, MAX_TEXT_BYTES)
    return (
        F.regexp_extract(value, PLAIN_EVENT, 1),
        F.when(is_plain, F.col("plain")).otherwise(F.when(valid, emoji)),
        # A record that is no event is one record, whatever count it names.
        F.when(is_plain, F.lit(1)).otherwise(F.when(valid & count.isNotNull(), count.cast("long")).otherwise(F.lit(1))),
    )


@functools.cache  # an expression is many calls into the JVM, all of them before a batch can be counted
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
class Batch:
    """What one micro-batch leaves: its counts, and per partition its next offset and its first bad record's.

    `cut_emojis` and `cut_events` are what MAX_EMOJIS_PER_BATCH kept from being published.
    """

    counts: list[Count]
    next_offsets: dict[int, int]
    bad_records: int = 0
    first_bad_offsets: dict[int, int] = field(default_factory=dict)
    cut_emojis: int = 0
    cut_events: int = 0


def summarize(rows: Iterable[Row], total: Row | None, batch_id: int, batched_ms: int, settings: Settings) -> Batch:
    """Rows of count_events → a Batch. Counts are ordered by emoji; times are Unix milliseconds.

    `total` is the row of `totals` where `rows` are not all, else None.
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
    return Batch(
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


def emoji_count(events: int, events_per_emoji: int, rounding: str) -> int:
    """The `count` of an emoji with at least one event: ceil(events / n), or max(1, events // n) for `floor`."""
    if rounding == "floor":
        return max(1, events // events_per_emoji)
    return -(-events // events_per_emoji)
