"""Bytes of a connection → what they ask for; and the answers: the head of an event stream, or a refusal in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs

import httptools

from emostream.http.cors import Headers
from emostream.records import encode

PATH = "/stream"
MAX_REQUEST_BYTES = 16 * 1024
FULL_RETRY_SECONDS = 5


@dataclass
class Refusal(Exception):
    """Why a connection gets no stream, and what its client may do then."""

    status: HTTPStatus
    error: str
    headers: tuple[str, ...] = ()


class Request:
    """One HTTP request while it is being read. The first one of a connection; what follows it is of no interest."""

    def __init__(self) -> None:
        self.complete = False
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._bytes = 0
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        """Take more of it. Raises Refusal where it is none, or too long."""
        self._bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # complete: whoever offers another protocol gets this one
        except httptools.HttpParserError as error:
            if not self.complete:
                raise Refusal(HTTPStatus.BAD_REQUEST, f"expected GET {PATH} by HTTP ({error})") from None
        if not self.complete and self._bytes > MAX_REQUEST_BYTES:
            raise Refusal(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"expected a request of at most {MAX_REQUEST_BYTES} bytes"
            )

    @property
    def origin(self) -> str:
        """The web origin of the page that asks; empty where none does."""
        return self._headers.get(b"origin", b"").decode("latin-1")

    def last_event_id(self) -> str | None:
        """Where the stream is to go on; None where it is a new one. Raises Refusal where no stream is asked for."""
        if self._parser.get_http_version() not in ("1.0", "1.1"):
            raise Refusal(HTTPStatus.BAD_REQUEST, f"expected GET {PATH} by HTTP/1.1")
        path, _, query = self._url.partition(b"?")
        if path != PATH.encode():
            raise Refusal(HTTPStatus.NOT_FOUND, f"expected GET {PATH}, got another path")
        if self._parser.get_method() == b"OPTIONS":
            raise Refusal(
                HTTPStatus.NO_CONTENT, "",
                ("Access-Control-Allow-Methods: GET", "Access-Control-Allow-Headers: Last-Event-ID, Cache-Control",
                 "Access-Control-Max-Age: 86400"),
            )  # fmt: skip
        if self._parser.get_method() != b"GET":
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"expected GET {PATH}", ("Allow: GET, OPTIONS",))
        header = self._headers.get(b"last-event-id")
        if header is not None:
            return header.decode("latin-1")
        given = parse_qs(query.decode("latin-1")).get("last_event_id")
        return given[0] if given else None

    # What httptools calls.
    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Nothing more is read: no request that is served has a body."""
        self.complete = True


def stream_head(cors: Headers) -> bytes:
    """What comes before the events. They end with the connection, which saves the framing of each."""
    return _head(
        HTTPStatus.OK, "Content-Type: text/event-stream; charset=utf-8", "Cache-Control: no-store, no-transform",
        "X-Accel-Buffering: no", *_lines(cors),
    )  # fmt: skip


def refusal(refused: Refusal, cors: Headers) -> bytes:
    """The whole answer to what gets no stream."""
    if refused.status == HTTPStatus.NO_CONTENT:
        return _head(refused.status, *refused.headers, *_lines(cors))
    body = encode({"error": refused.error})
    length = f"Content-Length: {len(body)}"
    return _head(refused.status, "Content-Type: application/json", length, *refused.headers, *_lines(cors)) + body


def full(max_streams: int) -> Refusal:
    """All streams are taken."""
    return Refusal(
        HTTPStatus.SERVICE_UNAVAILABLE, f"no stream is free: all {max_streams} are taken; try another subscriber",
        (f"Retry-After: {FULL_RETRY_SECONDS}",),
    )  # fmt: skip


def _lines(headers: Headers) -> list[str]:
    return [f"{name.title()}: {value}" for name, value in headers]


def _head(status: HTTPStatus, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status.value} {status.phrase}", *headers, "Connection: close", "", "")
    return "\r\n".join(lines).encode("latin-1")
