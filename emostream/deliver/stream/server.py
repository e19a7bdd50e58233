"""Micro-batches → GET /stream: Server-Sent Events for browsers, phones and overlays, all from one thread.

A stream costs little: what it has not got yet is a number (its cursor), and the text of an event is made once for all
streams. What happens when a socket takes no more is in slow_streams.py.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from contextlib import suppress

from emostream.deliver.history import History
from emostream.deliver.stream.event_stream import EventStream
from emostream.deliver.stream.file_descriptors import MAX_REFUSED
from emostream.deliver.stream.micro_batches import MicroBatches, gap
from emostream.deliver.stream.requests import (
    Refused,
    full,
    new_protocol,
    parse_last_event_id,
    refusal_bytes,
    stream_head,
)
from emostream.deliver.stream.resume import EventId
from emostream.deliver.stream.slow_streams import SlowStreams, buffer_little
from emostream.http.cors import Cors
from emostream.http.head import HostCheck, any_host
from emostream.http.protocol import ServerProtocol
from emostream.metrics.counters import Metrics
from emostream.process import Log

COMMENT_SECONDS = 15.0
REQUEST_SECONDS = 10.0
# Another subscriber may be ahead of this one by moments. What it had seen and does not come for longer never will.
AHEAD_SECONDS = 10.0
TURN_SECONDS = 0.5
RECORDS_AT_ONCE = 5_000
EVENTS_AT_ONCE = 512
CONNECTIONS_AT_ONCE = 256
BACKLOG = 4_096
COMMENT = b":\n\n"
HELLO = b"retry: 1000\n"


class StreamServer:
    """A thread that serves event streams from the history that a consumer fills."""

    def __init__(
        self, listener: socket.socket, history: History, batches: MicroBatches, cors: Cors, max_streams: int,
        counters: Metrics, log: Log, check_host: HostCheck = any_host,
    ) -> None:  # fmt: skip
        """From `start` on it listens on the bound `listener`, and streams can go on from what is in the history."""
        self.max_streams = max_streams
        self._listener = listener
        self._history = history
        self._batches = batches
        self._cors = cors
        self._check_host = check_host
        self._counters = counters
        self._log = log
        self._read = history.start  # a cursor into the history
        self._measured = 0  # the number of the next micro-batch whose latency is to be observed
        self._connections: dict[int, EventStream] = {}  # all of them, by file descriptor
        self._asking: dict[int, EventStream] = {}  # their request is being read
        self._ready: dict[int, EventStream] = {}  # their socket takes what comes
        self._slow = SlowStreams()  # their socket is full
        self._ahead: dict[int, float] = {}  # they wait for `resume_after`; until when
        self._accept_from = 0.0
        self._closing = False
        self._epoll = select.epoll()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._ready) + len(self._slow)

    def start(self) -> None:
        """Accept connections."""
        buffer_little(self._listener)
        self._listener.listen(BACKLOG)
        for pollable in (self._listener, self._wake_reader, self._wake_writer):
            pollable.setblocking(False)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._epoll.register(self._wake_reader.fileno(), select.EPOLLIN)
        self._history.on_append(self._wake)
        self._thread.start()

    def close(self, timeout_seconds: float) -> None:
        """Send what has come to every stream that takes it, and close all streams."""
        self._closing = True
        self._wake()
        self._thread.join(timeout_seconds)

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # enough wakes are in the socket already
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
        self._take_news(last=True)
        self._send_to_ready()
        for fd in list(self._connections):
            self._close(fd)
        self._listener.close()

    def _take_news(self, last: bool = False) -> float:
        """Read the history to its end; returns for how many seconds no micro-batch will be due.

        `last`: close all micro-batches, because nothing comes after.
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
        end, sent = self._batches.end, 0
        news = self._batches.routed_ms(self._measured)
        self._measured = end
        for fd, stream in list(self._ready.items()):
            if stream.cursor != end or stream.resume_after:
                sent += self._send_events(fd, stream, merge=False)
        self._counters.add("streamed", sent)
        if sent:
            now_ms = time.time() * 1000
            for routed_ms in news:
                self._counters.histograms["stream"].observe(max(0.0, now_ms - routed_ms) / 1000)

    def _send_events(self, fd: int, stream: EventStream, merge: bool) -> int:
        """Send a stream all that it has not got; returns how many events that were."""
        behind = self._batches.end - stream.cursor
        if stream.resume_after is None:
            data = self._batches.events(stream.cursor, merge)
        elif fd in self._ahead and not self._batches.has(stream.resume_after):
            return 0
        else:
            data = self._batches.rest(stream.resume_after)
        if data and not self._write(fd, stream, data):
            return 0
        stream.resume_after = None
        self._ahead.pop(fd, None)
        stream.cursor += behind
        if not merge or not data:
            return behind if data else 0
        self._counters.add("stream_merged", behind - 1)
        return 1

    def _write(self, fd: int, stream: EventStream, data: bytes) -> bool:
        """Whether the socket took `data` or its beginning. The stream is slow when it did not take all."""
        try:
            written = os.write(fd, data)
        except BlockingIOError:
            written = 0
        except OSError:  # the other side has gone
            self._close(fd)
            return False
        if written < len(data):
            self._ready.pop(fd, None)
            self._slow.block(fd, stream, data[written:] if written else b"")
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
            if happened & select.EPOLLOUT and fd in self._slow:
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
                continue  # this connection has gone already
            if len(self._connections) >= self.max_streams + MAX_REFUSED:
                self._counters.add("streams_refused")
                accepted.close()
                continue
            accepted.setblocking(False)
            fd = accepted.detach()
            self._connections[fd] = self._asking[fd] = EventStream(new_protocol(self._check_host), now)
            self._epoll.register(fd, select.EPOLLIN)

    def _receive(self, fd: int, stream: EventStream) -> None:
        try:
            data = os.read(fd, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data and stream.protocol:
            self._read_request(fd, stream, stream.protocol, data)
        else:
            self._close(fd)  # it left, or it sent something after its request

    def _read_request(self, fd: int, stream: EventStream, protocol: ServerProtocol, data: bytes) -> None:
        complete = protocol.receive(data)
        if not complete:
            return
        [request] = complete
        cors = self._cors.headers(request.headers.get(b"origin", b"").decode("latin-1"))
        try:
            last_event_id = parse_last_event_id(request, protocol.http_version)
            if self.streams >= self.max_streams:
                self._counters.add("streams_refused")
                raise full(self.max_streams)
        except Refused as refused:
            with suppress(OSError):  # the other side has gone
                os.write(fd, refusal_bytes(refused, cors))
            self._close(fd)
            return
        stream.protocol = None
        del self._asking[fd]
        self._ready[fd] = stream
        stream.cursor = self._batches.end
        self._write(fd, stream, stream_head(cors) + HELLO + self._beginning(fd, stream, last_event_id))

    def _beginning(self, fd: int, stream: EventStream, last_event_id: str | None) -> bytes:
        """What a stream gets first: an id to come back with, or all that it missed, if need be after a gap event."""
        here = b"id: %s\n\n" % str(self._batches.event_id).encode()
        if not last_event_id:
            return here
        event_id = EventId.parse(last_event_id)
        if event_id is None:
            return gap(f"expected the id of one of our events to go on from, got {last_event_id[:80]!r}") + here
        self._counters.add("streams_resumed")
        begin = b"\n"
        if reason := self._batches.why_gap(event_id):
            self._counters.add("stream_gaps")
            begin += gap(reason)
        if not self._batches.has(event_id):
            # Hold new events until all that the stream has already seen is here, so that every id covers all of it.
            stream.resume_after = event_id
            self._ahead[fd] = time.monotonic() + AHEAD_SECONDS
            return begin
        return begin + (self._batches.rest(event_id) or (here if reason else b""))

    def _continue(self, fd: int, stream: EventStream) -> None:
        """Go on with a slow stream whose socket has room again."""
        since, unsent = stream.since, stream.unsent
        del self._slow[fd]
        self._ready[fd] = stream
        stream.unsent = b""
        if unsent and not self._write(fd, stream, unsent):
            stream.since, stream.unsent = since, unsent  # no room after all
            return
        if fd in self._ready and stream.cursor != self._batches.end:
            self._counters.add("streamed", self._send_events(fd, stream, merge=True))
        if fd in self._ready:
            self._epoll.modify(fd, select.EPOLLIN)

    def _settle_overdue(self, now: float) -> None:
        """Close connections that take too long, and stop waiting for what does not come."""
        if self._accept_from and now >= self._accept_from:
            self._accept_from = 0.0
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        # The first has been asking longest, so this looks at no more than are overdue.
        while self._asking and now - next(iter(self._asking.values())).since > REQUEST_SECONDS:
            self._counters.add("stream_requests_timed_out")
            self._close(next(iter(self._asking)))
        for fd in self._slow.stalled(now):
            self._counters.add("streams_stalled")
            self._close(fd)
        for fd, until in list(self._ahead.items()):
            if now >= until and fd in self._ready:
                self._stop_waiting(fd, self._connections[fd])

    def _stop_waiting(self, fd: int, stream: EventStream) -> None:
        """End a stream's wait for what it has seen elsewhere, with a gap when that is certainly not here."""
        del self._ahead[fd]
        if stream.resume_after is None or not self._batches.is_before(stream.resume_after):
            return  # it may all be here: the next turn sends the rest
        stream.resume_after = None
        self._counters.add("stream_gaps")
        self._write(fd, stream, gap("what this stream has seen is not on this topic; it may have been replaced"))

    def _close(self, fd: int) -> None:
        stream = self._connections.pop(fd, None)
        if stream is None:
            return
        for group in (self._asking, self._ready, self._slow, self._ahead):
            group.pop(fd, None)
        os.close(fd)  # which also takes it out of the epoll
