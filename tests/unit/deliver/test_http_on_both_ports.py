"""HTTP as ordinary clients and proxies speak it (RFC 9110, RFC 9112), on a subscriber's port and on its stream port."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any, NamedTuple

import pytest

from emostream.deliver.routes import create_app
from emostream.http.access import AllowedHosts
from emostream.http.cors import Cors
from emostream.http.wsgi import serve_wsgi
from emostream.process import Log, bound_socket
from testkit.settings import settings_with
from tests.unit.deliver.stream.test_server import serving
from tests.unit.deliver.test_routes import URL, FakeClients

BODY = json.dumps({"client_url": URL}).encode()


class Port(NamedTuple):
    number: int
    path: str  # which a GET of answers 200


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, Port]]:
    fake: Any = FakeClients(10_000)
    settings = settings_with(ALLOWED_HOSTS="x")
    listener = bound_socket("127.0.0.1", 0, setting="test")
    with serving(max_streams=1000, records=1, check_host=AllowedHosts(settings).check) as streams:
        app = create_app(fake, fake.status, lambda: None, fake, streams.port, Cors("*"))
        thread: threading.Thread = serve_wsgi(app, listener, Log("test"), settings)
        assert thread.is_alive()
        yield {
            "subscriber": Port(listener.getsockname()[1], "/status"),
            "stream": Port(streams.port, "/stream"),
        }  # fmt: skip


@pytest.fixture(params=["subscriber", "stream"])
def port(request: pytest.FixtureRequest, ports: dict[str, Port]) -> Port:
    return ports[request.param]


@pytest.fixture
def subscriber(ports: dict[str, Port]) -> Port:
    return ports["subscriber"]


@contextmanager
def sent(port: Port, data: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port.number), timeout=10) as connection:
        connection.sendall(data.replace(b"{path}", port.path.encode()))
        yield connection


def head_of(connection: socket.socket, method: str = "GET") -> HTTPResponse:
    response = HTTPResponse(connection, method=method)
    response.begin()
    return response


def ask(port: Port, data: bytes, method: str = "GET") -> tuple[int, dict[str, str]]:
    """The status and the headers that these bytes are answered with."""
    with sent(port, data) as connection:
        response = head_of(connection, method)
        return response.status, {name.lower(): value for name, value in response.getheaders()}


GOOD = {
    "plain": b"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/1.0": b"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n",
    "HTTP/1.0 without Host": b"GET {path} HTTP/1.0\r\n\r\n",
    "HTTP/1.0, kept alive": b"GET {path} HTTP/1.0\r\nHost: x\r\nConnection: Keep-Alive\r\n\r\n",
    "a Host with a port": b"GET {path} HTTP/1.1\r\nHOST: localhost:7001\r\n\r\n",
    "an IPv6 Host": b"GET {path} HTTP/1.1\r\nhost: [::1]:7001\r\n\r\n",
    "absolute form": b"GET http://x:1{path} HTTP/1.1\r\nHost: x:1\r\n\r\n",
    "absolute form in capitals": b"GET HTTP://X{path} HTTP/1.1\r\nHost: X\r\n\r\n",
    "a query": b"GET {path}?a=b&c HTTP/1.1\r\nHost: x\r\n\r\n",
    "an empty query": b"GET {path}? HTTP/1.1\r\nHost: x\r\n\r\n",
    "an escape in the path": b"GET {escaped} HTTP/1.1\r\nHost: x\r\n\r\n",
    "empty lines before it": b"\r\n\r\nGET {path} HTTP/1.1\r\nHost: x\r\n\r\n",
    "an empty line after it": b"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n\r\n",
    "a length of 0": b"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "a GET with a body": b"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    "a GET with chunks": b"GET {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "Range": b"GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\nIf-Range: \"x\"\r\n\r\n",
    "a Range that is none": b"GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes=9-1,x\r\n\r\n",
    "conditions": b"GET {path} HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\nIf-Modified-Since: x\r\n\r\n",
    "Accept of something else": b"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: application/xml;q=0.1\r\n\r\n",
    "Accept-Encoding": b"GET {path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip, br, zstd\r\n\r\n",
    "TE": b"GET {path} HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n",
    "an offer of h2c": b"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    "cookies and credentials": b"GET {path} HTTP/1.1\r\nHost: x\r\nCookie: \xff\r\nAuthorization: \xff\r\n\r\n",
    "a value in Latin-1": b"GET {path} HTTP/1.1\r\nHost: x\r\nX: \xe9\r\n\r\n",
    "a value in UTF-8": "GET {path} HTTP/1.1\r\nHost: x\r\nX: \U0001f525\r\n\r\n".encode(),
    "an empty value": b"GET {path} HTTP/1.1\r\nHost: x\r\nX:\r\n\r\n",
    "space around a value": b"GET {path} HTTP/1.1\r\nHost: x\r\nX:\t y \t\r\n\r\n",
    "a header twice": b"GET {path} HTTP/1.1\r\nHost: x\r\nX: a\r\nX: b\r\n\r\n",
    "ninety headers": b"GET {path} HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 90 + b"\r\n",
    "proxies": b"GET {path} HTTP/1.1\r\nHost: x\r\nVia: 1.1 a\r\nForwarded: for=_x\r\nX-Forwarded-For: \xff,,\r\n\r\n",
    "Expect": b"GET {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
    "OPTIONS": b"OPTIONS {path} HTTP/1.1\r\nHost: x\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("what", GOOD)
def test_a_good_request_is_answered(port: Port, what: str) -> None:
    escaped = b"/%73t" + port.path[3:].encode()
    with sent(port, GOOD[what].replace(b"{escaped}", escaped)) as connection:
        response = head_of(connection)
        assert 200 <= response.status < 300
        assert len(response.headers.get_all("Date", [])) == 1


def test_the_same_connection_serves_one_request_after_another(subscriber: Port) -> None:
    request = GOOD["plain"] + GOOD["a GET with a body"] + GOOD["a GET with chunks"]
    with sent(subscriber, request) as connection:
        for _ in range(3):
            response = head_of(connection)
            assert (response.status, json.loads(response.read())["available_slots"] > 0) == (200, True)
            connection.sendall(GOOD["plain"].replace(b"{path}", b"/status"))


BAD = {
    "no Host": (b"GET {path} HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET {path} HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    "two Hosts in HTTP/1.0": (b"GET {path} HTTP/1.0\r\nHost: x\r\nHost: localhost\r\n\r\n", 400),
    "a Host with a path": (b"GET {path} HTTP/1.1\r\nHost: x/y\r\n\r\n", 400),
    "a Host with a space": (b"GET {path} HTTP/1.1\r\nHost: x y\r\n\r\n", 400),
    "a Host with a user": (b"GET {path} HTTP/1.1\r\nHost: a@x\r\n\r\n", 400),
    "a Host that is not ours": (b"GET {path} HTTP/1.1\r\nHost: evil.example:7001\r\n\r\n", 421),
    "a target whose host is not ours": (b"GET http://evil.example{path} HTTP/1.1\r\nHost: x\r\n\r\n", 421),
    "a target with a fragment": (b"GET {path}#x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a transfer coding with HTTP/1.0": (b"POST {path} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "an unknown transfer coding": (b"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    "two lengths": (b"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n", 400),
    "the same length twice": (b"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", 400),
    "a list of lengths": (b"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 0\r\n\r\n", 400),
    "a length with a sign": (b"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n", 400),
    "a negative length": (b"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    "a length in hexadecimal": (b"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0x0\r\n\r\n", 400),
    "both framings": (
        b"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
    ),
    "a bad chunk": (b"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a space before the colon": (b"GET {path} HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n", 400),
    "a header without a colon": (b"GET {path} HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", 400),
    "a header without a name": (b"GET {path} HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n", 400),
    "a name with a control character": (b"GET {path} HTTP/1.1\r\nHost: x\r\nX\x01: y\r\n\r\n", 400),
    "a NUL in a value": (b"GET {path} HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n", 400),
    "a bare CR in a value": (b"GET {path} HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", 400),
    "HTTP/0.9": (b"GET {path}\r\n\r\n", 400),
    "no version": (b"GET {path} \r\nHost: x\r\n\r\n", 400),
    "HTTP in lower case": (b"GET {path} http/1.1\r\nHost: x\r\n\r\n", 400),
    "a method in lower case": (b"get {path} HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "no method": (b"{path} HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "PROXY protocol": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET {path} HTTP/1.1\r\n\r\n", 400),
    "a target with a space": (b"GET {path} x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "too many headers": (b"GET {path} HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
    "a long header": (b"GET {path} HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    "a long target": (b"GET {path}?" + b"y" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "another path": (b"GET /{path}x HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "a path with a NUL": (b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "a path that climbs": (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "PUT": (b"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
    "DELETE": (b"DELETE {path} HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "PATCH": (b"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 405),
    "TRACE": (b"TRACE {path} HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "POST": (b"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 405),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_refused_with_a_sentence(port: Port, what: str) -> None:
    data, status = BAD[what]
    with sent(port, data) as connection:
        response = head_of(connection)
        assert response.status == status
        assert len(response.headers.get_all("Date", [])) == 1
        assert list(json.loads(response.read())) == ["error"]
        if status == 405:
            assert "GET" in response.headers["Allow"]


def test_a_connection_of_http_1_0_stays_open_only_when_the_client_asks_for_it(subscriber: Port) -> None:
    again = GOOD["HTTP/1.0, kept alive"].replace(b"{path}", subscriber.path.encode())
    with sent(subscriber, b"") as connection:
        for _ in range(2):  # not both at once: one response would read the other's bytes, too
            connection.sendall(again)
            response = head_of(connection)
            assert (response.status, response.getheader("Connection", "").lower()) == (200, "keep-alive")
            response.read()
    with sent(subscriber, GOOD["HTTP/1.0"]) as connection:
        assert head_of(connection).getheader("Connection") == "close"


def test_options_for_the_server_itself_is_answered(port: Port) -> None:
    assert ask(port, b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 204


def test_head_is_answered_like_get_without_a_body(port: Port) -> None:
    with sent(port, b"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as connection:
        data = b""
        while part := connection.recv(65536):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.1 200 OK", b"")
    expected = ask(port, b"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")[1]["content-type"]
    found = re.search(rb"(?im)^content-type: (.*)\r$", head)
    assert found
    assert found[1].decode() == expected


def test_a_body_may_come_in_chunks(subscriber: Port) -> None:
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (1, BODY[at : at + 1]) for at in range(len(BODY)))
    head = b"POST /register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: Chunked\r\n\r\n"
    assert ask(subscriber, head + chunks + b"0\r\nTrailer: x\r\n\r\n")[0] == 200


def test_a_client_that_expects_100_continue_is_told_to_send(subscriber: Port) -> None:
    head = b"POST /register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(BODY)
    with sent(subscriber, head + b"Expect: 100-Continue\r\n\r\n") as connection:
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert head_of(connection).status == 200


def test_a_large_body_for_a_stream_is_refused_and_the_refusal_can_be_read(ports: dict[str, Port]) -> None:
    data = b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 200_000
    assert ask(ports["stream"], data)[0] == 413


def test_what_a_stream_sends_after_its_request_is_ignored(ports: dict[str, Port]) -> None:
    with sent(ports["stream"], GOOD["plain"]) as connection:
        assert head_of(connection).status == 200
        for _ in range(3):
            connection.sendall(b"\r\n")
            time.sleep(0.05)  # so that each comes by itself
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):  # it stays open
            read_to_end(connection)
        connection.settimeout(10)
        with pytest.raises(ConnectionError):
            send_for_ever(connection)


def read_to_end(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x" * 65536)
