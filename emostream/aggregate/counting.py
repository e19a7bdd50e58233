"""Records of EMOJI_TOPIC → events → how many of each emoji → the counts that a micro-batch publishes.

Pure: Spark's native functions, then a function of the rows that they return.

records.py says what an event is. The expressions here say it again, from the same constants, because a call of Python
for every record would be far too slow. Both are tested against tests/event_cases.py, which also lists what Spark takes
although the app would refuse it: for example, user_id and timestamp only have to be there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from emostream.records import CONTROL_CHARACTERS, MAX_MERGED_TAPS, MAX_TEXT_BYTES, Count
from emostream.settings import Settings

# An event as our own app writes it: without spaces between its parts, without escapes, without `count`, and its emoji
# does not start with a space. This regex takes a third of the time of from_json, and finds the same emoji.
# U+FFFD stands for bytes that are not UTF-8.
_STRING = r'[^"\\\x00-\x1f\ufffd]*'
PLAIN_EVENT = (
    rf'^(?U)\{{"user_id":"{_STRING}","emoji":"((?!\s)[^"\\{CONTROL_CHARACTERS}\ufffd]+)","timestamp":"[0-9T:.+-]+"\}}\z'
)


def read_records(records: DataFrame) -> DataFrame:
    """Kafka source columns (value, partition, offset, timestamp) → emoji, events, partition, offset, accepted_ms.

    `events` is how many taps the record stands for. A record that is not an event has the `emoji` null and 1 there.
    """
    value = F.col("value").cast("string")
    # from_json ignores whatever follows an object. As an element of an array, such an object makes the array invalid.
    schema = "array<struct<user_id string, emoji string, timestamp string, count string>>"
    parsed = F.from_json(F.concat(F.lit("["), value, F.lit("]")), schema)
    event = F.get(parsed, F.lit(0))
    emoji, count = event["emoji"], event["count"]
    taps = count.try_cast("long")
    valid = (
        (F.size(parsed) == 1)
        & event["user_id"].isNotNull()
        & event["timestamp"].isNotNull()
        & (F.octet_length(emoji) <= MAX_TEXT_BYTES)
        & ~emoji.rlike(r"(?U)^\s*$")
        & ~emoji.rlike(f"[{CONTROL_CHARACTERS}]")
        # from_json turns 5, true and {"a":1} into text. An emoji that looks like such text must have been a string.
        & (~emoji.rlike(r"^[-0-9tf\[{]") | value.rlike(r'"emoji"\s*:\s*"'))
        & (count.isNull() | (count.rlike("^[1-9][0-9]*$") & taps.between(1, MAX_MERGED_TAPS)))
    )
    # In two steps: in one, Spark would run the regex again for every use of `plain`. `when` tries its conditions in
    # order, so that from_json is not run for a plain event.
    plain, is_plain = F.regexp_extract(value, PLAIN_EVENT, 1), F.octet_length("plain").between(1, MAX_TEXT_BYTES)
    return records.select(plain.alias("plain"), "value", "partition", "offset", "timestamp").select(
        F.when(is_plain, F.col("plain")).when(valid, emoji).alias("emoji"),
        F.when(is_plain, F.lit(1)).when(valid & count.isNotNull(), taps).otherwise(F.lit(1)).alias("events"),
        "partition",
        "offset",
        F.unix_millis("timestamp").alias("accepted_ms"),
    )


def count_events(events: DataFrame) -> DataFrame:
    """What read_records returns → one row per emoji: emoji, events, times.

    The row whose `emoji` is null counts the records that are not events.
    """
    return events.groupBy("emoji").agg(*_measures())


def largest(counted: DataFrame, emojis: int) -> DataFrame:
    """What count_events returns → its row without an emoji, and the rows with most events.

    Of the latter there is one more than `emojis`, so that the caller can see whether there are more.
    """
    return counted.orderBy(*_order()).limit(emojis + 2)


def totals(counted: DataFrame) -> DataFrame:
    """What count_events returns → one row: the number of emojis, and of their events."""
    return counted.agg(
        F.count("emoji").alias("emojis"),
        F.sum(F.when(F.col("emoji").isNotNull(), F.col("events"))).alias("events"),
    )


def first_bad_offsets(events: DataFrame) -> DataFrame:
    """What read_records returns → for each partition with a record that is not an event, the offset of the first."""
    return events.where(F.col("emoji").isNull()).groupBy("partition").agg(F.min("offset").alias("offset"))


@functools.cache  # an expression takes many calls into the JVM, and every batch would wait for them
def _measures() -> tuple[Column, ...]:
    return (
        F.sum("events").alias("events"),
        F.min("accepted_ms").alias("first_accepted_ms"),
        F.max("accepted_ms").alias("last_accepted_ms"),
    )


@functools.cache
def _order() -> tuple[Column, ...]:
    return F.col("emoji").isNotNull(), F.desc("events"), F.asc("emoji")


@dataclass(frozen=True)
class CountedBatch:
    """What one micro-batch publishes, and what it skipped.

    `cut_emojis` and `cut_events` are what MAX_EMOJIS_PER_BATCH kept from being published.
    """

    counts: list[Count]
    bad_records: int = 0
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
        bad_records=bad["events"] if bad else 0,
        cut_emojis=(total["emojis"] if total else len(found)) - len(kept),
        cut_events=(total["events"] if total else _events(found)) - _events(kept),
    )


def _events(rows: Iterable[Row]) -> int:
    return sum(row["events"] for row in rows)


def emoji_count(events: int, events_per_emoji: int, rounding: str) -> int:
    """Return the `count` of an emoji with at least one event.

    It is ceil(events / events_per_emoji), or with the rounding `floor` max(1, events // events_per_emoji).
    """
    return max(1, events // events_per_emoji) if rounding == "floor" else -(-events // events_per_emoji)
