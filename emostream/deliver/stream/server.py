"""Micro-batches → GET /stream: Server-Sent Events for browsers, phones and overlays, all from one event loop.

A stream costs little. Its cursor, a number, says what it has not got yet, and all streams share the text of an event.
When a slow stream can take more, it gets one event with the sums of all micro-batches that it missed.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote_to_bytes

import uvloop

from emostream.deliver.history import History
from emostream.deliver.stream.event_stream import MAX_REFUSED, EventStream, buffer_little
from emostream.deliver.stream.micro_batches import MicroBatches, gap
from emostream.deliver.stream.resume import EventId
from emostream.http.cors import Cors, Headers
from emostream.http.head import HostCheck, any_host
from emostream.http.messages import Answer, Request, TakeOver, refusal, retry
from emostream.http.protocol import answer_bytes
from emostream.http.server import BACKLOG, HttpServer
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.records import MAX_BODY_BYTES

PATH = "/stream"
COMMENT_SECONDS = 15.0
REQUEST_SECONDS = 10.0
# The subscriber that a stream comes from may be moments ahead of this one. What is not here after that never comes.
AHEAD_SECONDS = 10.0
TURN_SECONDS = 0.5
CLOSE_SECONDS = 1.0
FULL_RETRY_SECONDS = 5
RECORDS_AT_ONCE = 5_000
COMMENT = b":\n\n"
HELLO = b"retry: 1000\n"
HEAD = (
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-store, no-transform"),
    ("X-Accel-Buffering", "no"),
)


class StreamServer:
    """A thread that reads the history and serves event streams. It is the App of its HTTP server."""

    def __init__(
        self, listener: socket.socket, history: History, batches: MicroBatches, cors: Cors, max_streams: int,
        counters: Metrics, log: Log, check_host: HostCheck = any_host,
    ) -> None:  # fmt: skip
        """Listens on the bound `listener`. Streams can resume from what is in the history already."""
        self.max_streams = max_streams
        self._history = history
        self._batches = batches
        self._cors = cors
        self._counters = counters
        self._http = HttpServer(
            self, log, max_streams + MAX_REFUSED, MAX_REFUSED, request_seconds=REQUEST_SECONDS, check_host=check_host
        )
        self._read = history.start  # a cursor into the history
        self._measured = 0  # the number of the next micro-batch whose latency is to be observed
        self._open: dict[EventStream, None] = {}
        self._closing = False
        self._news = asyncio.Event()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(listener),), name="streams", daemon=True
        )
        buffer_little(listener)
        listener.listen(BACKLOG)
        history.on_append(self._wake)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._open)

    def close(self, timeout_seconds: float) -> None:
        """Send the newest events to every stream that is not slow, and close all streams."""
        self._closing = True
        self._wake()
        self._thread.join(timeout_seconds)

    # What the HTTP server calls.

    def max_body_bytes(self, target: bytes) -> int:
        """No request that is served has a body."""
        return MAX_BODY_BYTES

    def answer(self, request: Request, busy: bool) -> Answer | TakeOver:
        """Open a stream, or say why not."""
        found = self._decide(request)
        return self.refusal(request, found) if isinstance(found, Answer) else found

    def refusal(self, request: Request, answer: Answer) -> Answer:
        """Let pages read the answer."""
        if answer.status == HTTPStatus.REQUEST_TIMEOUT:
            self._counters.add("stream_requests_timed_out")
        return self._cors.headed(answer, request)

    def gone(self, requests: int) -> None:
        """Do nothing: nobody counts these requests."""

    def _decide(self, request: Request) -> Answer | TakeOver:
        path, _, query = request.target.partition(b"?")
        if unquote_to_bytes(path) != PATH.encode():
            return refusal(404, f"expected GET {PATH}, got another path")
        if request.method == b"OPTIONS":
            return Answer(204, b"", tuple(self._cors.preflight(request.header, "GET", "Last-Event-ID, Cache-Control")))
        if request.method not in (b"GET", b"HEAD"):
            error = f"expected GET {PATH}, got {request.method.decode()}"
            return refusal(405, error, ("allow", "GET, HEAD, OPTIONS"))
        if self.streams >= self.max_streams:
            self._counters.add("streams_refused")
            error = f"expected a free stream, got none: all {self.max_streams} are taken; try another subscriber"
            return retry(503, error, FULL_RETRY_SECONDS)
        if request.method == b"HEAD":
            return Answer(200, b"", HEAD)
        asked = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        recent = dict(asked).get("recent", "0")
        if not re.fullmatch("[0-9]{1,4}", recent, re.ASCII):
            return refusal(400, f"recent: expected seconds, for example {PATH}?recent=60, got {recent[:40]!r}")
        cors = self._cors.headers(request.header("origin"))
        return TakeOver(partial(self._begin, cors, last_event_id(request, asked), int(recent)))

    # What the streams call.

    def _continue(self, stream: EventStream) -> None:
        """The socket of a slow stream has room again: send what the stream missed."""
        if stream.cursor != self._batches.end:
            self._counters.add("streamed", self._send_events(stream, merge=True))

    def _remove(self, stream: EventStream) -> None:
        """Forget a stream that has ended."""
        del self._open[stream]
        self._http.max_connections += 1

    # In the loop.

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._news.set)

    async def _serve(self, listener: socket.socket) -> None:
        await self._http.listen(listener)
        comment_due = time.monotonic() + COMMENT_SECONDS
        while not self._closing:
            self._news.clear()
            wait_seconds = self._take_news()
            self._send_to_ready()
            now = time.monotonic()
            if now >= comment_due:
                comment_due = now + COMMENT_SECONDS
                for stream in self._ready():
                    stream.transport.write(COMMENT)
            for stream in [stream for stream in self._open if stream.slow and stream.stalled(now)]:
                self._counters.add("streams_stalled")
                stream.transport.abort()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait_seconds)
        self._take_news(last=True)
        self._send_to_ready()
        for stream in list(self._open):
            stream.transport.abort() if stream.slow else stream.transport.close()
        await self._http.close(CLOSE_SECONDS)

    def _ready(self) -> list[EventStream]:
        return [stream for stream in self._open if not stream.slow]

    def _take_news(self, last: bool = False) -> float:
        """Read the history to its end. Return for how many seconds no micro-batch is due.

        `last`: nothing comes after this, so close all micro-batches.
        """
        now = time.monotonic()
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
        left = self._batches.close_due(float("inf") if last else now)
        return TURN_SECONDS if left is None else min(left, TURN_SECONDS)

    def _send_to_ready(self) -> None:
        before, end, sent = self._measured, self._batches.end, 0
        news = self._batches.routed_ms(before)
        self._measured = end
        data = self._batches.events(before, merge=False) if end > before else b""
        for stream in self._ready():
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

    def _begin(self, cors: Headers, last_event_id: str, recent_seconds: int, transport: asyncio.Transport) -> None:
        """Open a stream. Its body has no length and no chunks: it ends with the connection."""
        stream = EventStream(transport, self._batches.end, self._continue, self._remove)
        self._open[stream] = None
        self._http.max_connections -= 1
        head = answer_bytes(Answer(200, b"", (*HEAD, *cors)), self._http.date, "close", to_head=True)
        transport.write(head + HELLO + self._beginning(stream, last_event_id, recent_seconds))

    def _beginning(self, stream: EventStream, last_event_id: str, recent_seconds: int) -> bytes:
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


def last_event_id(request: Request, asked: list[tuple[str, str]]) -> str:
    """The id that a stream resumes after; empty for a new stream.

    The header wins, because it is newer than the URL. An EventSource polyfill that cannot send the header adds a
    parameter to the URL instead: `lastEventId` (Yaffle), `lastEventID` or `Last-Event-ID` (Mercure),
    `evs_last_event_id` (amvtek). The last one is the newest.
    """
    in_url = ""
    for name, value in asked:
        if value and name.lower().replace("-", "").replace("_", "") in ("lasteventid", "evslasteventid"):
            in_url = value
    return (request.header("last-event-id") or "").strip() or in_url.strip()
