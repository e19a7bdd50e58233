"""The counts of the last minutes → buckets for the chart, or all counts as CSV.

MAIN_TOPIC is the only store. It is read when somebody asks; for the chart, only what is new since last time.
"""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timezone

import msgspec

from emostream.operate.dashboard.cached_answer import CachedAnswer
from emostream.operate.dashboard.counts_reader import CountRow, read_counts
from emostream.settings import Settings

WINDOW_MINUTES = 30
BUCKET_SECONDS = 10
ROOMS_SECONDS = 60
SHOWN_ROOMS = 100
BUCKETS = WINDOW_MINUTES * 60 // BUCKET_SECONDS
BUCKETS_OF_ROOMS = ROOMS_SECONDS // BUCKET_SECONDS
SHOWN_EMOJIS = 6
# Emojis that a bucket knows by name. Rooms can have many, and made-up ones must not fill the memory.
MAX_BUCKET_EMOJIS = 1_000
UNNAMED = ""  # no emoji is blank
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


class RoomEvents(msgspec.Struct, frozen=True):
    """The events of a room; the default room is ""."""

    room: str
    events: int


class RoomsView(msgspec.Struct, frozen=True):
    """The answer of GET /rooms: the busiest rooms of the last `seconds`, and the sum of all others."""

    seconds: int
    rooms: list[RoomEvents]
    others: int
    other_rooms: int


class Timeline:
    """The last WINDOW_MINUTES in buckets, kept from one request to the next."""

    def __init__(self, settings: Settings, room: str | None = None) -> None:
        """The counts of one room, or of all rooms together."""
        self._settings = settings
        self._room = room
        self._rooms: dict[int, Counter[str]] = {}  # bucket → events per room, for ROOMS_SECONDS
        self._rooms_view = rooms_view([])
        self._view = CachedAnswer(lambda: self._read(time.time()), TIMELINE_SECONDS)
        self._next_offsets: dict[int, int] = {}
        self._buckets: dict[int, Counter[str]] = {}
        self._read_at = float("-inf")

    def now(self) -> TimelineView:
        """Return the buckets, at most a few seconds old. Raises TopicUnreadable."""
        return self._view.get()

    def rooms(self) -> RoomsView:
        """Return the rooms of the last ROOMS_SECONDS, at most a few seconds old. Raises TopicUnreadable."""
        self.now()
        return self._rooms_view

    def _read(self, now: float) -> TimelineView:
        current = int(now) // BUCKET_SECONDS
        if time.monotonic() - self._read_at > WINDOW_MINUTES * 60:
            self._next_offsets, self._buckets, self._rooms = {}, {}, {}
        since_ms = (current - BUCKETS - 1) * BUCKET_SECONDS * 1000
        for row in read_counts(self._settings, since_ms, self._next_offsets, READ_TIMELINE_SECONDS):
            if self._room not in (None, row.room):
                continue
            number, events = row.time_ms // (BUCKET_SECONDS * 1000), row.count if row.events is None else row.events
            bucket = self._buckets.setdefault(number, Counter())
            known = row.emoji in bucket or len(bucket) < MAX_BUCKET_EMOJIS
            bucket[row.emoji if known else UNNAMED] += events
            if number > current - BUCKETS_OF_ROOMS - 2:
                self._rooms.setdefault(number, Counter())[row.room] += events
        self._buckets = {number: bucket for number, bucket in self._buckets.items() if number > current - BUCKETS - 2}
        # Show only complete buckets. One that is still filling would look like a fall in the chart.
        end = int(now - self._settings.batch_seconds - LATE_SECONDS) // BUCKET_SECONDS
        first_of_rooms = end - BUCKETS_OF_ROOMS
        self._rooms = {number: rooms for number, rooms in self._rooms.items() if number >= first_of_rooms}
        self._rooms_view = rooms_view(bucket for number, bucket in self._rooms.items() if number < end)
        self._read_at = time.monotonic()
        return view(self._buckets, end - BUCKETS)


def view(buckets: dict[int, Counter[str]], first: int) -> TimelineView:
    """Return BUCKETS buckets, starting with number `first`."""
    window = [buckets.get(number, Counter()) for number in range(first, first + BUCKETS)]
    totals = ranked(window)
    shown = [emoji for emoji, _ in totals if emoji != UNNAMED][:SHOWN_EMOJIS]
    series = [EmojiSeries(emoji, [bucket[emoji] for bucket in window]) for emoji in shown]
    others = [bucket.total() - sum(bucket[emoji] for emoji in shown) for bucket in window]
    return TimelineView(first * BUCKET_SECONDS * 1000, BUCKET_SECONDS, series, others, len(totals) - len(shown))


def rooms_view(buckets: Iterable[Counter[str]]) -> RoomsView:
    """Return the sums of these buckets, the busiest rooms first."""
    totals = ranked(buckets)
    shown = [RoomEvents(room, events) for room, events in totals[:SHOWN_ROOMS]]
    rest = totals[SHOWN_ROOMS:]
    return RoomsView(ROOMS_SECONDS, shown, sum(events for _, events in rest), len(rest))


def ranked(buckets: Iterable[Counter[str]]) -> list[tuple[str, int]]:
    """Return each name in these buckets with the sum of its events, the largest first."""
    totals: Counter[str] = Counter()
    for bucket in buckets:
        totals.update(bucket)
    return sorted(totals.items(), key=lambda item: (-item[1], item[0]))


class TooManyRows(Exception):
    """More than MAX_CSV_ROWS."""


def to_csv(settings: Settings, minutes: int, now_ms: int, room: str = "") -> bytes:
    """Return the counts of a room in the last `minutes` as CSV (RFC 4180), oldest first.

    Raises TopicUnreadable, TooManyRows.
    """
    since_ms = now_ms - minutes * 60_000
    rows: list[CountRow] = []
    for row in read_counts(settings, since_ms, {}, READ_CSV_SECONDS):
        if row.time_ms >= since_ms and row.room == room:
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
