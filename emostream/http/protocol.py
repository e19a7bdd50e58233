"""Bytes of one connection → HTTP/1.1 requests; answers → bytes. No I/O and no clock in here.

A transport hands over what it reads and gets back the requests that are complete. What breaks a limit or a rule of HTTP
comes back as a request with a refusal, and nothing after it is read. httptools (llhttp) does the parsing; the rules for
a whole head are in head.py.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, Flag
from http import HTTPStatus

import httptools

from emostream.http.head import PROXY_WANTED, HostCheck, any_host, check_head, explain, origin_form
from emostream.http.messages import NOT_HTTP, Answer, Request, refusal, too_large
from emostream.records import MAX_BODY_BYTES

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
# A transport hands over at most this much at once, so that a limit is noticed soon after it is exceeded.
PIECE_BYTES = 16 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LARGE_HEAD = refusal(
    431, f"expected a head of at most {MAX_HEADERS} lines and {MAX_HEAD_BYTES} bytes, got a larger one"
)
LONG_TARGET = refusal(
    414, f"expected a target and headers of at most {MAX_HEAD_BYTES} bytes in all, got a long target and more"
)
UTF8_BOM = b"\xef\xbb\xbf"
CUT_OFF = refusal(400, "expected a whole request, got only the beginning of one")


class ReadState(Enum):
    """What the next byte belongs to."""

    IDLE = "a new request"
    HEAD = "the head of a request"
    BODY = "the body of a request"
    CLOSED = "nothing: no more is read"


IDLE, HEAD, BODY, CLOSED = ReadState  # a look-up in the class would cost as much as a call


class AnswerState(Flag):
    """What the next answer of a connection waits for; it may be both the app and the client."""

    READY = 0  # nothing: the next request is answered at once
    WORKING = 1  # the app, which works on it
    BLOCKED = 2  # the client, which does not read the answers before it
    ENDED = 4  # there is none: the last answer is sent


READY, WORKING, BLOCKED, ENDED = AnswerState.READY, AnswerState.WORKING, AnswerState.BLOCKED, AnswerState.ENDED


class ServerProtocol:
    """The requests of one connection while they come in."""

    def __init__(
        self, peer: str, max_body_bytes: Callable[[bytes], int], check_host: HostCheck = any_host
    ) -> None:  # fmt: skip
        """`max_body_bytes` says for a target how long a body may be: MAX_BODY_BYTES or more.

        `check_host` refuses a host that is not ours.
        """
        self.state = IDLE
        self._peer = peer
        self._max_body_bytes = max_body_bytes
        self._check_host = check_host
        # Target, host and connection header of an HTTP/1.1 request whose head was good.
        self._good: tuple[bytes, bytes | None, bytes | None] | None = None
        self._finishing = False
        self._parser = httptools.HttpRequestParser(self)
        self._complete: list[Request] = []  # not returned yet
        # The request that is being read.
        self._target = b""
        self._keep_alive = False  # see Request
        self._headers: dict[bytes, bytes] = {}
        self._header_lines = 0
        self._body: bytes | bytearray = b""
        self._overhead_bytes = 0  # all of it that is not body

    def receive(self, data: bytes) -> list[Request]:
        """Read on; returns the requests that are complete now."""
        body_bytes, rest, was_idle = len(self._body), data, self.state is IDLE
        while rest:
            try:
                self._parser.feed_data(rest)
                break
            except httptools.HttpParserUpgrade as offer:
                rest = self._decline(rest[offer.args[0] :])
            except httptools.HttpParserCallbackError:
                raise  # a bug of ours, not a bad request
            except httptools.HttpParserError as error:
                begins_here = was_idle and not self._complete
                self._refuse(explain(rest, error) if begins_here else NOT_HTTP)
                break
        if self.state is HEAD or self.state is BODY:
            self._check_limits(len(data), body_bytes)
        complete, self._complete = self._complete, []
        return complete

    def receive_eof(self) -> list[Request]:
        """The client sends no more; returns a refusal if that cuts a request off."""
        if self.state is HEAD or self.state is BODY:
            return self.refuse(CUT_OFF)
        self.state = CLOSED
        return []

    def refuse(self, answer: Answer) -> list[Request]:
        """Give up what is being read and read no more; returns the refusal, unless nothing was read any more."""
        self._refuse(answer)
        complete, self._complete = self._complete, []
        return complete

    def close(self) -> None:
        """Read no more, and give up what is being read."""
        self.state = CLOSED
        self._forget_request()

    def finish(self) -> None:
        """Read no request after the one that has begun."""
        self._finishing = True
        if self.state is IDLE:
            self.state = CLOSED

    def take_expectation(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body. True only once for a request."""
        if self.state is not BODY or b"expect" not in self._headers or self._body:
            return False
        return self._headers.pop(b"expect").lower() == b"100-continue" and self._parser.get_http_version() == "1.1"

    def _decline(self, rest: bytes) -> bytes:
        """Decline an offer of another protocol, as Java's client makes and curl can; returns what is to be read next.

        The parser has stopped after the head. `rest` is what came after it.
        """
        if self.state is not HEAD:
            self.state = CLOSED  # CONNECT: it is refused already, or will be by the app
            return b""
        # Read the same head again, without the offer.
        lines = [b"%b: %b" % header for header in self._headers.items() if header[0] != b"upgrade"]
        version = self._parser.get_http_version().encode()
        first = b"%b %b HTTP/%b" % (self._parser.get_method(), self._target, version)
        self._forget_request()
        self._parser = httptools.HttpRequestParser(self)
        return b"\r\n".join([first, *lines, b"", b""]) + rest

    def _check_limits(self, data_bytes: int, body_bytes_before: int) -> None:
        if not self._complete:  # all of the data belongs to the request that is being read
            self._overhead_bytes += data_bytes - (len(self._body) - body_bytes_before)
            # Small chunks have more overhead than body; a client may send as much of it as of body.
            if self._overhead_bytes > MAX_HEAD_BYTES + len(self._body):
                self._refuse(LONG_TARGET if len(self._target) > MAX_HEAD_BYTES // 2 else LARGE_HEAD)
        if self.state is BODY:
            # The parser has checked that it is a number. Python refuses one with thousands of leading zeros.
            self._check_body(int(self._headers.get(b"content-length", b"").lstrip(b"0") or b"0"))

    def _check_body(self, body_bytes: int) -> None:
        max_bytes = self._max_body_bytes(self._target)
        if body_bytes > max_bytes:
            self._refuse(too_large(max_bytes))

    def _refuse(self, answer: Answer, method: bytes = b"") -> None:
        if self.state is not CLOSED:
            self._complete.append(Request(self._headers, self._peer, method, refusal=answer))
            self.close()

    def _forget_request(self) -> None:
        """Keep nothing of a request that is complete: the connection may be idle from now on."""
        self._target, self._headers, self._body = b"", {}, b""

    # What httptools calls. It goes on to the end of the data even if nothing more is to be read.

    def on_message_begin(self) -> None:
        """A request begins."""
        if self.state is not CLOSED:
            self.state = HEAD
            self._header_lines = self._overhead_bytes = 0

    def on_url(self, part: bytes) -> None:
        """Take its target, or a part of it."""
        if self.state is HEAD:
            self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one of its headers. Trailers, which come after the body, are ignored."""
        if self.state is not HEAD:
            return
        self._header_lines += 1
        if self._header_lines > MAX_HEADERS:
            self._refuse(LARGE_HEAD)
            return
        name = name.lower()
        if name in self._headers:
            value = self._headers[name] + (b"; " if name == b"cookie" else b",") + value
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        if self.state is not HEAD:
            return
        headers = self._headers
        if (
            self._good == (self._target, headers.get(b"host"), headers.get(b"connection"))
            and b"transfer-encoding" not in headers
            and b"content-encoding" not in headers
            and self._parser.should_keep_alive()
        ):
            self.state = BODY  # as nearly all heads of a connection; a look at all the rules costs a tenth of a tap
        else:
            self._check_head()

    def _check_head(self) -> None:
        parser, headers, asked = self._parser, self._headers, self._target
        version = str(parser.get_http_version())
        if asked[:1] != b"/":
            self._target, refused = origin_form(parser.get_method(), self._target, headers)
        else:
            refused = None
        if parser.should_upgrade() and parser.get_method() == b"CONNECT":
            refused = PROXY_WANTED
        refused = check_head(version, self._target, headers, self._check_host) or refused
        if refused:
            self._refuse(refused, parser.get_method())
            return
        if version == "1.0":
            if b"close" in headers.get(b"connection", b"").lower():
                self._finishing = True  # the parser has read keep-alive, which stands beside it
            self._keep_alive = parser.should_keep_alive() and not self._finishing
        elif self._target is asked and headers.get(b"connection", b"keep-alive").lower() == b"keep-alive":
            self._good = asked, headers[b"host"], headers.get(b"connection")
        if not parser.should_upgrade():
            self.state = BODY

    def on_body(self, part: bytes) -> None:
        """Take a part of its body."""
        if self.state is not BODY:
            return
        if not self._body:
            self._body = part
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)  # which grows without being copied each time
            self._body += part
        if len(self._body) > MAX_BODY_BYTES:
            self._check_body(len(self._body))

    def on_message_complete(self) -> None:
        """It is complete."""
        if self.state is BODY:
            method, body = self._parser.get_method(), bytes(self._body)
            if body[:3] == UTF8_BOM:  # our bodies are JSON in UTF-8, and RFC 8259 8.1 lets us ignore it
                body = body[len(UTF8_BOM) :]
            self._complete.append(
                Request(self._headers, self._peer, method, self._target, body, None, self._keep_alive)
            )
            self.state = IDLE if self._parser.should_keep_alive() and not self._finishing else CLOSED
            self._forget_request()


def answer_bytes(answer: Answer, date: str = "", connection: str = "", head: bool = False) -> bytes:
    """An answer as it goes over the wire. `connection`: close, if the connection ends after it; or keep-alive.

    `head`: the request was a HEAD, so there is no body, and the app itself says how long the body would be.
    """
    status = HTTPStatus(answer.status)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    if date:
        lines.append(f"date: {date}")
    lines += [f"{name}: {value}" for name, value in answer.headers]
    if not head and status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        lines.append(f"content-length: {len(answer.body)}")
    if connection:
        lines.append(f"connection: {connection}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if head else answer.body)
