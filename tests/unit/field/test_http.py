"""HTTP as clients, proxies and attackers speak it (RFC 9110, 9112), on every port of ours."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias, TypeVar

import pytest

from testkit.settings import settings_with
from tests.unit.field.ports import Port, Reply, every_port, talk

HOST = "Host: localhost"
OWN_NAME = socket.gethostname()
PORTS = ["app", "subscriber", "publisher", "stream"]  # which answer to GET; the client takes pushes only


@pytest.fixture(scope="module")
def ports() -> dict[str, Port]:
    return every_port(settings_with())


def wire(method: str, target: str, *headers: str, version: str = "HTTP/1.1", body: bytes = b"") -> bytes:
    return "\r\n".join([f"{method} {target} {version}", *headers, "", ""]).encode("latin-1") + body


def get(target: str, *headers: str, version: str = "HTTP/1.1") -> bytes:
    return wire("GET", target, *(headers or (HOST,)), version=version)


def head(target: str, *more: str) -> bytes:
    return get(target, HOST, *more)


Statuses: TypeAlias = "int | tuple[int, ...]"
T = TypeVar("T")


def each(
    values: Iterable[str], make: Callable[[T, str], bytes], statuses: Statuses, name: str
) -> dict[str, tuple[Callable[[T], bytes], Statuses]]:
    """One case for each value that `make` can write into a request."""
    return {name.format(value): (partial(_swapped, make, value), statuses) for value in values}


def _swapped(make: Callable[[T, str], bytes], value: str, at: T) -> bytes:
    return make(at, value)


# name → the request for a target that answers GET, and the statuses that are right; 200: it is served
HEADS: dict[str, tuple[Callable[[str], bytes], Statuses]] = {
    # Host (RFC 9110 7.2, RFC 9112 3.2)
    **each(
        (
            "localhost", "LocalHost", "localhost.", "localhost:5000", "a.localhost:80", "127.0.0.1", "127.0.0.1:5000",
            "[::1]", "[::1]:5000", "192.0.2.7:80", "[2001:db8::1]", OWN_NAME, f"{OWN_NAME}:80", f"{OWN_NAME}.local",
        ),
        lambda t, value: get(t, f"Host: {value}"), 200, "Host: {}",
    ),
    **each(
        (
            "evil.example", "evil.example:5000", "localhost.evil.example", "127.0.0.1.evil.example", "evil-localhost",
            "2130706433", "0x7f000001", "localhost..", "%6cocalhost", "xn--lcalhost-q2a",
        ),
        lambda t, value: get(t, f"Host: {value}"), 421, "Host: {}",
    ),
    **each(
        (
            "", "a, b", "localhost, localhost", "localhost evil", "[::1", "::1", "http://localhost", "localhost/",
            "localhost:port", "user@localhost", "local\xe9", "localhost:80:80", "localhost:65536",
            f"localhost:{'9' * 5_000}", "[:::1]", "[1.2.3.4]", "[::1::2]", "[fe80::1", "[12345::]",
        ),
        lambda t, value: get(t, f"Host: {value}"), 400, "Host: {!r}",
    ),
    "no Host": (lambda t: get(t, "Accept: */*"), 400),
    "two Hosts": (lambda t: get(t, HOST, "Host: evil.example"), 400),
    "two equal Hosts": (lambda t: get(t, HOST, HOST), 400),
    "1.0 without Host": (lambda t: get(t, "Accept: */*", version="HTTP/1.0"), 200),
    "1.0 with a strange Host": (lambda t: get(t, "Host: evil.example", version="HTTP/1.0"), 421),
    # targets (RFC 9112 3.2)
    "query that is no UTF-8": (lambda t: head(f"{t}?last_event_id=%00%ff&recent=60&%zz&=&"), 200),
    "query": (lambda t: head(f"{t}?a=b&c"), 200),
    "absolute": (lambda t: head(f"http://localhost:5000{t}"), 200),
    "absolute in capitals": (lambda t: head(f"HTTP://LOCALHOST{t}"), 200),
    "absolute over a strange Host": (lambda t: get(f"http://127.0.0.1{t}", "Host: evil.example"), 200),
    "absolute with a strange name": (lambda t: head(f"http://evil.example{t}"), 421),
    "absolute without Host": (lambda t: get(f"http://localhost{t}", "Accept: */*"), 400),
    "absolute with two Hosts": (lambda t: get(f"http://localhost{t}", HOST, HOST), 400),
    "absolute with a user": (lambda t: head(f"http://u:p@localhost{t}"), 400),
    "absolute without a host": (lambda t: head(f"http://{t}"), 400),
    "absolute by another scheme": (lambda t: head(f"ftp://localhost{t}"), 400),
    "absolute with a bad address": (lambda t: head(f"http://[::1{t}"), 400),
    "authority": (lambda t: head("localhost:80"), 400),
    "asterisk": (lambda t: head("*"), 400),
    "OPTIONS * of a strange Host": (lambda t: wire("OPTIONS", "*", "Host: evil.example"), 421),
    "OPTIONS * without Host": (lambda t: wire("OPTIONS", "*"), 400),
    "OPTIONS *": (lambda t: wire("OPTIONS", "*", HOST), 204),
    "fragment": (lambda t: head(f"{t}#a"), 400),
    "relative": (lambda t: head(t[1:]), 400),
    "empty": (lambda t: head(""), 400),
    "space inside": (lambda t: head(f"{t} b"), 400),
    "raw UTF-8": (lambda t: get(f"{t}/é?q=é"), 400),
    "NUL inside": (lambda t: head(f"{t}\0"), 400),
    "slash behind": (lambda t: head(f"{t}/"), 404),
    "two slashes": (lambda t: head(f"/{t}"), (200, 404)),
    "slash encoded": (lambda t: head(f"/%2F{t[1:]}"), (200, 404)),
    "up": (lambda t: head(f"/x/..{t}"), 404),
    "bad encoding": (lambda t: head(f"{t}%zz"), 404),
    "NUL encoded": (lambda t: head(f"{t}%00"), 404),
    "long": (lambda t: head(f"{t}/{'a' * 9_000}"), 404),
    "too long": (lambda t: head(f"{t}/{'a' * 70_000}"), 414),
    # the lines of the head (RFC 9112 2.2, 5)
    "folded header": (lambda t: head(t, "X: a\r\n b"), 400),
    "folded first header": (lambda t: get(t, " X: a", HOST), 400),
    "blank before the colon": (lambda t: head(t, "X : a"), 400),
    "CR alone in a header": (lambda t: head(t, "X: a\rb"), 400),
    "LF alone in a header": (lambda t: head(t, "X: a\nY: b"), 400),
    "LF alone everywhere": (lambda t: head(t).replace(b"\r\n", b"\n"), 400),
    "NUL in a header": (lambda t: head(t, "X: a\0b"), 400),
    "DEL in a header": (lambda t: head(t, "X: \x7f"), 400),
    "no colon": (lambda t: head(t, "X"), 400),
    "no name": (lambda t: head(t, ": a"), 400),
    "bad name": (lambda t: head(t, "A@B: c"), 400),
    "empty value": (lambda t: head(t, "X:"), 200),
    "blanks around a value": (lambda t: head(t, "X: \t a \t"), 200),
    "obs-text": (lambda t: head(t, "X: \xe9\xff"), 200),
    "empty lines before": (lambda t: b"\r\n\r\n" + head(t), 200),
    "many headers": (lambda t: head(t, *(f"X-{n}: a" for n in range(101))), 431),
    "long header": (lambda t: head(t, f"X: {'a' * 70_000}"), 431),
    # versions and methods (RFC 9112 2.3, 3)
    **each(
        (
            "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/3", "http/1.1", "HTTP/1", "HTTP/1.10", "HTTPS/1.1", "",
        ),
        lambda t, version: wire("GET", t, HOST, version=version), 400, "version {!r}",
    ),
    **each(
        (
            "get", "Get", "BREW", "GETX", "PUT", "DELETE", "TRACE", "PATCH", "PROPFIND", "CONNECT", "M-SEARCH",
        ),
        lambda t, method: wire(method, t, HOST), 405, "method {}",
    ),
    "HEAD": (lambda t: wire("HEAD", t, HOST), 200),
    # other protocols
    "TLS": (lambda t: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 60, 400),
    "HTTP/2": (lambda t: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 20, 400),
    "PROXY 1": (lambda t: b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + head(t), 400),
    "PROXY 2": (lambda t: b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + b"x" * 12 + head(t), 400),
    "SOCKS": (lambda t: b"\x05\x01\x00" + b"\r\n\r\n", 400),
    "SSH": (lambda t: b"SSH-2.0-OpenSSH_9.2\r\n", 400),
    "RTSP": (lambda t: wire("DESCRIBE", t, HOST, version="RTSP/1.0"), (400, 405)),
    # framing (RFC 9112 6)
    **each(
        (
            "Content-Length: -1", "Content-Length: +1", "Content-Length: 0x1", "Content-Length:", "Content-Length: 1 1",
            "Content-Length: 1, 1", "Content-Length: ten", "Content-Length: 99999999999999999999999999",
            "Transfer-Encoding: gzip", "Transfer-Encoding: identity", "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, gzip", "Transfer-Encoding: xchunked", "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: \x0bchunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Content-Length: 1\r\nContent-Length: 1", "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 1",
        ),
        lambda t, header: head(t, header), 400, "{}",
    ),
    "chunks by 1.0": (lambda t: get(t, HOST, "Transfer-Encoding: chunked", version="HTTP/1.0") + b"0\r\n\r\n", 400),
    "Content-Length: 0": (lambda t: head(t, "Content-Length: 0"), 200),
    "Content-Encoding: gzip": (lambda t: head(t, "Content-Encoding: gzip"), 415),
    "Content-Encoding: identity": (lambda t: head(t, "Content-Encoding: identity"), 200),
    # what clients and proxies add
    **each(
        (
            "Expect: 100-continue", "Expect: a miracle", "Connection: keep-alive", "Connection: close", "TE: trailers",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
            "Connection: Upgrade\r\nUpgrade: websocket", "Accept-Encoding: gzip, br", "Accept: text/plain;q=0",
            "Range: bytes=0-", "If-Modified-Since: Sat, 1 Jan 2000 00:00:00 GMT",
            "Via: 1.1 proxy\r\nX-Forwarded-For: 10.1.1.1",
            "Cookie: a=b\r\nCookie: c=d", "Authorization: Basic YTpi", "X_Forwarded_For: 1", "Max-Forwards: 0",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Sec-Fetch-Site: cross-site",
            "Origin: null", "Pragma: no-cache", "Proxy-Connection: keep-alive", "Keep-Alive: timeout=5",
        ),
        lambda t, header: head(t, header), 200, "{}",
    ),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("process", PORTS)
def test_every_head_is_served_or_refused_in_one_sentence(ports: dict[str, Port], process: str, name: str) -> None:
    port = ports[process]
    make, expected = HEADS[name]
    data = make(port.get)
    [reply] = talk(port.number, data, head_only=data.startswith(b"HEAD"))
    assert reply is not None, "no answer"
    assert reply.status in (expected if isinstance(expected, tuple) else (expected,)), reply.body
    if process != "stream" or reply.status != 200:
        assert reply.header("date")
    if reply.status >= 400:
        assert_says_why(reply)


def assert_says_why(reply: Reply) -> None:
    assert reply.header("content-type") == "application/json"
    assert "expected" in json.loads(reply.body)["error"]
    assert (reply.status == 405) == (reply.header("allow") is not None)


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        ("HTTP/1.1", "", True), ("HTTP/1.1", "close", False), ("HTTP/1.1", "Keep-Alive", True),
        ("HTTP/1.1", "keep-alive, Close", False), ("HTTP/1.0", "", False), ("HTTP/1.0", "Keep-Alive", True),
        ("HTTP/1.0", "keep-alive", True), ("HTTP/1.0", "close", False), ("HTTP/1.0", "keep-alive, close", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("process", [process for process in PORTS if process != "stream"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_connection_stays_open_only_if_both_sides_know_it(
    ports: dict[str, Port], process: str, method: str, version: str, connection: str, stays: bool
) -> None:
    headers = [HOST, *([f"Connection: {connection}"] if connection else [])]
    data = wire(method, ports[process].get, *headers, version=version)
    first, second = talk(ports[process].number, data, data, head_only=method == "HEAD")
    assert first is not None
    said = (first.header("connection") or "").lower()
    assert (second is not None) == stays
    assert said == ("close" if not stays else "keep-alive" if version == "HTTP/1.0" else "")


WITH_BODY = ["app", "subscriber", "client"]
JSON = "Content-Type: application/json"
BOM = b"\xef\xbb\xbf"


def post(port: Port, body: bytes, *headers: str, version: str = "HTTP/1.1") -> bytes:
    return wire("POST", port.post, HOST, f"Content-Length: {len(body)}", *headers, version=version, body=body)


def chunked(port: Port, body: bytes, extension: str = "", trailer: str = "") -> bytes:
    sent = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension.encode(), part) for part in (body[:5], body[5:]))
    end = b"0\r\n" + trailer.encode() + b"\r\n"
    return wire("POST", port.post, HOST, JSON, "Transfer-Encoding: Chunked") + sent + end


BODIES: dict[str, tuple[Callable[[Port], bytes], Statuses]] = {
    **each(
        (
            "application/json", "application/json; charset=utf-8", "application/json;charset=UTF-8",
            'application/json; charset="utf-8"', "Application/JSON", "application/json ; a=b", "application/json;",
        ),
        lambda p, content_type: post(p, p.body, f"Content-Type: {content_type}"), 200, "{}",
    ),
    "BOM": (lambda p: post(p, BOM + p.body, JSON), 200),
    "BOM in chunks": (lambda p: chunked(p, BOM + p.body), 200),
    "two BOMs": (lambda p: post(p, BOM + BOM + p.body, JSON), 400),
    "blanks around": (lambda p: post(p, b"\r\n\t " + p.body + b"\r\n", JSON), 200),
    "chunks": (lambda p: chunked(p, p.body), 200),
    "chunk extension": (lambda p: chunked(p, p.body, ';a="b"'), 200),
    "trailer": (lambda p: chunked(p, p.body, trailer="Host: evil.example\r\nX: a\r\n"), 200),
    "chunk size with a sign": (lambda p: chunked(p, p.body).replace(b"\r\n5\r\n", b"\r\n+5\r\n"), 400),
    "chunk size with a blank": (lambda p: chunked(p, p.body).replace(b"\r\n5\r\n", b"\r\n5 \r\n"), 400),
    "chunk size with 0x": (lambda p: chunked(p, p.body).replace(b"\r\n5\r\n", b"\r\n0x5\r\n"), 400),
    "chunk ended by LF": (lambda p: chunked(p, p.body).replace(b"\r\n5\r\n", b"\r\n5\n"), 400),
    "chunk longer than it says": (lambda p: chunked(p, p.body).replace(b"\r\n5\r\n", b"\r\n4\r\n"), 400),
    "Expect: 100-continue": (lambda p: post(p, p.body, JSON, "Expect: 100-continue"), 200),
    "Expect: a miracle": (lambda p: post(p, p.body, JSON, "Expect: a miracle"), 200),
    "1.0": (lambda p: post(p, p.body, JSON, version="HTTP/1.0"), 200),
    "gzip": (lambda p: post(p, gzip.compress(p.body), JSON, "Content-Encoding: gzip"), 415),
    "br": (lambda p: post(p, b"\x0b", JSON, "Content-Encoding: br"), 415),
    "identity": (lambda p: post(p, p.body, JSON, "Content-Encoding: identity"), 200),
    "empty": (lambda p: post(p, b"", JSON), 400),
    "UTF-16": (lambda p: post(p, p.body.decode().encode("utf-16"), JSON), 400),
    "no UTF-8": (lambda p: post(p, b'{"user_id": "\xff"}', JSON), 400),
    "too large": (lambda p: post(p, b" " * 600_000 + p.body, JSON), 413),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("process", WITH_BODY)
def test_every_body_is_taken_or_refused_in_one_sentence(ports: dict[str, Port], process: str, name: str) -> None:
    port = ports[process]
    make, expected = BODIES[name]
    [reply] = talk(port.number, make(port))
    assert reply is not None, "no answer"
    assert (200 if reply.status == 204 else reply.status) == expected, reply.body
    if reply.status >= 400:
        assert_says_why(reply)


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "application/x-ndjson; charset=utf-8"])
@pytest.mark.parametrize("start", [b"", BOM])
def test_a_batch_may_be_an_array_or_lines_with_or_without_a_bom(
    ports: dict[str, Port], start: bytes, content_type: str
) -> None:
    app = ports["app"]
    batch = Port(app.number, "", "/send-emojis")
    lines = post(batch, start + app.body + b"\n" + app.body, f"Content-Type: {content_type}")
    array = post(batch, start + b"[" + app.body + b"," + app.body + b"]", JSON)
    for data in (lines, array):
        [reply] = talk(app.number, data)
        assert reply is not None
        assert json.loads(reply.body)["accepted"] == 2


def test_an_answer_that_names_another_protocol_names_this_one_too(ports: dict[str, Port]) -> None:
    for data, named in ((b"\x16\x03\x01\x00\x05hello", "http://"), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1")):
        [reply] = talk(ports["app"].number, data)
        assert reply is not None
        assert named in json.loads(reply.body)["error"]
