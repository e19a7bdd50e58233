"""A client's URL → one kept-alive HTTP/1.1 connection to it, for one POST after another."""

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

CONNECT_SECONDS = 2.0
# For the whole response, so that one that comes a byte a second ends, too.
READ_SECONDS = 5.0
# The connection ends rather than read a longer body.
SMALL_BODY_BYTES = 1024
MAX_HEADER_BYTES = 32 * 1024
STATUS_LINE_BYTES = 64
NO_CONTENT = HTTPStatus.NO_CONTENT.value  # a look-up in the class would cost as much as a call
_status_line = re.compile(rb"HTTP/1\.[0-9] ([2-9][0-9]{2})[ \r\n]")
_host_name = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_ipv6_netloc = re.compile(r"\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
_unreserved = re.compile("[A-Za-z0-9._~-]")
_IN_A_PATH = "/%:@!$&'()*+,;=~?-._[]"


class PushError(Exception):
    """An attempt has failed. The text is the reason."""


class ConnectionLost(PushError):
    """A connection that has served before ended without a byte of a response, perhaps before the request arrived."""


@dataclass(frozen=True)
class Target:
    """Where a client is. All spellings of its URL that mean the same (RFC 3986, section 6.2) have one `normal_url`."""

    host: str
    port: int
    tls: bool
    head: bytes  # the first lines of every request
    normal_url: str

    @classmethod
    def parse(cls, client_url: str) -> Target:
        """Take `http://host:port/path` or `https://...` apart. Raises ValueError, which says what is wrong."""
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
        normal_path = _without_dot_segments(_normal_escapes(path))
        normal_url = f"{parts.scheme}://{_normal_host(host)}:{port}{normal_path}{_normal_escapes(query)}"
        return cls(host, port, tls, head.encode("ascii"), normal_url)

    def request(self, headers: str, body: bytes) -> bytes:
        """The bytes of a POST. Each of the `headers` ends with a line break."""
        return b"%s%sContent-Length: %d\r\n\r\n%s" % (self.head, headers.encode("latin-1"), len(body), body)


@dataclass(slots=True)
class Response:
    """What a client answered."""

    status: int = 0
    retry_after_seconds: float | None = None
    body: bytearray = field(default_factory=bytearray)


class ClientConnection(asyncio.Protocol):
    """One connection. Once `usable` is False, it takes no more requests."""

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
        """End the connection. A request that is under way fails."""
        self._end("closed")

    # What asyncio calls.
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket")
        with suppress(OSError):  # the client has gone already
            # So that the system notices that the other host is gone even while we send nothing.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
                raw.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        """Take a part of a response."""
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
        """The client has closed the connection, or is gone."""
        reason = f"it closed the connection{f' ({error})' if error else ''}"
        self._end(reason, ConnectionLost if self.answered and not self._received else PushError)

    # What httptools calls.
    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        name = name.lower()
        if name == b"retry-after":
            seconds = _seconds(value.decode("latin-1"))
            self._response.retry_after_seconds = self._response.retry_after_seconds if seconds is None else seconds
        elif name == b"content-length":
            self._announces_a_body = value.strip() != b"0"

    def on_headers_complete(self) -> None:
        """The status is known. A provisional one, such as 100, is not the response."""
        status = self._parser.get_status_code()
        if status >= 200:
            self._response.status = status
        if not self._parser.should_keep_alive():
            self.usable = False
        if status == NO_CONTENT and self._announces_a_body:
            self._end("")  # no body follows, but the parser would wait for one

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._response.body += body[: SMALL_BODY_BYTES + 1 - len(self._response.body)]
        if len(self._response.body) > SMALL_BODY_BYTES:
            self._end("its answer has a long body")

    def on_message_complete(self) -> None:
        """The response is complete."""
        if self._response.status and self._waiting and not self._waiting.done():
            self.answered += 1
            self._waiting.set_result(self._response)
            self._response = Response()
            if not self.usable:
                self._end("")

    def _give_up(self, reason: str) -> None:
        """Close, because the rest of a response cannot be read. What its status line says still counts."""
        found = _status_line.match(self._beginning)
        if found and not self._response.status:
            self._response.status = int(found[1])
        self._end(reason)

    def _end(self, reason: str, error: type[PushError] = PushError) -> None:
        """Close. A response whose status has come counts, even if its body is missing."""
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
    """The host of a URL as DNS has it, or an IPv6 address. Raises ValueError."""
    if "[" in netloc:
        if not _ipv6_netloc.fullmatch(netloc):
            raise ValueError("expected an IPv6 address between the brackets")
        return str(ipaddress.IPv6Address(written))
    host = unquote(written, errors="strict").encode("idna").decode()
    if not _host_name.fullmatch(host):
        raise ValueError("expected a host name or an IP address in it")
    return host


def _normal_host(host: str) -> str:
    """One spelling for all forms of an IP address, and for a name with a dot at its end or without."""
    if ":" in host:
        address = ipaddress.IPv6Address(host)
        return str(address.ipv4_mapped or f"[{address}]")
    name = host.rstrip(".").lower()
    try:
        return socket.inet_ntoa(socket.inet_aton(name))
    except OSError:
        return name


def _normal_escapes(text: str) -> str:
    """Percent escapes in upper case, and none for a character that needs none."""

    def normal(escape: re.Match[str]) -> str:
        character = chr(int(escape[1], 16))
        return character if _unreserved.fullmatch(character) else escape[0].upper()

    return re.sub("%([0-9A-Fa-f]{2})", normal, text)


def _without_dot_segments(path: str) -> str:
    """What RFC 3986, section 5.2.4, leaves of an absolute path."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _seconds(retry_after: str) -> float | None:
    """A Retry-After in seconds from now, whichever of its two forms it has; None if it has neither."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
        return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, OverflowError):  # the latter for a year, or a zone, of twenty digits
        return None
