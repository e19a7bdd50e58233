"""Records of EMOJI_TOPIC → events, as columns of Spark. Pure: native functions, no UDF.

records.py says what an event is. These expressions say it again, from the same constants, because a call of Python for
every record would be far too slow. Both are tested against tests/event_cases.py, which also lists what Spark takes
although the app would refuse it: for example, user_id and timestamp only have to be there.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from emostream.records import CONTROL_CHARACTERS, MAX_MERGED_TAPS, MAX_TEXT_BYTES

EVENT_SCHEMA = "user_id string, emoji string, timestamp string, count string"
# An event as our own app writes it: without spaces between its parts, without escapes, without `count`, and its emoji
# does not start with a space. This regex takes a third of the time of from_json, and finds the same emoji.
# U+FFFD stands for bytes that are not UTF-8.
_STRING = r'[^"\\\x00-\x1f\ufffd]*'
PLAIN_EVENT = (
    rf'^(?U)\{{"user_id":"{_STRING}","emoji":"((?!\s)[^"\\{CONTROL_CHARACTERS}\ufffd]+)","timestamp":"[0-9T:.+-]+"\}}\z'
)


def read_records(records: DataFrame) -> DataFrame:
    """Kafka source columns (value, partition, offset, timestamp) → emoji, events, partition, offset, accepted_ms.

    A record that is not an event has the `emoji` null and 1 in `events`.
    """
    plain, emoji, events = parsed_event()
    # In two steps: in one, Spark would run the regex again for every use of `plain`.
    return records.select(plain.alias("plain"), "value", "partition", "offset", "timestamp").select(
        emoji.alias("emoji"),
        events.alias("events"),
        "partition",
        "offset",
        F.unix_millis("timestamp").alias("accepted_ms"),
    )


def parsed_event() -> tuple[Column, Column, Column]:
    """Return three columns of the column `value`. The last two also read the first, by the name `plain`.

    1. The emoji if the record is a PLAIN_EVENT, otherwise "".
    2. The emoji if the record is an event, otherwise null.
    3. How many taps the record stands for: 1 if it is not an event.
    """
    value = F.col("value").cast("string")
    # from_json ignores whatever follows an object. As an element of an array, such an object makes the array invalid.
    events = F.from_json(F.concat(F.lit("["), value, F.lit("]")), f"array<struct<{EVENT_SCHEMA}>>")
    event = F.get(events, F.lit(0))
    emoji, count = event["emoji"], event["count"]
    taps = count.try_cast("long")
    valid = (
        (F.size(events) == 1)
        & event["user_id"].isNotNull()
        & event["timestamp"].isNotNull()
        & (F.octet_length(emoji) <= MAX_TEXT_BYTES)
        & ~emoji.rlike(r"(?U)^\s*$")
        & ~emoji.rlike(f"[{CONTROL_CHARACTERS}]")
        # from_json turns 5, true and {"a":1} into text. An emoji that looks like such text must have been a string.
        & (~emoji.rlike(r"^[-0-9tf\[{]") | value.rlike(r'"emoji"\s*:\s*"'))
        & (count.isNull() | (count.rlike("^[1-9][0-9]*$") & taps.between(1, MAX_MERGED_TAPS)))
    )
    is_plain = F.octet_length("plain").between(1, MAX_TEXT_BYTES)
    return (
        F.regexp_extract(value, PLAIN_EVENT, 1),
        F.when(is_plain, F.col("plain")).otherwise(F.when(valid, emoji)),
        F.when(is_plain, F.lit(1)).otherwise(F.when(valid & count.isNotNull(), taps).otherwise(F.lit(1))),
    )
