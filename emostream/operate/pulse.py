"""GET /pulse.json: the last micro-batches of a room → one answer for everybody, which any cache may carry.

A viewer without a stream asks for it every BATCH_SECONDS. The cache between asks us about once a second, however many
viewers there are.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from functools import lru_cache

import msgspec
from flask import Blueprint, Response, request

from emostream.http.compressed import compressed
from emostream.http.messages import JSON, Answer, refusal, retry
from emostream.operate.dashboard.cached_answer import CachedAnswer
from emostream.operate.dashboard.counts_reader import CountRow, TopicUnreadable, read_counts
from emostream.operate.dashboard.routes import TRY_AGAIN_SECONDS, asked_room
from emostream.settings import Settings

PULSE_SECONDS = 10
# With the second for which a cache keeps the answer, a micro-batch is there within a second and a half.
FRESH_SECONDS = 0.5
READ_SECONDS = 3.0
MAX_BODIES = 1_000  # one for each room that is asked for
KEPT_BY_CACHES = "public, max-age=1"

Batches = dict[int, list[CountRow]]  # by batch id, in the order in which they were counted


def blueprint(settings: Settings) -> Blueprint:
    """Return the route. It is for everybody, as a stream is."""
    pulse, open_rooms = Pulse(settings), settings.open_rooms
    calls = Blueprint("pulse", __name__)

    @calls.errorhandler(TopicUnreadable)
    def try_again(error: TopicUnreadable) -> Response:
        return _uncached(retry(503, f"try again: {error}", TRY_AGAIN_SECONDS))

    @calls.get("/pulse.json")
    def show() -> Response:
        room = asked_room() or ""
        if open_rooms and room not in ("", *open_rooms):
            return _uncached(refusal(404, f"room: expected one that is open, got {room}"))
        plain, gzipped = pulse.body(room)
        return compressed(Response(plain, mimetype=JSON), gzipped, request, KEPT_BY_CACHES)

    return calls


def _uncached(answer: Answer) -> Response:
    return Response(answer.body, answer.status, [*answer.headers, ("cache-control", "no-store")])


class Pulse:
    """The last PULSE_SECONDS of MAIN_TOPIC by room, kept from one request to the next. Bounded as micro-batches are."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rooms: dict[str, Batches] = {}
        self._next_offsets: dict[int, int] = {}
        self._read_at = float("-inf")
        self._body_of = CachedAnswer(lambda: self._read(time.time()), FRESH_SECONDS)

    def body(self, room: str) -> tuple[bytes, bytes]:
        """Return the JSON of a room, plain and compressed. Raises TopicUnreadable.

        It is `{"room","batch_seconds","batches":[{"batch_id","batched_ms","counts":[{"emoji","count","events"}]}]}`.
        The oldest micro-batch is first, and each is whole. A count without a batch id is left out: nobody could tell
        whether he has it already.
        """
        return self._body_of.get()(room)

    def _read(self, now: float) -> Callable[[str], tuple[bytes, bytes]]:
        """Read what is new. Return a function that makes the body of a room, once for all who ask."""
        since_ms = round((now - PULSE_SECONDS) * 1000)
        if time.monotonic() - self._read_at > PULSE_SECONDS:
            self._rooms, self._next_offsets = {}, {}
        try:
            for row in read_counts(self._settings, since_ms, self._next_offsets, READ_SECONDS):
                if row.batch_id is not None:
                    self._rooms.setdefault(row.room, {}).setdefault(row.batch_id, []).append(row)
            self._read_at = time.monotonic()
        except TopicUnreadable:
            # After an error, a cache asks us for every viewer until it has an answer again. So a short trouble is none.
            if time.monotonic() - self._read_at > PULSE_SECONDS:
                raise
        rooms = {room: kept for room, batches in self._rooms.items() if (kept := since(since_ms, batches))}
        self._rooms = rooms
        return lru_cache(MAX_BODIES)(lambda room: self._as_json(room, rooms.get(room, {})))

    def _as_json(self, room: str, batches: Batches) -> tuple[bytes, bytes]:
        """A micro-batch of which a record is missing is left out until it has come."""
        found = list(batches.values())  # in one step, because another thread may read the topic meanwhile
        whole = [rows for rows in found if len(rows) >= (rows[0].batch_emojis or 1)]
        whole.sort(key=lambda rows: (rows[0].time_ms, rows[0].batch_id))
        body = {
            "room": room,
            "batch_seconds": self._settings.batch_seconds,
            "batches": [
                {
                    "batch_id": rows[0].batch_id,
                    "batched_ms": rows[0].time_ms,
                    "counts": [
                        {"emoji": row.emoji, "count": row.count, "events": row.events or row.count}
                        for row in sorted(rows, key=lambda row: row.emoji)
                    ],
                }
                for rows in whole
            ],
        }
        plain = msgspec.json.encode(body)
        return plain, gzip.compress(plain, mtime=0)


def since(since_ms: int, batches: Batches) -> Batches:
    """Return the micro-batches that were counted at or after `since_ms` (Unix milliseconds)."""
    return {number: rows for number, rows in batches.items() if rows[-1].time_ms >= since_ms}
