"""Records of EMOJI_TOPIC → events → how many of each emoji in each room → the counts that a micro-batch publishes.

Pure: Spark's native functions, then a function of the rows that they return.

records.py says what an event is. The expressions here say it again, from the same constants, because a call of Python
for every record would be far too slow. Both are tested against tests/event_cases.py, which also lists what Spark takes
although the app would refuse it: for example, user_id and timestamp only have to be there.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F

from emostream.records import CONTROL_CHARACTERS, MAX_MERGED_TAPS, MAX_TEXT_BYTES, ROOM_NAME, Count
from emostream.settings import Settings

# An event as our own app writes it: without spaces between its parts, without escapes, without `count`, its user in
# ASCII, and its emoji does not start with a space. This regex takes a third of the time of from_json, and finds the
# same emoji and room. Its group is all from the emoji to the room. U+FFFD stands for bytes that are not UTF-8.
_USER = r"[ !#-\[\]-~]*+"  # Java looks up such a class in a table
PLAIN_EVENT = (
    rf'^(?U)\{{"user_id":"{_USER}","emoji":"((?!\s)[^"\\{CONTROL_CHARACTERS}\ufffd]+","timestamp":"[0-9T:.+-]++'
    rf'(?:","room":"{ROOM_NAME})?)"\}}\z'
)
# Most rows of a micro-batch that reach Python. If there are more, Spark finds the largest of each room.
MAX_ROWS = 30_000


class EmojiRow(NamedTuple):
    """An emoji of a room: a row of count_events. Its fields are read several times faster than those of Spark's Row."""

    room: str
    emoji: str
    events: int
    capped: int
    first_accepted_ms: int
    last_accepted_ms: int


def read_records(records: DataFrame, with_users: bool = False) -> DataFrame:
    """Kafka source columns (value, partition, offset, timestamp) → room, emoji, events, partition, offset, accepted_ms.

    `events` is how many taps the record stands for. A record that is not an event has `room` and `emoji` null, and 1
    there. With `with_users` there is a column `user`, too.
    """
    value = F.col("value").cast("string")
    # from_json ignores whatever follows an object. As an element of an array, such an object makes the array invalid.
    schema = "array<struct<user_id string, emoji string, timestamp string, room string, count string>>"
    parsed = F.from_json(F.concat(F.lit("["), value, F.lit("]")), schema)
    event = F.get(parsed, F.lit(0))
    emoji, room, count = event["emoji"], F.coalesce(event["room"], F.lit("")), event["count"]
    taps = count.try_cast("long")

    def was_text(name: str) -> Column:
        # from_json turns 5, true and {"a":1} into text. What looks like such text must have been a string.
        return ~event[name].rlike(r"^[-0-9tf\[{]") | value.rlike(rf'"{name}"\s*:\s*"')

    valid = (
        (F.size(parsed) == 1)
        & event["user_id"].isNotNull()
        & event["timestamp"].isNotNull()
        & (F.octet_length(emoji) <= MAX_TEXT_BYTES)
        & ~emoji.rlike(r"(?U)^\s*$")
        & ~emoji.rlike(f"[{CONTROL_CHARACTERS}]")
        & was_text("emoji")
        & ((room == "") | (room.rlike(rf"^{ROOM_NAME}\z") & was_text("room")))
        & (count.isNull() | (count.rlike("^[1-9][0-9]*$") & taps.between(1, MAX_MERGED_TAPS)))
    )
    # In two steps: in one, Spark would run the regex again for every use of `plain`. `when` tries its conditions in
    # order, so that from_json is not run for a plain event.
    plain, plain_emoji = F.regexp_extract(value, PLAIN_EVENT, 1), F.substring_index("plain", '"', 1)
    is_plain = F.octet_length(plain_emoji).between(1, MAX_TEXT_BYTES)
    # No text in a plain event has a quote.
    plain_room = F.when(F.col("plain").contains('","room":"'), F.substring_index("plain", '"', -1)).otherwise(F.lit(""))
    plain_user = F.substring_index(F.substring_index(value, '"', 4), '"', -1)
    user = [F.when(is_plain, plain_user).when(valid, event["user_id"]).alias("user")] if with_users else []
    return records.select(plain.alias("plain"), "value", "partition", "offset", "timestamp").select(
        F.when(is_plain, plain_room).when(valid, room).alias("room"),
        F.when(is_plain, plain_emoji).when(valid, emoji).alias("emoji"),
        F.when(is_plain, F.lit(1)).when(valid & count.isNotNull(), taps).otherwise(F.lit(1)).alias("events"),
        *user,
        "partition",
        "offset",
        F.unix_millis("timestamp").alias("accepted_ms"),
    )


def count_events(events: DataFrame, max_taps_per_user: int = 0) -> DataFrame:
    """What read_records returns → one row per room and emoji: room, emoji, events, capped, times.

    The row whose `emoji` is null counts the records that are not events. With `max_taps_per_user`, each user adds at
    most that many events to a row; the others are in `capped`.
    """
    if not max_taps_per_user:
        return events.groupBy("room", "emoji").agg(*_measures())
    by_user = events.groupBy("room", "user", "emoji").agg(*_measures())
    return by_user.groupBy("room", "emoji").agg(*_capped_measures(max_taps_per_user))


def first_rows(counted: DataFrame, rows: int = MAX_ROWS) -> DataFrame:
    """What count_events returns → its rows, but of more than `rows` only one more, so that the caller sees it."""
    return counted.select(*EmojiRow._fields).orderBy(F.desc("events")).limit(rows + 1)


def largest_of_each_room(counted: DataFrame, rooms: int, emojis: int, rows: int = MAX_ROWS) -> DataFrame:
    """What count_events returns → its row without an emoji, and the largest rows of each of the largest rooms.

    Of more than `rows`, it keeps the largest emoji of every room, then the second of every room, and so on.
    """
    room, is_event = Window.partitionBy("room"), F.col("emoji").isNotNull()
    rooms_by_size = Window.partitionBy(is_event).orderBy(F.desc("room_events"), "room")
    return (
        counted.withColumns(
            {
                "room_events": F.sum("events").over(room),
                "rank": F.row_number().over(room.orderBy(F.desc("events"), "emoji")),
            }
        )
        .where(F.col("rank") <= emojis)
        .withColumn("room_rank", F.dense_rank().over(rooms_by_size))
        .where(F.col("room_rank") <= rooms)
        .orderBy(is_event, "rank", "room_rank")
        .select(*EmojiRow._fields)
        .limit(rows + 1)
    )


def totals(counted: DataFrame) -> DataFrame:
    """What count_events returns → one row: the number of rooms, of emojis in them, and of their events."""
    events = F.when(F.col("emoji").isNotNull(), F.col("events"))
    return counted.agg(
        F.countDistinct("room").alias("rooms"), F.count("emoji").alias("emojis"), F.sum(events).alias("events"),
        F.sum("capped").alias("capped"),
    )  # fmt: skip


def first_bad_offsets(events: DataFrame) -> DataFrame:
    """What read_records returns → for each partition with a record that is not an event, the offset of the first."""
    return events.where(F.col("emoji").isNull()).groupBy("partition").agg(F.min("offset").alias("offset"))


@functools.cache  # an expression takes many calls into the JVM, and every batch would wait for them
def _measures() -> tuple[Column, ...]:
    return (
        F.sum("events").alias("events"),
        F.min("accepted_ms").alias("first_accepted_ms"),
        F.max("accepted_ms").alias("last_accepted_ms"),
        F.lit(0).alias("capped"),
    )


@functools.cache
def _capped_measures(max_taps_per_user: int) -> tuple[Column, ...]:
    events = F.col("events")
    counted = F.when(F.col("emoji").isNotNull(), F.least(events, F.lit(max_taps_per_user))).otherwise(events)
    return (
        F.sum(counted).alias("events"),
        F.min("first_accepted_ms").alias("first_accepted_ms"),
        F.max("last_accepted_ms").alias("last_accepted_ms"),
        F.sum(events - counted).alias("capped"),
    )


@dataclass(frozen=True)
class CountedBatch:
    """What one micro-batch publishes, and what it skipped.

    `cut_rooms`, `cut_emojis` and `cut_events` are what MAX_ROOMS_PER_BATCH and MAX_EMOJIS_PER_BATCH kept from being
    published; `capped_events` what MAX_TAPS_PER_USER kept from being counted.
    """

    counts: list[Count]
    bad_records: int = 0
    cut_rooms: int = 0
    cut_emojis: int = 0
    cut_events: int = 0
    capped_events: int = 0

    @property
    def events(self) -> int:
        """How many events the published counts stand for."""
        return sum(count.events or 0 for count in self.counts)

    @property
    def by_room(self) -> Counter[str]:
        """How many events the published counts of each room stand for."""
        found: Counter[str] = Counter()
        for count in self.counts:
            found[count.room] += count.events or 0
        return found


def summarize(
    rows: Iterable[Row], total: Row | None, batch_id: int, batched_ms: int, settings: Settings
) -> CountedBatch:
    """Rows of `first_rows`, or of `largest_of_each_room` with the row of `totals` → a CountedBatch.

    Its counts are ordered by room and emoji. Times are Unix milliseconds.
    """
    rows = list(rows)
    found = [EmojiRow(*row) for row in rows if row["emoji"] is not None]
    kept = found if total else _within_limits(found, settings)
    batch_emojis = Counter(row.room for row in kept)
    return CountedBatch(
        counts=[
            Count(
                emoji=row.emoji,
                count=emoji_count(row.events, settings.events_per_emoji, settings.rounding),
                events=row.events,
                batch_id=batch_id,
                batch_emojis=batch_emojis[row.room],
                first_accepted_ms=row.first_accepted_ms,
                last_accepted_ms=row.last_accepted_ms,
                batched_ms=batched_ms,
                room=row.room,
            )
            for row in sorted(kept, key=itemgetter(0, 1))
        ],
        bad_records=sum(row["events"] for row in rows if row["emoji"] is None),
        cut_rooms=(total["rooms"] if total else len({row.room for row in found})) - len(batch_emojis),
        cut_emojis=(total["emojis"] if total else len(found)) - len(kept),
        cut_events=(total["events"] if total else _events(found)) - _events(kept),
        capped_events=total["capped"] if total else sum(row.capped for row in found),
    )


def _within_limits(found: list[EmojiRow], settings: Settings) -> list[EmojiRow]:
    """The emojis with most events in each of the rooms with most events."""
    by_room: dict[str, list[EmojiRow]] = {}
    for row in sorted(found, key=lambda row: (-row.events, row.emoji)):
        by_room.setdefault(row.room, []).append(row)
    rooms = sorted(by_room, key=lambda room: (-_events(by_room[room]), room))
    kept = (by_room[room][: settings.max_emojis_per_batch] for room in rooms[: settings.max_rooms_per_batch])
    return [row for rows in kept for row in rows]


def _events(rows: Iterable[EmojiRow]) -> int:
    return sum(row.events for row in rows)


def emoji_count(events: int, events_per_emoji: int, rounding: str) -> int:
    """Return the `count` of an emoji with at least one event.

    It is ceil(events / events_per_emoji), or with the rounding `floor` max(1, events // events_per_emoji).
    """
    return max(1, events // events_per_emoji) if rounding == "floor" else -(-events // events_per_emoji)
