"""A client's URL → one HTTP/1.1 connection, which stays open for one POST after another."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import cast
from urllib.parse import quote, unquote, urlsplit

import httptools
from requests.utils import unquote_unreserved
from urllib3.util import parse_url

CONNECT_SECONDS = 2.0
READ_SECONDS = 5.0  # for the whole response, so that no client can stretch one
SMALL_BODY_BYTES = 1024  # if a body is longer, we close the connection
MAX_HEADER_BYTES = 32 * 1024
STATUS_LINE_BYTES = 64
NO_CONTENT = HTTPStatus.NO_CONTENT.value  # a look-up in the class would cost as much as a call
_status_line = re.compile(rb"HTTP/1\.[0-9] ([2-9][0-9]{2})[ \r\n]")
_host_name = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_ipv6_netloc = re.compile(r"\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
_stray_percent = re.compile("%(?![0-9A-Fa-f]{2})")
_IN_A_PATH = "/%:@!$&'()*+,;=~?-._[]"


class PushError(Exception):
    """An attempt has failed. The text is the reason."""


class ConnectionLost(PushError):
    """A connection that was used before closed without a byte of the response. The request may not have arrived."""


@dataclass(frozen=True)
class Target:
    """Where a client is. All spellings of its URL that mean the same (RFC 3986 6.2) have the same `normal_url`."""

    host: str
    port: int
    tls: bool
    head: bytes  # the first lines of every request
    normal_url: str

    @classmethod
    def parse(cls, client_url: str) -> Target:
        """Parse `http://host:port/path` or `https://...`. Raises ValueError, which says what is wrong."""
        parts = urlsplit(client_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("expected http://host:port/ or https://host:port/")
        if parts.username is not None or parts.password is not None:
            raise ValueError("expected no user name or password in it")
        host = _host(parts.hostname, parts.netloc)
        path = quote(parts.path or "/", safe=_IN_A_PATH)
        query = f"?{quote(parts.query, safe=_IN_A_PATH)}" if parts.query else ""
        shown = f"[{host}]" if ":" in host else host
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        authority = shown if parts.port is None else f"{shown}:{port}"
        head = (
            f"POST {path}{query} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: EmoStream\r\n"
            "Content-Type: application/json\r\n"
        )
        written = _stray_percent.sub("%25", f"{parts.scheme}://{_normal_host(host)}:{port}{path}{query}")
        return cls(host, port, tls, head.encode("ascii"), parse_url(unquote_unreserved(written)).url)

    def request(self, headers: str, body: bytes) -> bytes:
        """Return the bytes of a POST. Each line of `headers` ends with a line break."""
        return b"%s%sContent-Length: %d\r\n\r\n%s" % (self.head, headers.encode("latin-1"), len(body), body)


@dataclass(slots=True)
class Response:
    """A client's answer. `status` is 0 until it has come."""

    status: int = 0
    retry_after_seconds: float | None = None
    body: bytearray = field(default_factory=bytearray)


class ClientConnection(asyncio.Protocol):
    """One connection. Send no more requests when `usable` is False."""

    def __init__(self) -> None:
        self.usable = True
        self.answered = 0
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Response] | None = None
        self._response = Response()
        self._parser = httptools.HttpResponseParser(self)
        self._received = 0
        self._announces_a_body = False
        self._beginning = b""  # of the response, with its status line

    async def post(self, request: bytes) -> Response:
        """Send a request and return the response. Raises PushError."""
        if self._transport is None or not self.usable:
            raise ConnectionLost("not connected any more")
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        self._response = Response()
        self._received = 0
        self._announces_a_body = False
        self._transport.write(request)
        timer = loop.call_later(READ_SECONDS, self._end, f"no answer within {READ_SECONDS:g} s")
        try:
            return await self._waiting
        finally:
            timer.cancel()
            self._waiting = None

    def close(self) -> None:
        """Close the connection. A request that waits for its response fails."""
        self._end("closed")

    # asyncio calls the next three methods.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have the system check that the other host is still there, even while we send nothing."""
        self._transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket")
        with suppress(OSError):  # the client has gone already
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
                raw.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        """Parse a part of a response."""
        if self._waiting is None or self._waiting.done():
            self._end("it answered before it was asked")
            return
        if self._received < STATUS_LINE_BYTES:
            self._beginning = (self._beginning if self._received else b"") + data[:STATUS_LINE_BYTES]
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._give_up(f"its answer is not HTTP ({error})")
        else:
            if not self._response.status and self._received > MAX_HEADER_BYTES:
                self._give_up(f"its answer has headers of over {MAX_HEADER_BYTES} bytes")

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that waits, unless its status has come."""
        reason = f"it closed the connection{f' ({error})' if error else ''}"
        self._end(reason, ConnectionLost if self.answered and not self._received else PushError)

    # httptools calls the next four methods.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read the two headers that matter."""
        name = name.lower()
        if name == b"retry-after":
            seconds = _seconds(value.decode("latin-1"))
            self._response.retry_after_seconds = self._response.retry_after_seconds if seconds is None else seconds
        elif name == b"content-length":
            self._announces_a_body = value.strip() != b"0"

    def on_headers_complete(self) -> None:
        """Take the status, unless it is a provisional one such as 100."""
        status = self._parser.get_status_code()
        if status >= 200:
            self._response.status = status
        if not self._parser.should_keep_alive():
            self.usable = False
        if status == NO_CONTENT and self._announces_a_body:
            self._end("")  # a 204 has no body, but the parser would wait for this one

    def on_body(self, body: bytes) -> None:
        """Keep the beginning of the body."""
        self._response.body += body[: SMALL_BODY_BYTES + 1 - len(self._response.body)]
        if len(self._response.body) > SMALL_BODY_BYTES:
            self._end("its answer has a long body")

    def on_message_complete(self) -> None:
        """Return the response to the caller of `post`."""
        if self._response.status and self._waiting and not self._waiting.done():
            self.answered += 1
            self._waiting.set_result(self._response)
            self._response = Response()
            if not self.usable:
                self._end("")

    def _give_up(self, reason: str) -> None:
        """Close, because the rest of the response cannot be parsed. Its status line still counts."""
        found = _status_line.match(self._beginning)
        if found and not self._response.status:
            self._response.status = int(found[1])
        self._end(reason)

    def _end(self, reason: str, error: type[PushError] = PushError) -> None:
        """Close. If the status has come, the response counts, even without its body."""
        self.usable = False
        if self._waiting and not self._waiting.done():
            if self._response.status:
                self._waiting.set_result(self._response)
            else:
                self._waiting.set_exception(error(reason))
        if self._transport:
            self._transport.abort()


async def connect(target: Target, addresses: Callable[[str, int], Awaitable[list[str]]]) -> ClientConnection:
    """Connect to the first address of a target that accepts, within CONNECT_SECONDS. Raises PushError."""
    loop = asyncio.get_running_loop()

    async def try_each() -> ClientConnection:
        found = await addresses(target.host, target.port)
        for last, address in enumerate(found, start=1 - len(found)):
            try:
                _, connection = await loop.create_connection(
                    ClientConnection, address, target.port, flags=socket.AI_NUMERICHOST,
                    ssl=_tls() if target.tls else None,
                    server_hostname=target.host if target.tls else None,
                )  # fmt: skip
            except OSError:
                if not last:
                    raise
            else:
                return connection
        raise OSError(f"{target.host} has no address")

    try:
        return await asyncio.wait_for(try_each(), CONNECT_SECONDS)
    except (asyncio.TimeoutError, OSError) as error:
        reason = f"not connected within {CONNECT_SECONDS:g} s" if isinstance(error, asyncio.TimeoutError) else error
        raise PushError(f"{type(error).__name__}: {reason}") from None


def _host(written: str, netloc: str) -> str:
    """Return the host of a URL as DNS knows it, or an IPv6 address. Raises ValueError."""
    if "[" in netloc:
        if not _ipv6_netloc.fullmatch(netloc):
            raise ValueError("expected an IPv6 address between the brackets")
        return str(ipaddress.IPv6Address(written))
    host = unquote(written, errors="strict").encode("idna").decode()
    if not _host_name.fullmatch(host):
        raise ValueError("expected a host name or an IP address in it")
    return host


def _normal_host(host: str) -> str:
    """Return one spelling for all forms of an IP address, and for a name with and without a dot at its end."""
    if ":" in host:
        address = ipaddress.IPv6Address(host)
        return str(address.ipv4_mapped or f"[{address}]")
    name = host.rstrip(".").lower()
    try:
        return socket.inet_ntoa(socket.inet_aton(name))
    except OSError:
        return name


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _seconds(retry_after: str) -> float | None:
    """Return a Retry-After, which is a number or a date, in seconds from now; None if it is neither."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
        return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, OverflowError):  # OverflowError: a year or a zone of twenty digits
        return None
