"""The counts of the last minutes → GET /timeline.csv (RFC 4180, UTF-8)."""

from __future__ import annotations

import csv
import io
from datetime import datetime, timezone

from emostream.operate.dashboard.counts_reader import CountRow, read_counts
from emostream.settings import Settings

MAX_MINUTES = 360
# About 40 MB while the answer is made: 65 minutes of micro-batches with MAX_EMOJIS_PER_BATCH emojis each.
MAX_ROWS = 200_000
READ_SECONDS = 30.0
COLUMNS = ("time", "batch_id", "emoji", "count", "events")
# A spreadsheet takes a cell that starts with one of these for a formula. The last four are the wide forms of the first.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")


class TooManyRows(Exception):
    """More than MAX_ROWS."""


def to_csv(settings: Settings, minutes: int, now_ms: int) -> bytes:
    """Return the counts of the last `minutes` as CSV, oldest first. Raises TopicUnreadable, TooManyRows."""
    since_ms = now_ms - minutes * 60_000
    rows: list[CountRow] = []
    for row in read_counts(settings, since_ms, {}, READ_SECONDS):
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
    """Return the text, with an apostrophe in front where a spreadsheet would take it for a formula."""
    return f"'{text}" if text.lstrip().startswith(FORMULA) or text.startswith(FORMULA) else text


def _iso(time_ms: int) -> str:
    shown = datetime.fromtimestamp(time_ms / 1000, timezone.utc).isoformat(timespec="milliseconds")
    return shown.replace("+00:00", "Z")
