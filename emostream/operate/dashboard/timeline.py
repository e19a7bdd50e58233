"""MAIN_TOPIC → what was counted in the last minutes: rows for GET /timeline.csv, buckets of 10 s for the dashboard.

The topic is the only store. Nothing reads it while nobody asks; whoever asks again pays for what is new.
"""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone

import msgspec
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from emostream.broker import PARTITIONS, bulk_consumer
from emostream.operate.dashboard.cache import Latest
from emostream.records import InvalidRecord, parse_count
from emostream.settings import Settings

MAX_MINUTES = 360
MAX_ROWS = 200_000  # some 40 MB while the answer is made; 65 minutes of MAX_EMOJIS_PER_BATCH different ones a batch
CSV_SECONDS = 30.0
# A broker on this machine answers in milliseconds.
BROKER_SECONDS = 3.0
MESSAGES_AT_ONCE = 5_000
# A publisher whose clock is further off than this is not believed: the broker's time is taken.
MAX_SKEW_MS = 60_000

WINDOW_MINUTES = 30
BUCKET_SECONDS = 10
BUCKETS = WINDOW_MINUTES * 60 // BUCKET_SECONDS
SHOWN_EMOJIS = 6
FRESH_SECONDS = 2.0
REFRESH_SECONDS = 8.0
# How late the counts of a bucket may be on the topic, besides their micro-batch.
LATE_SECONDS = 1.5

# What makes a spreadsheet take a cell for a formula, in the widths in which it may be written.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")
COLUMNS = ("time", "batch_id", "emoji", "count", "events")


class Away(Exception):
    """The topic cannot be read now; the text says why."""


class TooManyRows(Exception):
    """More than MAX_ROWS."""


@dataclass(frozen=True, slots=True)
class Row:
    """One emoji's number in one micro-batch, which was counted at `time_ms`, in Unix milliseconds."""

    time_ms: int
    batch_id: int | None
    emoji: str
    count: int
    events: int | None


class EmojiSeries(msgspec.Struct, frozen=True):
    """The events of one emoji, a number for each bucket."""

    emoji: str
    events: list[int]


class View(msgspec.Struct, frozen=True):
    """The answer of GET /timeline.json: the most frequent emojis, and all others together; oldest bucket first."""

    first_ms: int
    bucket_seconds: int
    emojis: list[EmojiSeries]
    others: list[int]
    other_emojis: int


def read(settings: Settings, since_ms: int, next_offsets: dict[int, int], timeout_seconds: float) -> Iterator[Row]:
    """Every count from `next_offsets` on to the end of the topic; they move along.

    A partition that they do not name is read from `since_ms` on. Records that are no counts are left out, as the
    stages that read them log them. Raises Away.
    """
    deadline = time.monotonic() + timeout_seconds
    with closing(bulk_consumer(settings)) as consumer:
        try:
            starts = _starts(consumer, settings.main_topic, since_ms, next_offsets)
            consumer.assign(starts)
            unread = {tp.partition for tp in starts}
            while unread:
                if time.monotonic() > deadline:
                    raise Away(f"{settings.main_topic} was not read to its end in {timeout_seconds:g} s")
                for message in consumer.consume(MESSAGES_AT_ONCE, timeout=0.1):
                    if error := message.error():
                        if error.code() != KafkaError._PARTITION_EOF:
                            raise KafkaException(error)
                        unread.discard(message.partition())
                        continue
                    # Their types allow None, which no record has.
                    next_offsets[message.partition() or 0] = (message.offset() or 0) + 1
                    if row := _row(message):
                        yield row
        except KafkaException as error:
            brokers = ", ".join(settings.bootstrap_servers)
            raise Away(f"{settings.main_topic} cannot be read from {brokers} ({_reason(error)})") from error


def to_csv(settings: Settings, minutes: int, now_ms: int) -> bytes:
    """The counts of the last `minutes` as CSV (RFC 4180, UTF-8), oldest first. Raises Away, TooManyRows."""
    since_ms = now_ms - minutes * 60_000
    rows: list[Row] = []
    for row in read(settings, since_ms, {}, CSV_SECONDS):
        if row.time_ms >= since_ms:
            rows.append(row)
        if len(rows) > MAX_ROWS:
            raise TooManyRows
    rows.sort(key=lambda row: (row.time_ms, row.batch_id or 0, -row.count, row.emoji))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows((_iso(row.time_ms), row.batch_id, harmless(row.emoji), row.count, row.events) for row in rows)
    return text.getvalue().encode()


def harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip().startswith(FORMULA) or text.startswith(FORMULA) else text


class Timeline:
    """The last WINDOW_MINUTES in buckets, kept between two looks at them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._latest = Latest(lambda: self._read(time.time()), FRESH_SECONDS)
        self._next_offsets: dict[int, int] = {}
        self._buckets: dict[int, Counter[str]] = {}
        self._read_at = float("-inf")

    def now(self) -> View:
        """What was counted, at most some seconds ago. Raises Away."""
        return self._latest.get()

    def _read(self, now: float) -> View:
        present = int(now) // BUCKET_SECONDS
        if time.monotonic() - self._read_at > WINDOW_MINUTES * 60:
            self._next_offsets, self._buckets = {}, {}
        since_ms = (present - BUCKETS - 1) * BUCKET_SECONDS * 1000
        for row in read(self._settings, since_ms, self._next_offsets, REFRESH_SECONDS):
            bucket = self._buckets.setdefault(row.time_ms // (BUCKET_SECONDS * 1000), Counter())
            bucket[row.emoji] += row.count if row.events is None else row.events
        self._buckets = {number: bucket for number, bucket in self._buckets.items() if number > present - BUCKETS - 2}
        # The last bucket is one that is whole; one that fills yet would look like a fall.
        whole = int(now - self._settings.batch_seconds - LATE_SECONDS) // BUCKET_SECONDS
        self._read_at = time.monotonic()
        return view(self._buckets, whole - BUCKETS)


def view(buckets: dict[int, Counter[str]], first: int) -> View:
    """BUCKETS buckets from number `first` on."""
    window = [buckets.get(number, Counter()) for number in range(first, first + BUCKETS)]
    totals: Counter[str] = Counter()
    for bucket in window:
        totals.update(bucket)
    shown = [emoji for emoji, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_EMOJIS]]
    series = [EmojiSeries(emoji, [bucket[emoji] for bucket in window]) for emoji in shown]
    others = [bucket.total() - sum(bucket[emoji] for emoji in shown) for bucket in window]
    return View(first * BUCKET_SECONDS * 1000, BUCKET_SECONDS, series, others, len(totals) - len(shown))


def _starts(consumer: Consumer, topic: str, since_ms: int, next_offsets: dict[int, int]) -> list[TopicPartition]:
    """Where to begin in each partition that has something new. Raises KafkaException."""
    found = consumer.offsets_for_times([TopicPartition(topic, p, since_ms) for p in range(PARTITIONS)], BROKER_SECONDS)
    ends = {}
    for tp in found:
        if tp.error:
            raise KafkaException(tp.error)
        _, ends[tp.partition] = consumer.get_watermark_offsets(tp, BROKER_SECONDS)
    if any(next_offsets.get(partition, 0) > end for partition, end in ends.items()):
        next_offsets.clear()  # the topic was replaced, and begins anew
    for tp in found:
        first = ends[tp.partition] if tp.offset == OFFSET_END else tp.offset
        next_offsets.setdefault(tp.partition, first)
    return [TopicPartition(topic, p, offset) for p, offset in next_offsets.items() if offset < ends[p]]


def _row(message: Message) -> Row | None:
    try:
        count = parse_count(message.value())
    except InvalidRecord:
        return None
    _, published_ms = message.timestamp()
    batched_ms = count.batched_ms
    believed = batched_ms is not None and abs(batched_ms - published_ms) <= MAX_SKEW_MS
    time_ms = batched_ms if batched_ms is not None and believed else published_ms
    return Row(time_ms, count.batch_id, count.emoji, count.count, count.events)


def _iso(time_ms: int) -> str:
    shown = datetime.fromtimestamp(time_ms / 1000, timezone.utc).isoformat(timespec="milliseconds")
    return shown.replace("+00:00", "Z")


def _reason(error: KafkaException) -> str:
    found = error.args[0]
    return found.str() if isinstance(found, KafkaError) else str(found)
