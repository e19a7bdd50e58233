"""Micro-batches → GET /stream: Server-Sent Events for browsers, phones and overlays, all from one thread.

A stream costs a few words here, because what it has not got yet is a number: the text of an event is made once for
all, and what a socket does not take is made again when it does, merged with what has come meanwhile.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import threading
import time
from contextlib import suppress

from emostream.deliver.history import History
from emostream.deliver.stream.micro_batches import Batches, gap
from emostream.deliver.stream.requests import Refusal, Request, full, refusal, stream_head
from emostream.deliver.stream.resume import Place
from emostream.http.cors import Cors
from emostream.metrics.counters import Metrics
from emostream.process import Log

COMMENT_SECONDS = 15.0
STALLED_SECONDS = 30.0
REQUEST_SECONDS = 10.0
# Another subscriber may be ahead of this one by moments; a place that stays ahead for longer is of another topic.
AHEAD_SECONDS = 10.0
TURN_SECONDS = 0.5
RECORDS_AT_ONCE = 5_000
EVENTS_AT_ONCE = 512
CONNECTIONS_AT_ONCE = 256
BACKLOG = 4_096
# The kernel holds little for a stream, so that a slow one is noticed before what it has to read gets old.
SEND_BUFFER_BYTES = 64 * 1024
UNSENT_BYTES = 16 * 1024
TCP_NOTSENT_LOWAT = 25  # Linux; the socket module does not name it
BEYOND_MAX_STREAMS = 100  # connections that may be open besides, to be asked what they want and refused
OTHER_DESCRIPTORS = 256  # what the process has open besides streams and clients
COMMENT = b":\n\n"
HELLO = b"retry: 1000\n"


class Stream:
    """One connection."""

    __slots__ = ("after", "cursor", "request", "since", "unsent")

    def __init__(self, request: Request, since: float) -> None:
        self.request: Request | None = request  # while it is being read
        self.since = since  # when it connected; of a blocked stream: when its socket took something
        self.cursor = 0  # the number of the batch to send next
        self.unsent = b""  # the end of what the socket took the beginning of
        self.after: Place | None = None  # where it was elsewhere, and this subscriber has yet to come


class StreamServer:
    """A thread that serves event streams from the history that a consumer fills."""

    def __init__(
        self, listener: socket.socket, history: History, batches: Batches, cors: Cors, max_streams: int,
        counters: Metrics, log: Log,
    ) -> None:  # fmt: skip
        """Listens on the bound `listener` from `start` on; the history's records up to now are there to resume with."""
        self.max_streams = max_streams
        self._listener = listener
        self._history = history
        self._batches = batches
        self._cors = cors
        self._counters = counters
        self._log = log
        self._read = history.start  # a cursor
        self._told = 0  # the number of the batch that streams are told of next
        self._connections: dict[int, Stream] = {}  # every one, by file descriptor
        self._asking: dict[int, Stream] = {}  # those whose request is being read
        self._ready: dict[int, Stream] = {}  # streams whose socket takes what comes
        self._blocked: dict[int, Stream] = {}  # streams whose socket is full
        self._ahead: dict[int, float] = {}  # those with `after`: until when that is waited for
        self._accept_from = 0.0
        self._closing = False
        self._epoll = select.epoll()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    @property
    def streams(self) -> int:
        """Streams that are open now."""
        return len(self._ready) + len(self._blocked)

    def start(self) -> None:
        """Take connections."""
        tcp = {
            socket.TCP_NODELAY: 1,
            TCP_NOTSENT_LOWAT: UNSENT_BYTES,
            socket.TCP_USER_TIMEOUT: round(STALLED_SECONDS * 1000) + 5_000,  # a host that vanished without a word
        }
        for option, value in tcp.items():  # inherited by the connections
            self._listener.setsockopt(socket.IPPROTO_TCP, option, value)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._listener.listen(BACKLOG)
        for pollable in (self._listener, self._wake_reader, self._wake_writer):
            pollable.setblocking(False)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._epoll.register(self._wake_reader.fileno(), select.EPOLLIN)
        self._history.on_append(self._wake)
        self._thread.start()

    def close(self, timeout_seconds: float) -> None:
        """Send what has come to every stream that takes it, and close all."""
        self._closing = True
        self._wake()
        self._thread.join(timeout_seconds)

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # it is full of wakes already
            self._wake_writer.send(b"\0")

    def _run(self) -> None:
        comment_due = time.monotonic() + COMMENT_SECONDS
        while not self._closing:
            wait_seconds = self._take_news()
            self._send_to_ready()
            now = time.monotonic()
            if now >= comment_due:
                comment_due = now + COMMENT_SECONDS
                for fd, stream in list(self._ready.items()):
                    self._write(fd, stream, COMMENT)
            for fd, happened in self._epoll.poll(wait_seconds, EVENTS_AT_ONCE):
                self._handle(fd, happened)
            self._settle_overdue(time.monotonic())
        self._take_news(all_of_it=True)
        self._send_to_ready()
        for fd in list(self._connections):
            self._close(fd)
        self._listener.close()

    def _take_news(self, all_of_it: bool = False) -> float:
        """Read the history to its end; returns for how many seconds there is nothing to do about micro-batches."""
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
        left = self._batches.close_due(float("inf") if all_of_it else now)
        return TURN_SECONDS if left is None else min(left, TURN_SECONDS)

    def _send_to_ready(self) -> None:
        end, sent = self._batches.end, 0
        news = self._batches.routed_ms(self._told)
        self._told = end
        for fd, stream in list(self._ready.items()):
            if stream.cursor != end or stream.after:
                sent += self._send_events(fd, stream, merge=False)
        self._counters.add("streamed", sent)
        if sent:
            now_ms = time.time() * 1000
            for routed_ms in news:
                self._counters.histograms["stream"].observe(max(0.0, now_ms - routed_ms) / 1000)

    def _send_events(self, fd: int, stream: Stream, merge: bool) -> int:
        """Send what a stream has not got to its socket, which is not known to be full; returns how many events."""
        behind = self._batches.end - stream.cursor
        if stream.after is None:
            data = self._batches.events(stream.cursor, merge)
        elif fd in self._ahead and not self._batches.has(stream.after):
            return 0
        else:
            data = self._batches.rest(stream.after)
        if data and not self._write(fd, stream, data):
            return 0
        stream.after = None
        self._ahead.pop(fd, None)
        stream.cursor += behind
        if not merge or not data:
            return behind if data else 0
        self._counters.add("stream_merged", behind - 1)
        return 1

    def _write(self, fd: int, stream: Stream, data: bytes) -> bool:
        """Whether the socket took `data`, or its beginning; the end of it is kept then."""
        try:
            written = os.write(fd, data)
        except BlockingIOError:
            written = 0
        except OSError:  # the other side has gone
            self._close(fd)
            return False
        if written < len(data):
            stream.unsent = data[written:] if written else b""
            self._ready.pop(fd, None)
            self._blocked[fd] = stream
            stream.since = time.monotonic()
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        return written > 0

    def _handle(self, fd: int, happened: int) -> None:
        stream = self._connections.get(fd)
        if fd == self._wake_reader.fileno():
            self._wake_reader.recv(4096)
        elif fd == self._listener.fileno():
            self._accept()
        elif stream is None:
            return  # closed in this turn
        else:
            if happened & ~select.EPOLLOUT:
                self._receive(fd, stream)
            if happened & select.EPOLLOUT and fd in self._blocked:
                self._continue(fd, stream)

    def _accept(self) -> None:
        now = time.monotonic()
        for _ in range(CONNECTIONS_AT_ONCE):
            try:
                accepted, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._log.error("the system has no room for another connection; trying again", reason=error)
                    self._epoll.unregister(self._listener.fileno())
                    self._accept_from = now + 1.0
                    return
                continue  # that one has gone already
            if len(self._connections) >= self.max_streams + BEYOND_MAX_STREAMS:
                self._counters.add("streams_refused")
                accepted.close()
                continue
            accepted.setblocking(False)
            fd = accepted.detach()
            self._connections[fd] = self._asking[fd] = Stream(Request(), now)
            self._epoll.register(fd, select.EPOLLIN)

    def _receive(self, fd: int, stream: Stream) -> None:
        try:
            data = os.read(fd, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data and stream.request:
            self._read_request(fd, stream, stream.request, data)
        else:
            self._close(fd)  # it left, or it says more than was asked

    def _read_request(self, fd: int, stream: Stream, request: Request, data: bytes) -> None:
        try:
            request.feed(data)
            if not request.complete:
                return
            last_event_id = request.last_event_id()
            if self.streams >= self.max_streams:
                self._counters.add("streams_refused")
                raise full(self.max_streams)
        except Refusal as refused:
            with suppress(OSError):  # the other side has gone
                os.write(fd, refusal(refused, self._cors.headers(request.origin)))
            self._close(fd)
            return
        stream.request = None
        del self._asking[fd]
        self._ready[fd] = stream
        stream.cursor = self._batches.end
        begin = HELLO + self._beginning(fd, stream, last_event_id)
        self._write(fd, stream, stream_head(self._cors.headers(request.origin)) + begin)

    def _beginning(self, fd: int, stream: Stream, last_event_id: str | None) -> bytes:
        """What comes before the next batch: an id to come back with, or all that was missed."""
        here = b"id: %s\n\n" % str(self._batches.place).encode()
        if not last_event_id:
            return here
        place = Place.parse(last_event_id)
        if place is None:
            return gap(f"expected an id of an event of ours to go on from, got {last_event_id[:80]!r}") + here
        self._counters.add("streams_resumed")
        if reason := self._batches.why_gap(place):
            self._counters.add("stream_gaps")
            return b"\n" + gap(reason) + (self._batches.rest(place) or here)
        if self._batches.has(place):
            return b"\n" + self._batches.rest(place)
        # What comes before the rest of what it has seen is here waits, so that every event's id has all of it.
        stream.after = place
        self._ahead[fd] = time.monotonic() + AHEAD_SECONDS
        return b"\n"

    def _continue(self, fd: int, stream: Stream) -> None:
        """Go on with a stream whose socket has room again."""
        since, unsent = stream.since, stream.unsent
        del self._blocked[fd]
        self._ready[fd] = stream
        if unsent and not self._write(fd, stream, unsent):
            stream.since, stream.unsent = since, unsent  # no room after all
            return
        if not self._blocked.get(fd):
            stream.unsent = b""
        if fd in self._ready and stream.cursor != self._batches.end:
            self._counters.add("streamed", self._send_events(fd, stream, merge=True))
        if fd in self._ready:
            self._epoll.modify(fd, select.EPOLLIN)

    def _settle_overdue(self, now: float) -> None:
        """Close what takes too long; and tell those that were ahead for too long that they were elsewhere."""
        if self._accept_from and now >= self._accept_from:
            self._accept_from = 0.0
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        for waiting, seconds, counter in (
            (self._asking, REQUEST_SECONDS, "stream_requests_timed_out"),
            (self._blocked, STALLED_SECONDS, "streams_stalled"),
        ):
            # The oldest come first, so this looks at no more than are overdue.
            while waiting and now - next(iter(waiting.values())).since > seconds:
                self._counters.add(counter)
                self._close(next(iter(waiting)))
        for fd, until in list(self._ahead.items()):
            if now >= until and fd in self._ready:
                del self._ahead[fd]
                stream = self._connections[fd]
                if stream.after is None or not self._batches.is_before(stream.after):
                    continue  # it is only not known that all of it is here; what is goes out in the next turn
                stream.after = None
                self._counters.add("stream_gaps")
                self._write(fd, stream, gap("the place to go on from is not on this topic; it may have been replaced"))

    def _close(self, fd: int) -> None:
        stream = self._connections.pop(fd, None)
        if stream is None:
            return
        for group in (self._asking, self._ready, self._blocked, self._ahead):
            group.pop(fd, None)
        os.close(fd)  # which also takes it out of the epoll


def allow_descriptors(log: Log, max_streams: int, max_clients: int) -> int:
    """Let this process have as many file descriptors as it may; returns how many streams that is enough for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = hard - OTHER_DESCRIPTORS - max_clients - BEYOND_MAX_STREAMS
    if hard == resource.RLIM_INFINITY or room >= max_streams:
        return max_streams
    log.warning(
        "the system allows fewer file descriptors than MAX_STREAMS needs; raise `ulimit -Hn`",
        max_streams=max_streams, descriptors=hard, streams=max(0, room),
    )  # fmt: skip
    return max(0, room)
