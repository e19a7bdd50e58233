"""The client's port: what ordinary clients and proxies send there, as RFC 9110 and RFC 9112 have it."""

from __future__ import annotations

import codecs
import io
import json
import socket
from contextlib import ExitStack

import pytest

from emostream.http.wsgi import serve_wsgi
from emostream.process import Log, StopFlag, bound_socket
from emostream.receive.membership import Membership
from emostream.receive.routes import create_app
from emostream.receive.screen import Screen
from testkit.settings import settings_with

COUNT = '{"emoji": "😊", "count": 3}'.encode()
BOM_COUNT = codecs.BOM_UTF8 + COUNT


class Port:
    """A client that listens, and what it has printed."""

    def __init__(self) -> None:
        self.out = io.StringIO()
        listener = bound_socket("127.0.0.1", 0, "test")
        self.address = listener.getsockname()
        membership = Membership(settings_with(), "http://127.0.0.1:9", StopFlag())
        app = create_app(Screen(self.out, StopFlag()), membership)
        serve_wsgi(app, listener, Log("test"), settings_with(ALLOWED_HOSTS="x"))

    def connect(self) -> socket.socket:
        connection = socket.create_connection(self.address)
        connection.settimeout(10)
        return connection

    def answer(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """The first final answer to these bytes, and how the connection goes on: "" in the headers is its end."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_answer(connection, head_only=request.startswith(b"HEAD"))


def read_answer(connection: socket.socket, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
    with connection.makefile("rb") as stream:
        while True:
            status = int(stream.readline().split()[1])
            headers = {}
            while line := stream.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                assert name.lower() not in headers, f"two {name} headers"
                headers[name.lower()] = value.strip()
            if status >= 200:
                break
        body = b"" if head_only else stream.read(int(headers.get("content-length", 0)))
    return status, headers, body


@pytest.fixture(scope="module")
def shared() -> Port:
    return Port()


@pytest.fixture
def port(shared: Port) -> Port:
    shared.out.seek(0)
    shared.out.truncate()
    return shared


def post(body: bytes = COUNT, *headers: str, version: str = "1.1", target: str = "/", host: str = "Host: x") -> bytes:
    lines = [
        f"POST {target} HTTP/{version}",
        *([host] if host else []),
        f"Content-Length: {len(body)}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(*chunks: bytes) -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


GOOD = {
    "plain": post(),
    "no type": post(COUNT, "Content-Type:"),
    "charset": post(COUNT, "Content-Type: application/json; charset=utf-8"),
    "charset in capitals": post(COUNT, "content-type: Application/JSON;Charset=UTF-8"),
    "another type": post(COUNT, "Content-Type: application/vnd.api+json"),
    "BOM": post(BOM_COUNT),
    "BOM and charset": post(BOM_COUNT, "Content-Type: application/json; charset=utf-8"),
    "blanks around": post(b" \r\n\t" + COUNT + b"\r\n"),
    "chunks": chunked(COUNT[:7], COUNT[7:]),
    "chunk extension": chunked(COUNT).replace(b"\r\n{", b";name=value\r\n{", 1),
    "1.0": post(version="1.0"),
    "1.0 without Host": post(version="1.0", host=""),
    "absolute target": post(target="http://127.0.0.1:8001/"),
    "query": post(target="/?trace=1"),
    "tracing": post(COUNT, "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage: a=1"),
    "proxy": post(COUNT, "Via: 1.1 proxy", "X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1"),
    "expectation": post(COUNT, "Expect: 100-continue"),
    "blanks in a header": post(COUNT, "Accept:   */*  "),
    "upgrade offered": post(
        COUNT, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"
    ),
    "te": post(COUNT, "TE: trailers"),
    "empty line before": b"\r\n" + post(),
}


@pytest.mark.parametrize("request_bytes", GOOD.values(), ids=GOOD)
def test_a_count_is_taken_however_it_is_sent(port: Port, request_bytes: bytes) -> None:
    status, headers, body = port.answer(request_bytes)
    assert (status, body, port.out.getvalue()) == (204, b"", "😊😊😊")
    assert "content-length" not in headers
    assert "date" in headers


BAD = {
    "no Host": (post(host=""), 400),
    "two Hosts": (post(COUNT, "Host: y"), 400),
    "two lengths": (post(COUNT, "Content-Length: 1"), 400),
    "length and chunks": (post(COUNT, "Transfer-Encoding: chunked"), 400),
    "negative length": (post().replace(b"Content-Length: ", b"Content-Length: -"), 400),
    "length with a sign": (post().replace(b"Content-Length: ", b"Content-Length: +"), 400),
    "unknown coding": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", (400, 501)),
    "bad chunk size": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "blank before the colon": (post(COUNT, "Accept : */*"), 400),
    "folded header": (post(COUNT, "X-A: 1\r\n 2"), 400),
    "no version": (b"POST /\r\n\r\n", 400),
    "version 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a web page": (post(COUNT, "Content-Type: text/plain", "Origin: http://evil.example"), 403),
    "another path": (post(target="/nothing"), 404),
    "GET": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "HEAD": (b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "PUT": (post().replace(b"POST", b"PUT", 1), 405),
    "unknown method": (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", (400, 405, 501)),
    "no JSON": (post(b"hello"), 400),
    "empty": (post(b""), 400),
    "UTF-16": (post(COUNT.decode().encode("utf-16")), 400),
    "two BOMs": (post(codecs.BOM_UTF8 + BOM_COUNT), 400),
    "invalid UTF-8": (post(b'{"emoji": "\xff", "count": 1}'), 400),
    "too large": (post(b" " * 70_000 + COUNT), 413),
    "too large in chunks": (chunked(*[b" " * 7_000] * 10, COUNT), 413),
    "long head": (post(COUNT, *[f"X-{n}: {'x' * 500}" for n in range(120)]), 431),
}


@pytest.mark.parametrize(("request_bytes", "expected"), BAD.values(), ids=BAD)
def test_anything_else_is_refused_with_one_sentence(
    port: Port, request_bytes: bytes, expected: int | tuple[int, ...]
) -> None:
    status, headers, body = port.answer(request_bytes)
    assert status in (expected if isinstance(expected, tuple) else (expected,))
    assert headers["content-type"] == "application/json"
    if not request_bytes.startswith(b"HEAD"):
        assert "expected" in json.loads(body)["error"]
    if status == 405:
        assert "POST" in headers["allow"]
    assert port.out.getvalue() == ""
    assert port.answer(post())[0] == 204


def test_options_names_the_methods(port: Port) -> None:
    status, headers, _ = port.answer(b"OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status in (200, 204)
    assert "POST" in headers["allow"]


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close", False),
        ("1.1", "Connection: Keep-Alive, close", False),
        ("1.0", "", False),
        ("1.0", "Connection: Keep-Alive", True),
        ("1.0", "Connection: keep-alive", True),
    ],
)
def test_a_connection_stays_open_only_when_both_know_it(port: Port, version: str, connection: str, stays: bool) -> None:
    request = post(COUNT, *([connection] if connection else []), version=version)
    with port.connect() as open_connection:
        open_connection.sendall(request)
        status, headers, _ = read_answer(open_connection)
        assert status == 204
        says = headers.get("connection", "keep-alive" if version == "1.1" else "close").lower()
        if says == "close":
            assert open_connection.recv(1) == b""
        else:
            assert stays
            open_connection.sendall(request)
            assert read_answer(open_connection)[0] == 204


def test_idle_connections_keep_nobody_out() -> None:
    port = Port()
    with ExitStack() as stack:
        for _ in range(110):
            stack.enter_context(port.connect())
        assert port.answer(post())[0] == 204
