"""The counts of the last minutes → buckets for the chart, or all counts as CSV.

MAIN_TOPIC is the only store. It is read when somebody asks; for the chart, only what is new since last time.
"""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from datetime import datetime, timezone

import msgspec

from emostream.operate.dashboard.cached_answer import CachedAnswer
from emostream.operate.dashboard.counts_reader import CountRow, read_counts
from emostream.settings import Settings

WINDOW_MINUTES = 30
BUCKET_SECONDS = 10
BUCKETS = WINDOW_MINUTES * 60 // BUCKET_SECONDS
SHOWN_EMOJIS = 6
TIMELINE_SECONDS = 2.0
READ_TIMELINE_SECONDS = 8.0
# How long after the end of its micro-batch a count may still arrive on the topic.
LATE_SECONDS = 1.5
MAX_CSV_MINUTES = 360
# 65 minutes of micro-batches with MAX_EMOJIS_PER_BATCH emojis each; they take about 40 MB while the answer is made.
MAX_CSV_ROWS = 200_000
READ_CSV_SECONDS = 30.0
# A spreadsheet takes a cell that starts with one of these for a formula. The last four are wide forms.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")


class EmojiSeries(msgspec.Struct, frozen=True):
    """The events of one emoji, one number for each bucket."""

    emoji: str
    events: list[int]


class TimelineView(msgspec.Struct, frozen=True):
    """The answer of GET /timeline.json: the most frequent emojis, and the sum of all others; oldest bucket first."""

    first_ms: int
    bucket_seconds: int
    emojis: list[EmojiSeries]
    others: list[int]
    other_emojis: int


class Timeline:
    """The last WINDOW_MINUTES in buckets, kept from one request to the next."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._view = CachedAnswer(lambda: self._read(time.time()), TIMELINE_SECONDS)
        self._next_offsets: dict[int, int] = {}
        self._buckets: dict[int, Counter[str]] = {}
        self._read_at = float("-inf")

    def now(self) -> TimelineView:
        """Return the buckets, at most a few seconds old. Raises TopicUnreadable."""
        return self._view.get()

    def _read(self, now: float) -> TimelineView:
        current = int(now) // BUCKET_SECONDS
        if time.monotonic() - self._read_at > WINDOW_MINUTES * 60:
            self._next_offsets, self._buckets = {}, {}
        since_ms = (current - BUCKETS - 1) * BUCKET_SECONDS * 1000
        for row in read_counts(self._settings, since_ms, self._next_offsets, READ_TIMELINE_SECONDS):
            bucket = self._buckets.setdefault(row.time_ms // (BUCKET_SECONDS * 1000), Counter())
            bucket[row.emoji] += row.count if row.events is None else row.events
        self._buckets = {number: bucket for number, bucket in self._buckets.items() if number > current - BUCKETS - 2}
        # Show only complete buckets. One that is still filling would look like a fall in the chart.
        end = int(now - self._settings.batch_seconds - LATE_SECONDS) // BUCKET_SECONDS
        self._read_at = time.monotonic()
        return view(self._buckets, end - BUCKETS)


def view(buckets: dict[int, Counter[str]], first: int) -> TimelineView:
    """Return BUCKETS buckets, starting with number `first`."""
    window = [buckets.get(number, Counter()) for number in range(first, first + BUCKETS)]
    totals: Counter[str] = Counter()
    for bucket in window:
        totals.update(bucket)
    shown = [emoji for emoji, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_EMOJIS]]
    series = [EmojiSeries(emoji, [bucket[emoji] for bucket in window]) for emoji in shown]
    others = [bucket.total() - sum(bucket[emoji] for emoji in shown) for bucket in window]
    return TimelineView(first * BUCKET_SECONDS * 1000, BUCKET_SECONDS, series, others, len(totals) - len(shown))


class TooManyRows(Exception):
    """More than MAX_CSV_ROWS."""


def to_csv(settings: Settings, minutes: int, now_ms: int) -> bytes:
    """Return the counts of the last `minutes` as CSV (RFC 4180), oldest first. Raises TopicUnreadable, TooManyRows."""
    since_ms = now_ms - minutes * 60_000
    rows: list[CountRow] = []
    for row in read_counts(settings, since_ms, {}, READ_CSV_SECONDS):
        if row.time_ms >= since_ms:
            rows.append(row)
        if len(rows) > MAX_CSV_ROWS:
            raise TooManyRows
    rows.sort(key=lambda row: (row.time_ms, row.batch_id or 0, -row.count, row.emoji))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("time", "batch_id", "emoji", "count", "events"))
    writer.writerows((_iso(row.time_ms), row.batch_id, harmless(row.emoji), row.count, row.events) for row in rows)
    return text.getvalue().encode()


def harmless(text: str) -> str:
    """Return the text, with an apostrophe in front if a spreadsheet would take it for a formula."""
    return f"'{text}" if text.lstrip().startswith(FORMULA) or text.startswith(FORMULA) else text


def _iso(time_ms: int) -> str:
    shown = datetime.fromtimestamp(time_ms / 1000, timezone.utc).isoformat(timespec="milliseconds")
    return shown.replace("+00:00", "Z")
