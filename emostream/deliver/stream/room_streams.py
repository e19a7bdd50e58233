"""The event streams of one room: its history → what each stream gets. All of it runs in the loop of the server."""

from __future__ import annotations

import time

from emostream.deliver.rooms import Room, Rooms
from emostream.deliver.stream.event_stream import EventStream
from emostream.deliver.stream.micro_batches import MicroBatches, gap
from emostream.deliver.stream.resume import EventId
from emostream.metrics.counters import Metrics

RECORDS_AT_ONCE = 5_000
# The subscriber that a stream comes from may be moments ahead of this one. What is not here after that never comes.
AHEAD_SECONDS = 10.0


class RoomStreams:
    """The open streams of a room, and its micro-batches."""

    def __init__(self, rooms: Rooms, room: Room, cluster: int, counters: Metrics) -> None:
        self.open: dict[EventStream, None] = {}
        self._rooms = rooms
        self._history = room.history
        self._counters = counters
        self._batches = MicroBatches(cluster, room.starts, room.before, rooms.max_age_seconds, room.history.max_records)
        self._read = self._history.start  # a cursor into the history
        self.take_news()
        self._measured = self._batches.end  # the number of the next micro-batch whose latency is to be observed

    @property
    def end(self) -> int:
        """The cursor of a stream that has got everything."""
        return self._batches.end

    def ready(self) -> list[EventStream]:
        """The streams that are not slow."""
        return [stream for stream in self.open if not stream.slow]

    def take_news(self, last: bool = False) -> float | None:
        """Read the history to its end. Return in how many seconds a micro-batch is due; None if none is open.

        `last`: nothing comes after this, so close all micro-batches.
        """
        now, whole_until = time.monotonic(), self._rooms.whole_until  # before the history: that has all of these
        while True:
            first, records = self._history.after(self._read, RECORDS_AT_ONCE)
            if first > self._read:
                self._counters.add("stream_records_lost", first - self._read)
                self._batches.lose()
            self._batches.add(records, now)
            self._read = first + len(records)
            if not records:
                break
        self._batches.forget(time.time() * 1000)
        if whole_until is not None:
            self._batches.whole_until(whole_until)
        return self._batches.close_due(float("inf") if last else now)

    def send_to_ready(self) -> None:
        """Send every stream that is not slow what it has not got."""
        before, end, sent = self._measured, self._batches.end, 0
        news = self._batches.routed_ms(before)
        self._measured = end
        data = self._batches.events(before, merge=False) if end > before else b""
        for stream in self.ready():
            if data and stream.cursor == before and stream.resume_after is None:  # true for nearly all streams
                stream.cursor = end
                stream.transport.write(data)
                sent += end - before
            elif stream.cursor != end or stream.resume_after:
                sent += self._send_events(stream, merge=False)
        self._counters.add("streamed", sent)
        if sent:
            now_ms = time.time() * 1000
            for routed_ms in news:
                self._counters.histograms["stream"].observe(max(0.0, now_ms - routed_ms) / 1000)

    def catch_up(self, stream: EventStream) -> None:
        """The socket of a slow stream has room again: send what the stream missed."""
        if stream.cursor != self._batches.end:
            self._counters.add("streamed", self._send_events(stream, merge=True))

    def _send_events(self, stream: EventStream, merge: bool) -> int:
        """Send a stream all that it has not got. Return how many events that were."""
        behind, seen = self._batches.end - stream.cursor, stream.resume_after
        if seen is None:
            data = self._batches.events(stream.cursor, merge)
        elif time.monotonic() < stream.held_until and not self._batches.progress.has(seen):
            return 0
        elif self._batches.progress.is_before(seen):
            self._counters.add("stream_gaps")
            data = gap("what this stream has seen is not on this topic; it may have been replaced")
            data += self._batches.events(stream.cursor, merge)
        else:
            data = self._batches.rest(seen)
        stream.resume_after = None
        stream.cursor = self._batches.end
        if not data:
            return 0
        stream.transport.write(data)
        if not merge:
            return behind
        self._counters.add("stream_merged", behind - 1)
        return 1

    def beginning(self, stream: EventStream, last_event_id: str, recent_seconds: int) -> bytes:
        """The first text of a stream.

        A stream that resumes gets all that it missed, after a gap event if something is missing. A new stream gets an
        id to resume from, or what happened in the last `recent_seconds`.
        """
        here = b"id: %s\n\n" % str(self._batches.progress.event_id()).encode()
        if not last_event_id:
            return self._batches.recent(recent_seconds) if recent_seconds else here
        event_id = EventId.parse(last_event_id)
        if event_id is None:
            return gap(f"expected the id of one of our events, to resume after it; got {last_event_id[:80]!r}") + here
        self._counters.add("streams_resumed")
        begin = b"\n"
        if reason := self._batches.why_gap(event_id):
            self._counters.add("stream_gaps")
            begin += gap(reason)
        if not self._batches.progress.has(event_id):
            # Hold new events until all that the stream has seen is here. Only then do their ids cover all of it.
            stream.resume_after, stream.held_until = event_id, time.monotonic() + AHEAD_SECONDS
            return begin
        return begin + (self._batches.rest(event_id) or (here if reason else b""))
