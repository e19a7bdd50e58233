"""One HTTP/1.1 connection → requests for an app → its answers.

If the app can answer at once, a request is read, answered and written in one turn of the event loop, without a thread
or a task: either would cost more than a tap does. While the app works on an answer, the next requests wait, first here
and then in the socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Flag
from functools import partial
from typing import cast

import msgspec

from emostream.http.connections import REQUEST_SECONDS, Connections
from emostream.http.messages import BUSY, FAILED, Answer, Request, TakeOver, refusal
from emostream.http.protocol import BODY, CLOSED, CONTINUE, IDLE, PIECE_BYTES, ServerProtocol, answer_bytes

SPARE_CONNECTIONS = 64  # above the limit, to answer them 503; more are closed without an answer
IDLE_SECONDS = 30.0
# How long we read and discard after the last answer. If we closed at once while the client still sends, TCP would reset
# the connection, and the client might lose the answer.
DISCARD_SECONDS = 2.0
MAX_WAITING = 32  # requests on one connection that wait for the answer to an earlier one
MISSING_SECONDS = 1.0  # if a body has been missing for this long, its request makes room for a new one
TOO_SLOW = refusal(408, f"expected the whole request within {REQUEST_SECONDS:g} s, got only a part of it")


class AnswerState(Flag):
    """What the next answer on a connection waits for. WORKING and BLOCKED can be true at the same time."""

    READY = 0  # nothing: the next request is answered at once
    WORKING = 1  # the app, which has not finished it
    BLOCKED = 2  # the client, which does not read the earlier answers
    ENDED = 4  # the last answer is sent; there is no next one


READY, WORKING, BLOCKED, ENDED = AnswerState.READY, AnswerState.WORKING, AnswerState.BLOCKED, AnswerState.ENDED


class ServerConnection(asyncio.Protocol):
    """Answers the requests of one connection in their order, and closes it in time."""

    def __init__(self, server: Connections) -> None:
        self._server = server
        self._state = READY
        self.since = server.now  # when it became idle, a request began, or the client last read something
        self._unread_bytes = 0  # how much of our answers the client had not read at the last look
        self._waiting: deque[Request] = deque()
        self._held = 0  # how many of the waiting requests the server counts as held

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read, or answer 503 if there are too many connections."""
        self._transport = cast(asyncio.Transport, transport)
        address = transport.get_extra_info("peername")
        peer: str = address[0] if address else ""  # the client may have gone already
        self._protocol = ServerProtocol(peer, self._server.app.max_body_bytes, self._server.check_host)
        too_many = self._server.add(self)
        if too_many > SPARE_CONNECTIONS or self._server.closing:
            self.abort()
        elif too_many:
            self._refuse(BUSY)

    def data_received(self, data: bytes) -> None:
        """Answer the requests that are complete now."""
        protocol = self._protocol
        for begin in range(0, len(data), PIECE_BYTES):
            if protocol.state is CLOSED:
                return
            was_idle = protocol.state is IDLE
            complete = protocol.receive(data[begin : begin + PIECE_BYTES])
            if was_idle or complete:
                self.since = self._server.now
            if complete:
                self._take(complete)
        if protocol.state is BODY:
            self._hold_body()

    def eof_received(self) -> bool:
        """The client sends no more. Return whether to keep the connection open for answers."""
        self._take(self._protocol.receive_eof())
        return WORKING in self._state or bool(self._waiting)

    def pause_writing(self) -> None:
        """The client does not read its answers. Stop reading its requests."""
        self._state |= BLOCKED
        if ENDED not in self._state:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has read its answers. Continue."""
        self._state &= ~BLOCKED
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and count its requests that have no answer."""
        gone = len(self._waiting)
        if self in self._server.missing_bodies:
            self._release_body()
            gone += 1
        self._drop_waiting()
        if gone:
            self._server.app.gone(gone)

    @property
    def idle(self) -> bool:
        """Whether no request has begun, and all answers are sent."""
        return self._protocol.state is IDLE and self._state is READY and not self._transport.get_write_buffer_size()

    def finish(self) -> None:
        """Answer the requests that have begun, then close."""
        self._protocol.finish()
        if self._protocol.state is CLOSED and self._state is READY:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def end_if_missing(self) -> None:
        """Refuse the request whose body is missing, if it has been missing for long."""
        if self._server.now - self.since > MISSING_SECONDS:
            self._refuse(BUSY)

    def end_if_overdue(self) -> None:
        """End the connection if the client has kept us waiting for too long."""
        unread_bytes = self._transport.get_write_buffer_size()
        if unread_bytes != self._unread_bytes:
            self._unread_bytes, self.since = unread_bytes, self._server.now
        waited_seconds = self._server.now - self.since
        if unread_bytes or self.idle:
            if waited_seconds > IDLE_SECONDS:
                self.abort()
        elif ENDED in self._state:
            if waited_seconds > DISCARD_SECONDS:
                self.abort()
        elif self._state is READY and waited_seconds > self._server.request_seconds:
            self._refuse(TOO_SLOW)

    def _take(self, complete: list[Request]) -> None:
        """Answer these requests, or let them wait for the answers to earlier ones."""
        if complete and self in self._server.missing_bodies:
            self._release_body()
        self._waiting.extend(complete)
        self._answer_waiting()
        if len(self._waiting) > self._held:
            self._hold_waiting()

    def _refuse(self, answer: Answer) -> None:
        """Read no more. Send this refusal after the answers to earlier requests."""
        self._take(self._protocol.refuse(answer))

    def _hold_waiting(self) -> None:
        """Count the waiting requests as held. Refuse the first one for which there is no room; drop all after it."""
        room = max(0, self._server.max_requests - self._server.in_flight)
        most = min(MAX_WAITING, self._held + room)
        if len(self._waiting) > most:
            request = self._waiting[most]
            while len(self._waiting) > most:
                self._waiting.pop()
            self._waiting.append(msgspec.structs.replace(request, body=b"", refusal=request.refusal or BUSY))
            self._protocol.close()
        self._server.in_flight += len(self._waiting) - self._held
        self._held = len(self._waiting)
        self._transport.pause_reading()

    def _hold_body(self) -> None:
        """Wait for the rest of a body, if one more request can be held."""
        if self not in self._server.missing_bodies:
            if not self._server.has_room():
                self._refuse(BUSY)
                return
            self._server.in_flight += 1
            self._server.missing_bodies[self] = None
        if self._state is READY and self._protocol.take_expectation():
            self._transport.write(CONTINUE)

    def _release_body(self) -> None:
        del self._server.missing_bodies[self]
        self._server.in_flight -= 1

    def _answer_waiting(self) -> None:
        while self._waiting and self._state is READY:
            request = self._waiting.popleft()
            if self._held:
                self._held -= 1
                self._server.in_flight -= 1
            self._answer(request)

    def _answer(self, request: Request) -> None:
        app = self._server.app
        try:
            if request.refusal is None:
                answer = app.answer(request, self._server.busy)
            else:
                answer = app.refusal(request, request.refusal)
        except Exception as error:  # noqa: BLE001 - not swallowed: it is logged, and answered 500
            answer = self._failed(request, error)
        if isinstance(answer, Answer):
            self._send(request, answer)
        elif isinstance(answer, TakeOver):
            self._hand_over(answer)
        else:
            self._state = WORKING
            self._server.in_flight += 1
            asyncio.ensure_future(answer).add_done_callback(partial(self._answered, request))

    def _hand_over(self, new_owner: TakeOver) -> None:
        """Give the connection away. The client gets no answer to later requests."""
        self._state = ENDED
        self._drop_waiting()
        new_owner.take(self._transport)

    def _drop_waiting(self) -> None:
        """Forget the waiting requests, read no more, and let the server forget the connection."""
        self._server.in_flight -= self._held
        self._held = 0
        self._waiting.clear()
        self._protocol.close()
        self._server.remove(self)

    def _answered(self, request: Request, answered: asyncio.Future[Answer]) -> None:
        self._state &= ~WORKING
        self._server.in_flight -= 1
        error = answered.exception()
        answer = self._failed(request, error) if error else answered.result()
        if self._transport.is_closing():
            self._server.app.gone(1)
            return
        self.since = self._server.now
        self._send(request, answer)
        self._go_on()

    def _failed(self, request: Request, error: BaseException) -> Answer:
        self._server.log.error("a request could not be answered; please report this", error=repr(error))
        return self._server.app.refusal(request, FAILED)

    def _send(self, request: Request, answer: Answer) -> None:
        last = self._protocol.state is CLOSED and not self._waiting
        to_head = request.method == b"HEAD"
        if last or to_head or request.keep_alive:
            connection = "close" if last else "keep-alive" if request.keep_alive else ""
            self._transport.write(answer_bytes(answer, self._server.date, connection, to_head))
        else:
            self._transport.write(self._server.bytes_of(answer))
        if last:
            self._end()

    def _go_on(self) -> None:
        """Answer the waiting requests, then read the next ones."""
        self._answer_waiting()
        if self._state is not READY or self._transport.is_closing():
            return
        if self._protocol.state is CLOSED:
            self._end()
            return
        if self._protocol.state is BODY:
            self._hold_body()
        self._transport.resume_reading()

    def _end(self) -> None:
        """Send nothing more. Read and discard until the client closes the connection too."""
        self._state = ENDED
        self.since = self._server.now
        if not self._transport.is_closing():
            try:
                self._transport.write_eof()
            except OSError:  # the client has gone
                self.abort()
            else:
                self._transport.resume_reading()
