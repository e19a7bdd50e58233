"""Bytes of one connection → HTTP/1.1 requests; answers → bytes. No I/O and no clock in here.

A transport passes on the bytes that it reads, and gets the requests that are complete. A request that breaks a limit or
a rule of HTTP comes back with a refusal, and nothing after it is read. httptools (llhttp) parses; head.py has the rules
for a whole head.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from http import HTTPStatus

import httptools

from emostream.http.head import PROXY_WANTED, HostCheck, any_host, check_head, explain, origin_form
from emostream.http.messages import NOT_HTTP, Answer, Request, refusal, too_large
from emostream.records import MAX_BODY_BYTES

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
# A transport passes on at most this much at once, so that a request is refused soon after it exceeds a limit.
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


IDLE, HEAD, BODY, CLOSED = ReadState  # an attribute of an enum class costs as much as a function call


class ServerProtocol:
    """Reads the requests of one connection."""

    def __init__(self, peer: str, max_body_bytes: Callable[[bytes], int], check_host: HostCheck = any_host) -> None:
        """`max_body_bytes` returns the limit for the body of a request for a target: MAX_BODY_BYTES or more."""
        self.state = IDLE
        self._peer = peer
        self._max_body_bytes = max_body_bytes
        self._check_host = check_host
        # Target, Host and Connection of the last HTTP/1.1 request, if its head was good.
        self._good: tuple[bytes, bytes | None, bytes | None] | None = None
        self._finishing = False
        self._parser = httptools.HttpRequestParser(self)
        self._complete: list[Request] = []  # not returned yet
        # The request that is being read:
        self._target = b""
        self._keep_alive = False  # see Request
        self._headers: dict[bytes, bytes] = {}
        self._header_lines = 0
        self._body: bytes | bytearray = b""
        self._overhead_bytes = 0  # everything that is not body

    def receive(self, data: bytes) -> list[Request]:
        """Read these bytes, and return the requests that are complete now."""
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
                self._complete += self.refuse(explain(rest, error) if begins_here else NOT_HTTP)
                break
        if self.state is HEAD or self.state is BODY:
            self._check_limits(len(data), body_bytes)
        complete, self._complete = self._complete, []
        return complete

    def receive_eof(self) -> list[Request]:
        """The client sends no more. Return a refusal if that cuts off a request."""
        if self.state is HEAD or self.state is BODY:
            return self.refuse(CUT_OFF)
        self.state = CLOSED
        return []

    def refuse(self, answer: Answer, method: bytes = b"") -> list[Request]:
        """Give up the request that is being read, and read no more. Return the refusal, unless reading had ended."""
        if self.state is CLOSED:
            return []
        refused = Request(self._headers, self._peer, method, refusal=answer)
        self.close()
        return [refused]

    def close(self) -> None:
        """Give up the request that is being read, and read no more."""
        self.state = CLOSED
        self._forget_request()

    def finish(self) -> None:
        """Read the request that has begun to its end, and then no more."""
        self._finishing = True
        if self.state is IDLE:
            self.state = CLOSED

    def take_expectation(self) -> bool:
        """Return True, once for each request, if the client waits for `100 Continue` before it sends the body."""
        if self.state is not BODY or b"expect" not in self._headers or self._body:
            return False
        return self._headers.pop(b"expect").lower() == b"100-continue" and self._parser.get_http_version() == "1.1"

    def _decline(self, rest: bytes) -> bytes:
        """Decline to change to another protocol, which Java's client and curl offer. Return what is to be read next.

        The parser has stopped after the head. `rest` came after that.
        """
        if self.state is not HEAD:
            self.state = CLOSED  # CONNECT, which is refused
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
            # Each chunk has overhead: so the overhead may grow with the body.
            if self._overhead_bytes > MAX_HEAD_BYTES + len(self._body):
                self._complete += self.refuse(LONG_TARGET if len(self._target) > MAX_HEAD_BYTES // 2 else LARGE_HEAD)
        if self.state is BODY:
            # The parser has checked that this is a number. int() refuses thousands of leading zeros.
            self._check_body(int(self._headers.get(b"content-length", b"").lstrip(b"0") or b"0"))

    def _check_body(self, body_bytes: int) -> None:
        max_bytes = self._max_body_bytes(self._target)
        if body_bytes > max_bytes:
            self._complete += self.refuse(too_large(max_bytes))

    def _forget_request(self) -> None:
        """Free the memory of a request: its connection may now be idle for long."""
        self._target, self._headers, self._body = b"", {}, b""

    # httptools calls the methods below. It goes on to the end of the data, even after a refusal.

    def on_message_begin(self) -> None:
        """A request begins."""
        if self.state is not CLOSED:
            self.state = HEAD
            self._header_lines = self._overhead_bytes = 0

    def on_url(self, part: bytes) -> None:
        """Add a part of its target."""
        if self.state is HEAD:
            self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add one of its headers. Trailers, which come after the body, are ignored."""
        if self.state is not HEAD:
            return
        self._header_lines += 1
        if self._header_lines > MAX_HEADERS:
            self._complete += self.refuse(LARGE_HEAD)
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
        connection = headers.get(b"connection")
        if (
            self._good == (self._target, headers.get(b"host"), connection)
            and b"transfer-encoding" not in headers
            and b"content-encoding" not in headers
            and self._parser.should_keep_alive()  # never in HTTP/1.0 without a Connection header
            and (connection is None or self._parser.get_http_version() == "1.1")
        ):
            # Nearly all heads of a connection are alike. To check all rules again would make a tap a tenth slower.
            self.state = BODY
        else:
            self._check_head()

    def _check_head(self) -> None:
        parser, headers, asked = self._parser, self._headers, self._target
        version = str(parser.get_http_version())
        refused = None
        if asked[:1] != b"/":
            self._target, refused = origin_form(parser.get_method(), asked, headers)
        if parser.should_upgrade() and parser.get_method() == b"CONNECT":
            refused = PROXY_WANTED
        refused = check_head(version, self._target, headers, self._check_host) or refused
        if refused:
            self._complete += self.refuse(refused, parser.get_method())
            return
        self._good = None
        connection = headers.get(b"connection")
        if version == "1.0" and b"close" in (connection or b"").lower():
            self._finishing = True  # of "keep-alive, close" the parser sees only keep-alive
        self._keep_alive = version == "1.0" and parser.should_keep_alive() and not self._finishing
        if version == "1.1" and self._target is asked and (connection is None or connection.lower() == b"keep-alive"):
            self._good = asked, headers[b"host"], connection
        if not parser.should_upgrade():
            self.state = BODY

    def on_body(self, part: bytes) -> None:
        """Add a part of its body."""
        if self.state is not BODY:
            return
        if not self._body:
            self._body = part
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)  # which can grow without a copy of all that came before
            self._body += part
        if len(self._body) > MAX_BODY_BYTES:
            self._check_body(len(self._body))

    def on_message_complete(self) -> None:
        """It is complete."""
        if self.state is BODY:
            method, body = self._parser.get_method(), bytes(self._body)
            if body[:3] == UTF8_BOM:  # our bodies are JSON; RFC 8259 8.1 allows us to ignore the mark
                body = body[len(UTF8_BOM) :]
            request = Request(self._headers, self._peer, method, self._target, body, None, self._keep_alive)
            self._complete.append(request)
            self.state = IDLE if self._parser.should_keep_alive() and not self._finishing else CLOSED
            self._forget_request()


def answer_bytes(answer: Answer, date: str = "", connection: str = "", to_head: bool = False) -> bytes:
    """Return an answer as it goes over the wire. `connection` is the value of that header; empty for none.

    The answer to a HEAD request (`to_head`) has no body. If its length is known, the app adds Content-Length.
    """
    status = HTTPStatus(answer.status)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    if date:
        lines.append(f"date: {date}")
    lines += [f"{name}: {value}" for name, value in answer.headers]
    if not to_head and status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        lines.append(f"content-length: {len(answer.body)}")
    if connection:
        lines.append(f"connection: {connection}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if to_head else answer.body)
