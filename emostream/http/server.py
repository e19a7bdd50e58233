"""HTTP/1.1 connections → requests for the app, and its answers; all in one event loop.

A server in threads or tasks spends more on a request than a tap needs. Here one that nobody has to wait for is read,
answered and written in one turn of the loop, while all that belongs to it is still in the processor's cache; what
cannot be answered yet waits in its socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from email.utils import formatdate
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol, cast

import httptools

from emostream.http.messages import BUSY, FAILED, Answer, Request, refusal, too_large
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.records import MAX_BODY_BYTES

BACKLOG = 4_096
# Connections beyond the most that are held, to be told so.
SPARE_CONNECTIONS = 64
IDLE_SECONDS = 30.0
REQUEST_SECONDS = 10.0
MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
# Between the end of what we say and a connection's: closed at once, what the client still sends would make its kernel
# throw our answer away.
LINGER_SECONDS = 2.0
# Requests of one connection that may wait for the answer to the one before them.
MAX_WAITING = 32
# A body that has been missing for so long makes room for one that has just begun.
MISSING_SECONDS = 1.0
# What is read at once is parsed in pieces of this size, so that a bound is noticed soon after it is exceeded.
PIECE_BYTES = 16 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NO_HTTP = refusal(400, "expected a request by HTTP/1.1, got what is none")
LONG_HEAD = refusal(431, f"expected a head of at most {MAX_HEADERS} lines and {MAX_HEAD_BYTES} bytes, got a larger one")
TOO_SLOW = refusal(408, f"expected the whole request within {REQUEST_SECONDS:g} s, got less")
CUT_OFF = refusal(400, "expected a whole request, got one that is cut off")


class App(Protocol):
    """What answers."""

    def max_body_bytes(self, target: bytes) -> int:
        """How long a body may be."""

    def answer(self, request: Request, busy: bool) -> Answer | Coroutine[Any, Any, Answer]:
        """The answer, with all headers but those of HTTP itself; or what becomes one, preferably not when `busy`."""

    def refusal(self, request: Request, answer: Answer) -> Answer:
        """What a request is told that cannot be answered."""


class Connections:
    """All connections of a process, and the bounds that they share."""

    def __init__(
        self, app: App, counters: Metrics, log: Log, max_connections: int, max_requests: int,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:  # fmt: skip
        """`max_requests`: how many may be held. A request has `request_seconds` to come in."""
        self.app = app
        self.counters = counters
        self.log = log
        self.max_connections = max_connections
        self.max_requests = max_requests
        self.request_seconds = request_seconds
        # Requests that are held: some of the body is missing, one before them is not answered, or they wait themselves.
        self.in_flight = 0
        self.now = 0.0  # of the loop's clock, at most request_seconds / 10 ago
        self.closing = False
        self.open: set[Connection] = set()
        self.halves: dict[Connection, None] = {}  # those of which a body is missing, the longest first
        self._none_open = asyncio.Event()
        self._rendered: tuple[Answer | None, bytes] = None, b""
        self._date = ""

    async def listen(self, host: str, port: int) -> None:
        """Take connections, as one of several processes that share this port."""
        loop = asyncio.get_running_loop()
        self._look(loop)
        self._server = await loop.create_server(partial(Connection, self), host, port, reuse_port=True, backlog=BACKLOG)

    async def close(self, timeout_seconds: float) -> None:
        """Answer what has begun, take nothing more, and end all connections."""
        self._server.close()
        self.closing = True
        for connection in list(self.open):
            connection.finish()
        if self.open:
            await asyncio.wait([asyncio.ensure_future(self._none_open.wait())], timeout=timeout_seconds)
        for connection in list(self.open):
            connection.abort()

    @property
    def busy(self) -> bool:
        """Whether no more requests can be held."""
        return self.in_flight >= self.max_requests

    def has_room(self) -> bool:
        """Whether one more can be held; for that the body that has been missing for the longest may be given up."""
        if self.busy and self.halves:
            next(iter(self.halves)).end_if_missing()
        return not self.busy

    def remove(self, connection: Connection) -> None:
        """Forget one that has ended."""
        self.open.discard(connection)
        if self.closing and not self.open:
            self._none_open.set()

    def rendered(self, answer: Answer) -> bytes:
        """An answer's bytes, over a connection that goes on. Nearly all answers are the same one."""
        last, data = self._rendered
        if answer is not last:
            data = self.render(answer)
            self._rendered = answer, data
        return data

    def render(self, answer: Answer, close: bool = False, head: bool = False) -> bytes:
        """An answer's bytes. `head`: to a request for the head alone, where the app has said the length."""
        status = HTTPStatus(answer.status)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"date: {self._date}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        if not head and status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            lines.append(f"content-length: {len(answer.body)}")
        if close:
            lines.append("connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if head else answer.body)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Now and then at all connections, which costs less than a timer for each request."""
        loop.call_later(self.request_seconds / 10, self._look, loop)
        self.now = loop.time()
        self._date = formatdate(usegmt=True)
        self._rendered = None, b""
        for connection in list(self.open):
            connection.end_if_overdue()


class Phase(Enum):
    """What a connection is about to read."""

    NEXT = "the begin of a request"
    HEAD = "the rest of its head"
    BODY = "the rest of its body"
    NOTHING = "nothing more"


NEXT, HEAD, BODY, NOTHING = Phase  # the lookup in the class would cost as much as a call


class Connection(asyncio.Protocol):
    """One connection: its requests come in, are answered in their order, and end in time."""

    def __init__(self, connections: Connections) -> None:
        self._all = connections
        self._parser = httptools.HttpRequestParser(self)
        self._phase = NEXT
        self._since = connections.now  # when this phase began, or when the client last read something
        self._unsent = 0  # bytes that it had not read then
        self._answering = False  # somebody waits for the answer to the request before
        self._blocked = False  # the client does not read what it is answered
        self._waiting: deque[Request] = deque()  # the requests after it
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""
        self._frame_bytes = 0  # of the request that is being read, beside its body
        self._header_lines = 0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or say that there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        address = transport.get_extra_info("peername")
        self._peer: str = address[0] if address else ""  # it has gone again
        self._all.open.add(self)
        beyond = len(self._all.open) - self._all.max_connections
        if beyond > SPARE_CONNECTIONS or self._all.closing:
            self.abort()
        elif beyond > 0:
            self._refuse(BUSY)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        for begin in range(0, len(data), PIECE_BYTES):
            if self._phase is not NOTHING:
                self._read(data[begin : begin + PIECE_BYTES])
        if self._phase is BODY:
            self._hold()

    def eof_received(self) -> bool:
        """The client sends no more, but may wait for answers; returns whether there are any."""
        if self._phase in (HEAD, BODY):
            self._refuse(CUT_OFF)
        self._phase = NOTHING
        return self._answering or bool(self._waiting)

    def pause_writing(self) -> None:
        """The client does not read; no more is read from it until it does."""
        self._blocked = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It has read all."""
        self._blocked = False
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, for whatever reason."""
        gone = len(self._waiting) + (self in self._all.halves)
        self._all.in_flight -= len(self._waiting)
        self._waiting.clear()
        self._phase = NOTHING
        self._release()
        if gone:
            self._all.counters.add("gone", gone)
        self._all.remove(self)

    def _read(self, data: bytes) -> None:
        headers, size = self._headers, len(self._body)
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            self._all.log.error("a connection has failed; please report this", error=repr(error.__context__ or error))
            self._refuse(FAILED)
        except httptools.HttpParserError:
            self._refuse(NO_HTTP)
        if self._headers is headers and self._phase in (HEAD, BODY):  # it is still the same request
            self._frame_bytes += len(data) - (len(self._body) - size)
            # A head; or chunks, which may be small, and what can be written between and after them.
            if self._frame_bytes > MAX_HEAD_BYTES + len(self._body):
                self._refuse(LONG_HEAD)

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                # The parser stops where another protocol is offered, as Java's client does and curl can. The offer is
                # declined by reading on as if it had not been made.
                if self._phase is not HEAD:
                    self._phase = NOTHING  # CONNECT: it was answered; what follows is for somebody else
                    self._go_on()
                    return
                lines = [b"%b: %b" % header for header in self._headers.items() if header[0] != b"upgrade"]
                version = self._parser.get_http_version().encode()
                first = b"%b %b HTTP/%b" % (self._parser.get_method(), self._target, version)
                data = b"\r\n".join([first, *lines, b"", b""]) + data[offer.args[0] :]
                self._parser = httptools.HttpRequestParser(self)

    # What the parser calls. It goes on to the end of what it was fed, also when nothing more is to be read.

    def on_message_begin(self) -> None:
        """A request."""
        if self._phase is not NOTHING:
            self._phase = HEAD
            self._since = self._all.now
            self._target, self._headers, self._header_lines, self._frame_bytes = b"", {}, 0, 0

    def on_url(self, part: bytes) -> None:
        """Its target, or a part of it."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers. What comes in that shape after the body is not looked at."""
        if self._phase is not HEAD:
            return
        self._header_lines += 1
        if self._header_lines > MAX_HEADERS:
            self._refuse(LONG_HEAD)
            return
        name = name.lower()
        if name in self._headers:
            value = self._headers[name] + b"," + value
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        """Its body, if any, is next."""
        if self._phase is HEAD and (not self._parser.should_upgrade() or self._parser.get_method() == b"CONNECT"):
            self._phase = BODY

    def on_body(self, piece: bytes) -> None:
        """A piece of it."""
        if self._phase is not BODY:
            return
        if not self._body:
            self._body = piece
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)  # which grows without being copied each time
            self._body += piece
        if len(self._body) > MAX_BODY_BYTES:
            self._check_length(len(self._body))

    def on_message_complete(self) -> None:
        """The request is there."""
        if self._phase is BODY:
            request = Request(self._headers, self._peer, self._parser.get_method(), self._target, bytes(self._body))
            self._phase = NEXT if self._parser.should_keep_alive() and not self._all.closing else NOTHING
            self._since = self._all.now
            self._release()
            self._take(request)

    def _hold(self) -> None:
        """Wait for the rest of a body, if there is room for it."""
        if self not in self._all.halves:
            # The parser has seen that it is a number; what Python makes none of is a long row of zeros before it.
            self._check_length(int(self._headers.get(b"content-length", b"").lstrip(b"0") or b"0"))
            if self._phase is BODY and not self._all.has_room():
                self._refuse(BUSY)
            if self._phase is NOTHING:
                return
            self._all.in_flight += 1
            self._all.halves[self] = None
        if not self._answering and not self._waiting and self._headers.pop(b"expect", b"") and not self._body:
            self._transport.write(CONTINUE)

    def end_if_missing(self) -> None:
        """Give up the rest of a body that should have been here."""
        if self._all.now - self._since > MISSING_SECONDS:
            self._refuse(BUSY)

    def _check_length(self, length: int) -> None:
        most = self._all.app.max_body_bytes(self._target)
        if length > most:
            self._refuse(too_large(most))

    def _release(self) -> None:
        """Forget the request that was read; a connection may be idle from now on."""
        self._target, self._headers, self._body = b"", {}, b""
        if self in self._all.halves:
            del self._all.halves[self]
            self._all.in_flight -= 1

    # Answers.

    def _take(self, request: Request) -> None:
        """Answer a request, when those before it are answered."""
        if not self._answering and not self._blocked and not self._waiting:
            self._answer(request)
            return
        if len(self._waiting) == MAX_WAITING or self._all.busy:
            self._phase = NOTHING
            request = request._replace(body=b"", refusal=request.refusal or BUSY)
        self._waiting.append(request)
        self._all.in_flight += 1
        self._transport.pause_reading()

    def _refuse(self, answer: Answer) -> None:
        """Say why nothing more is read, after what was asked before is answered."""
        if self._phase is not NOTHING:
            request = Request(self._headers, self._peer, refusal=answer)
            self._phase = NOTHING
            self._release()
            self._take(request)

    def _answer(self, request: Request) -> None:
        app = self._all.app
        try:
            if request.refusal is None:
                answer = app.answer(request, self._all.busy)
            else:
                answer = app.refusal(request, request.refusal)
        except Exception as error:  # noqa: BLE001 - not swallowed: it is logged, and answered 500
            answer = self._failed(request, error)
        if isinstance(answer, Answer):
            self._send(request, answer)
        else:
            self._answering = True
            self._all.in_flight += 1
            asyncio.get_running_loop().create_task(answer).add_done_callback(partial(self._answered, request))

    def _answered(self, request: Request, task: asyncio.Task[Answer]) -> None:
        self._answering = False
        self._all.in_flight -= 1
        error = task.exception()
        answer = self._failed(request, error) if error else task.result()
        if self._transport.is_closing():
            self._all.counters.add("gone")
            return
        self._since = self._all.now
        self._send(request, answer)
        self._go_on()

    def _failed(self, request: Request, error: BaseException) -> Answer:
        self._all.log.error("a request could not be answered; please report this", error=repr(error))
        return self._all.app.refusal(request, FAILED)

    def _send(self, request: Request, answer: Answer) -> None:
        last = self._phase is NOTHING and not self._waiting
        if last or request.method == b"HEAD":
            self._transport.write(self._all.render(answer, last, request.method == b"HEAD"))
        else:
            self._transport.write(self._all.rendered(answer))
        if last:
            self._end()

    def _go_on(self) -> None:
        """To what has waited, and then to what comes."""
        while self._waiting and not self._answering and not self._blocked:
            self._all.in_flight -= 1
            self._answer(self._waiting.popleft())
        if self._waiting or self._answering or self._blocked or self._transport.is_closing():
            return
        if self._phase is NOTHING:
            self._end()
            return
        if self._phase is BODY:
            self._hold()
        self._transport.resume_reading()

    def _end(self) -> None:
        """Say no more. What still comes is read and thrown away until the client has ended the connection, too."""
        self._since = self._all.now
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._transport.resume_reading()

    def finish(self) -> None:
        """End when what has begun is answered."""
        if self._phase is NEXT:
            self._phase = NOTHING
            if not self._answering and not self._waiting:
                self._transport.close()

    def abort(self) -> None:
        """End now."""
        self._transport.abort()

    def end_if_overdue(self) -> None:
        """See whether the client lets us wait for too long."""
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._since = unsent, self._all.now
        waited_seconds = self._all.now - self._since
        if unsent or (self._phase is NEXT and not self._answering):
            if waited_seconds > IDLE_SECONDS:
                self.abort()
        elif self._answering or self._waiting:
            return
        elif self._phase is NOTHING:
            if waited_seconds > LINGER_SECONDS:
                self.abort()
        elif waited_seconds > self._all.request_seconds:
            self._refuse(TOO_SLOW)
