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
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote_to_bytes

import uvloop

from emostream.deliver.rooms import DEFAULT_ROOM, Rooms
from emostream.deliver.stream.event_stream import MAX_REFUSED, EventStream, buffer_little
from emostream.deliver.stream.room_streams import RoomStreams
from emostream.http.cors import Cors, Headers
from emostream.http.head import HostCheck, any_host
from emostream.http.messages import Answer, Request, TakeOver, refusal, retry
from emostream.http.protocol import answer_bytes
from emostream.http.server import BACKLOG, HttpServer
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.records import MAX_BODY_BYTES, InvalidRecord, check_room

PATH = "/stream"
# How often we look at all rooms. Those with news do not wait for it.
TURN_SECONDS = 0.5
COMMENT_SECONDS = 15.0
REQUEST_SECONDS = 10.0
CLOSE_SECONDS = 1.0
FULL_RETRY_SECONDS = 5
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
        self, listener: socket.socket, rooms: Rooms, cluster: int, cors: Cors, max_streams: int,
        counters: Metrics, log: Log, check_host: HostCheck = any_host,
    ) -> None:  # fmt: skip
        """Listens on the bound `listener`. Streams can resume from what the rooms have already."""
        self.max_streams = max_streams
        self.streams = 0  # how many are open
        self._rooms = rooms
        self._cluster = cluster
        self._cors = cors
        self._counters = counters
        self._http = HttpServer(
            self, log, max_streams + MAX_REFUSED, MAX_REFUSED, request_seconds=REQUEST_SECONDS, check_host=check_host
        )
        self._closing = False
        self._news = asyncio.Event()
        self._with_news: deque[str] = deque()  # the rooms whose history has grown
        self._due: dict[str, float] = {}  # the rooms with an open micro-batch, and when that has waited for long enough
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(listener),), name="streams", daemon=True
        )
        self._rooms_open = {DEFAULT_ROOM: self._open_room(DEFAULT_ROOM)}
        buffer_little(listener)
        listener.listen(BACKLOG)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

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
        rooms = [value for name, value in asked if name == "room"]
        if len(rooms) > 1:
            return refusal(400, f"room: expected one in the query, got {len(rooms)}")
        room = rooms[0] if rooms else DEFAULT_ROOM
        try:
            check_room(room)
        except InvalidRecord as error:
            return refusal(400, str(error))
        cors = self._cors.headers(request.header("origin"))
        return TakeOver(partial(self._begin, cors, room, last_event_id(request, asked), int(recent)))

    # In the loop.

    def _wake(self) -> None:
        if not self._news.is_set():
            self._loop.call_soon_threadsafe(self._news.set)

    async def _serve(self, listener: socket.socket) -> None:
        await self._http.listen(listener)
        turn_due = comment_due = time.monotonic()
        while not self._closing:
            self._news.clear()
            now = time.monotonic()
            if now >= turn_due:
                turn_due = now + TURN_SECONDS
                self._take_turn(self._rooms_open, now)
                self._abort_stalled(now)
            else:
                self._take_turn(self._rooms_with_news(now), now)
            if now >= comment_due:
                comment_due = now + COMMENT_SECONDS
                for stream in self._all():
                    if not stream.slow:
                        stream.transport.write(COMMENT)
            wait_seconds = min([turn_due, *self._due.values()]) - time.monotonic()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), max(0.0, wait_seconds))
        self._take_turn(self._rooms_open, time.monotonic(), last=True)
        for stream in self._all():
            stream.transport.abort() if stream.slow else stream.transport.close()
        await self._http.close(CLOSE_SECONDS)

    def _rooms_with_news(self, now: float) -> set[str]:
        names = {name for name, due in self._due.items() if due <= now}
        while self._with_news:
            names.add(self._with_news.popleft())
        return names

    def _take_turn(self, names: Iterable[str], now: float, last: bool = False) -> None:
        """Send what is new in these rooms."""
        for name in list(names):
            room = self._rooms_open.get(name)
            left = room.take_news(last) if room else None
            if left is None:
                self._due.pop(name, None)
            else:
                self._due[name] = now + left
            if room:
                room.send_to_ready()

    def _abort_stalled(self, now: float) -> None:
        for stream in self._all():
            if stream.slow and stream.stalled(now):
                self._counters.add("streams_stalled")
                stream.transport.abort()

    def _all(self) -> list[EventStream]:
        return [stream for room in self._rooms_open.values() for stream in room.open]

    def _begin(
        self, cors: Headers, name: str, last_event_id: str, recent_seconds: int, transport: asyncio.Transport
    ) -> None:
        """Open a stream. Its body has no length and no chunks: it ends with the connection."""
        room = self._rooms_open.get(name)
        if room is None:
            self._rooms_open[name] = room = self._open_room(name)
        stream = EventStream(transport, room.end, room.catch_up, partial(self._end, name))
        room.open[stream] = None
        self.streams += 1
        self._http.max_connections -= 1
        head = answer_bytes(Answer(200, b"", (*HEAD, *cors)), self._http.date, "close", to_head=True)
        transport.write(head + HELLO + room.beginning(stream, last_event_id, recent_seconds))

    def _end(self, name: str, stream: EventStream) -> None:
        """Forget a stream that has ended, and a room that it was the last stream of."""
        room = self._rooms_open[name]
        del room.open[stream]
        self.streams -= 1
        self._http.max_connections += 1
        if not room.open and name != DEFAULT_ROOM:
            del self._rooms_open[name]
            self._rooms.close(name)

    def _open_room(self, name: str) -> RoomStreams:
        room = self._rooms.open(name)
        room.history.on_append(partial(self._note_news, name))
        return RoomStreams(self._rooms, room, self._cluster, self._counters)

    def _note_news(self, name: str) -> None:
        self._with_news.append(name)
        self._wake()


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
