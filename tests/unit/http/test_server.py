"""emostream.http.server over real sockets: clients that speak HTTP/1.1 well, badly or not at all."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emostream.http import connection as connection_module
from emostream.http.connection import MAX_WAITING, MISSING_SECONDS, ServerConnection
from emostream.http.messages import BUSY, FAILED, Answer, Request
from emostream.http.protocol import MAX_HEAD_BYTES
from emostream.http.server import HttpServer
from emostream.process import Log, bound_socket
from emostream.records import MAX_BODY_BYTES
from testkit.ports import free_port_block

SECONDS = 20.0  # for what should come at once
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"


class Echo:
    """An app that echoes its requests. /wait is answered when it is released, /fail raises."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.asked: list[Request] = []
        self.gone_requests = 0

    def max_body_bytes(self, target: bytes) -> int:
        return 2 * MAX_BODY_BYTES if target == b"/large" else MAX_BODY_BYTES

    def answer(self, request: Request, busy: bool) -> Answer | Coroutine[Any, Any, Answer]:
        self.asked.append(request)
        path = request.target.partition(b"?")[0]
        if path == b"/fail":
            raise RuntimeError("secret")
        if path == b"/fail-later":
            return self._fail()
        if path == b"/wait":
            return BUSY if busy else self._wait(request)
        if path == b"/much":
            return Answer(200, b"x" * 1_000_000)
        if path == b"/some":
            return Answer(200, b"x" * 20_000)
        if path == b"/unchanged":
            return Answer(304, b"")
        return self.said(request)

    def said(self, request: Request) -> Answer:
        return Answer(200, request.method + b" " + request.target + b" %d" % len(request.body), (("said", "yes"),))

    async def _wait(self, request: Request) -> Answer:
        await self.release.wait()
        return self.said(request)

    async def _fail(self) -> Answer:
        raise RuntimeError("secret")

    def refusal(self, request: Request, answer: Answer) -> Answer:
        return answer

    def gone(self, requests: int) -> None:
        self.gone_requests += requests


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """The next whole answer."""
        lines = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), SECONDS)).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        length = 0 if head else int(headers.get("content-length", 0))
        return int(lines[0].split(" ")[1]), headers, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """All bytes until the end of the connection."""
        return await asyncio.wait_for(self.reader.read(), SECONDS)


class Server:
    """A server, and clients that are connected to it."""

    def __init__(self, max_connections: int = 100, max_requests: int = 100, request_seconds: float = 10.0) -> None:
        self.app = Echo()
        self.http = HttpServer(self.app, Log("test"), max_connections, max_requests, request_seconds)
        self.port = free_port_block(1)
        self._clients: list[Client] = []

    async def client(self, data: bytes = b"") -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.append(client)
        client.send(data)
        return client

    async def until(self, what: Callable[[], bool]) -> None:
        async def turn() -> None:
            while not what():
                await asyncio.sleep(0.01)

        await asyncio.wait_for(turn(), SECONDS)

    async def end(self) -> None:
        for client in self._clients:
            client.writer.close()
        await self.http.close(SECONDS)
        assert self.http.in_flight == 0
        assert not self.http.open


Run = Callable[..., None]


@pytest.fixture
def served() -> Run:
    """Run a scenario with a server. At its end no request may be held."""

    def run(scenario: Callable[[Server], Awaitable[None]], **bounds: Any) -> None:
        async def whole() -> None:
            server = Server(**bounds)
            await server.http.listen(bound_socket("127.0.0.1", server.port, "test"))
            try:
                await scenario(server)
            finally:
                server.app.release.set()
                await server.end()

        uvloop.run(whole())

    return run


def test_one_connection_carries_many_requests(served: Run) -> None:
    async def scenario(server: Server) -> None:
        client = await server.client()
        for number in range(3):
            client.send(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" % number)
            status, headers, body = await client.answer()
            assert (status, body, headers["said"]) == (200, b"POST /%d 2" % number, "yes")
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", headers["date"])
            assert "connection" not in headers

    served(scenario)


def test_pipelined_requests_are_answered_in_order_even_if_one_has_to_wait(served: Run) -> None:
    async def scenario(server: Server) -> None:
        wanted = [b"/1", b"/wait", b"/3", b"/wait", b"/5"]
        client = await server.client(b"".join(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target for target in wanted))
        assert (await client.answer())[2] == b"GET /1 0"
        await server.until(lambda: len(server.app.asked) == 2)
        assert server.http.in_flight == 4
        client.send(b"GET /6 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.app.release.set()
        for target in [*wanted[1:], b"/6"]:
            assert (await client.answer())[2] == b"GET %b 0" % target

    served(scenario)


def test_the_requests_of_one_connection_that_may_wait_are_limited(served: Run) -> None:
    async def scenario(server: Server) -> None:
        client = await server.client(WAIT + GET * 5_000)
        await server.until(lambda: server.http.in_flight > MAX_WAITING)
        server.app.release.set()
        for _ in range(1 + MAX_WAITING):
            assert (await client.answer())[0] == 200
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (503, "close")
        assert await client.rest() == b""

    served(scenario)


def test_trailers_are_not_headers(served: Run) -> None:
    async def scenario(server: Server) -> None:
        trailed = b"Transfer-Encoding: chunked\r\nX-Forwarded-For: a\r\n\r\n2\r\nhi\r\n0\r\nX-Forwarded-For: b\r\n\r\n"
        client = await server.client(b"POST /a HTTP/1.1\r\nHost: x\r\n" + trailed + GET)
        assert (await client.answer())[2] == b"POST /a 2"
        assert (await client.answer())[0] == 200
        assert server.app.asked[0].headers[b"x-forwarded-for"] == b"a"

    served(scenario)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=100), min_size=1, max_size=4),
    st.booleans(),
    st.lists(st.integers(1, 400), max_size=12, unique=True),
)
def test_requests_are_the_same_in_whatever_pieces_they_come(
    bodies: list[bytes], chunked: bool, cuts: list[int]
) -> None:
    def framed(body: bytes) -> bytes:
        if not chunked:
            return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:30], body[30:]) if part)
        return b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    wire = b"".join(b"POST /a HTTP/1.1\r\nHost: x\r\nX-One: 1\r\nx-one: 2\r\n" + framed(body) for body in bodies)
    parts = [wire[begin:end] for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(wire)], strict=True)]

    app = asyncio.new_event_loop().run_until_complete(fed(parts))
    assert [request.body for request in app.asked] == bodies
    assert {request.headers[b"x-one"] for request in app.asked} == {b"1,2"}


class Written(asyncio.Transport):
    """A transport without a socket. A test decides how many bytes are unread."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.unread = 0
        self.reading, self.ended, self.closing = True, False, False

    def write(self, data: Any) -> None:
        assert not self.ended, "written after the end"
        self.data += data
        self.unread += len(data)

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return self.unread

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


class Gone(Written):
    """A transport whose client has gone, which no call back has said yet."""

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")


def test_a_connection_whose_client_has_gone_ends_with_its_last_answer() -> None:
    async def scenario() -> None:
        server = HttpServer(Echo(), Log("test"), 1, 1)
        connection, transport = ServerConnection(server), Gone()
        connection.connection_made(transport)
        connection.data_received(GET.replace(b"Host", b"Connection: close\r\nHost"))
        assert transport.closing
        connection.connection_lost(None)
        assert not server.open

    asyncio.new_event_loop().run_until_complete(scenario())


class Life:
    """A connection to which things happen in any possible order."""

    def __init__(self, wire: bytes, max_requests: int) -> None:
        self.app = Echo()
        self.server = HttpServer(self.app, Log("test"), 1, max_requests)
        self.connection = ServerConnection(self.server)
        self.transport = Written()
        self.connection.connection_made(self.transport)
        self.wire = wire
        self.blocked = self.silent = self.lost = False

    async def happens(self, what: str, size: int) -> None:
        connection, transport = self.connection, self.transport
        if what == "answered":
            self.app.release.set()
            await asyncio.sleep(0)
            self.app.release.clear()
        elif transport.closing:
            self.lose()
        elif what == "data" and transport.reading and not self.silent:
            data, self.wire = self.wire[:size], self.wire[size:]
            connection.data_received(data)
        elif what == "blocked" and transport.unread and not self.blocked:
            self.blocked = True
            connection.pause_writing()
        elif what == "read":
            transport.unread = 0
            if self.blocked:
                self.blocked = False
                connection.resume_writing()
        elif what == "later":
            self.server.now += size
            connection.end_if_overdue()
        elif what == "silent" and transport.reading and not self.silent:
            self.silent = True
            if not connection.eof_received():
                transport.closing = True
        elif what == "finish":
            self.server.closing = True
            connection.finish()
        elif what == "lost":
            transport.closing = True
        for _ in range(3):
            await asyncio.sleep(0)  # for tasks to go on

    def lose(self) -> None:
        if not self.lost:
            self.lost = True
            self.connection.connection_lost(None)


BODY = b"Content-Length: 30\r\n\r\n" + b"x" * 30
many_requests = st.lists(
    st.sampled_from([
        GET, WAIT, b"GET /fail-later HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /a HTTP/1.1\r\nHost: x\r\n" + BODY,
        b"POST /wait HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n" + BODY,
        b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + BODY,
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\n\r\n",
        b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"BAD\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
    ]),
    min_size=1, max_size=50,
)  # fmt: skip
events = st.sampled_from(
    ["data"] * 20 + ["blocked", "read"] * 3 + ["answered"] * 4 + ["later", "silent", "finish", "lost"]
)


@settings(max_examples=300, deadline=None)
@given(
    many_requests,
    st.lists(st.tuples(events, st.sampled_from([1, 7, 40, 300, 5_000])), max_size=60),
    st.sampled_from([1, 2, 3, 100]),
)
@example([WAIT, GET, GET], [("data", 5_000), ("lost", 1), ("later", 1)], 100)
def test_in_whatever_order_things_happen_a_connection_ends_and_holds_nothing(
    requests: list[bytes], happenings: list[tuple[str, int]], max_requests: int
) -> None:
    async def scenario() -> None:
        numbered = (request.replace(b" HTTP", b"?%d HTTP" % number) for number, request in enumerate(requests))
        life = Life(b"".join(numbered), max_requests)
        for what, size in happenings:
            await life.happens(what, size)
        for _ in range(60):  # now the app answers, and the client reads
            await life.happens("answered", 0)
            await life.happens("read", 0)
        assert life.lost or life.transport.closing or life.silent or life.transport.reading, "nobody reads any more"
        for _ in range(10):  # and now the client does nothing more
            await life.happens("later", 60)
            await life.happens("read", 0)
            await life.happens("answered", 0)
        assert life.lost, "it never ends"
        assert life.server.in_flight == 0
        assert not life.server.missing_bodies
        answered = [int(number) for number in re.findall(rb"\?(\d+) \d+", life.transport.data)]
        assert answered == sorted(set(answered)), "answers are not in the order of their requests"

    asyncio.new_event_loop().run_until_complete(scenario())


async def fed(parts: list[bytes]) -> Echo:
    """Feed a connection with these parts and return its app."""
    app = Echo()
    connection = ServerConnection(HttpServer(app, Log("test"), 1, 1))
    transport = Written()
    connection.connection_made(transport)
    for part in parts:
        connection.data_received(part)
    assert transport.data.count(b"HTTP/1.1 200 OK") == len(app.asked)
    return app


@pytest.mark.parametrize(
    "request_",
    [GET.replace(b"Host", b"Connection: close\r\nHost"), GET.replace(b"1.1", b"1.0")],
    ids=["Connection: close", "HTTP/1.0"],
)
def test_a_connection_closes_after_the_answer_to_its_last_request(served: Run, request_: bytes) -> None:
    async def scenario(server: Server) -> None:
        client = await server.client(request_ + GET)
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.rest() == b""
        assert len(server.app.asked) == 1

    served(scenario)


def test_a_client_that_sends_no_more_still_gets_its_answer(served: Run) -> None:
    async def scenario(server: Server) -> None:
        client = await server.client(WAIT)
        await server.until(lambda: bool(server.app.asked))
        client.writer.write_eof()
        await asyncio.sleep(0.1)  # for the end to arrive; too short, the test is only weaker
        server.app.release.set()
        assert (await client.answer())[0] == 200
        assert await client.rest() == b""

    served(scenario)


def test_a_client_that_leaves_before_its_answer_is_counted(served: Run) -> None:
    async def scenario(server: Server) -> None:
        for data in (WAIT, b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhi"):
            client = await server.client(data)
            await server.until(lambda: server.http.in_flight > 0)
            linger = struct.pack(
                "ii", 1, 0
            )  # so that its kernel says that it is gone, and not only that it sends no more
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.writer.transport.abort()
            await server.until(lambda: not server.http.open)
            server.app.release.set()
            await server.until(lambda: server.http.in_flight == 0)
        assert server.app.gone_requests == 2

    served(scenario)


def test_the_answer_to_a_head_has_no_body_and_the_length_that_the_app_says(served: Run) -> None:
    async def scenario(server: Server) -> None:
        unchanged = b"GET /unchanged HTTP/1.1\r\nHost: x\r\n\r\n"
        client = await server.client(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n" + GET + unchanged + GET)
        assert (await client.answer(head=True))[0] == 200
        assert (await client.answer())[2] == b"GET /a 0"
        status, headers, _ = await client.answer()
        assert (status, "content-length" in headers) == (304, False)
        assert (await client.answer())[2] == b"GET /a 0"

    served(scenario)


def test_a_client_that_waits_for_100_continue_gets_it(served: Run) -> None:
    async def scenario(server: Server) -> None:
        ask = b"POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        client = await server.client(ask)
        assert (await client.answer())[0] == 100
        client.send(b"hi" + WAIT + ask)
        assert (await client.answer())[2] == b"POST /a 2"
        server.app.release.set()
        assert (await client.answer())[2] == b"GET /wait 0"
        assert (await client.answer())[0] == 100
        client.send(b"hi" + ask.replace(b"2", b"999999"))
        assert (await client.answer())[2] == b"POST /a 2"
        assert (await client.answer())[0] == 413

    served(scenario)


def test_an_offer_of_another_protocol_is_ignored(served: Run) -> None:
    async def scenario(server: Server) -> None:
        offer = (
            b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"Content-Length: 2\r\n\r\nhi"
        )
        client = await server.client((offer + GET) * 3_000)
        for number in range(6_000):
            assert (await client.answer())[2] == (b"GET /a 0" if number % 2 else b"POST /a 2")
        client.send(offer[:-1])
        client.send(offer[-1:])
        assert (await client.answer())[2] == b"POST /a 2"

    served(scenario)


def test_connect_is_refused_and_nothing_after_it_is_read(served: Run) -> None:
    async def scenario(server: Server) -> None:
        client = await server.client(b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        assert (await client.answer())[0] == 405
        assert await client.rest() == b""

    served(scenario)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("target", "most"), [(b"/a", MAX_BODY_BYTES), (b"/large", 2 * MAX_BODY_BYTES)])
def test_a_body_that_is_too_long_is_refused_before_the_app_sees_it(
    served: Run, chunked: bool, target: bytes, most: int
) -> None:
    async def scenario(server: Server) -> None:
        for length, expected in ((most, 200), (most + 1, 413), (50 * most, 413)):
            framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % length
            client = await server.client(b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (target, framing))
            client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (length, b"x" * length) if chunked else b"x" * length)
            status, headers, _ = await client.answer()
            assert (status, "connection" in headers) == (expected, expected == 413)
        assert await client.rest() == b""
        assert [len(request.body) for request in server.app.asked] == [most]

    served(scenario)


CHUNKED = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "two lengths": (b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi", 400),
    "a length and chunks": (
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "a bad chunk": (b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "an endless target": (b"GET /" + b"a" * 20 * MAX_HEAD_BYTES, 414),
    "an endless header": (b"GET /a HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20 * MAX_HEAD_BYTES, 431),
    "endless headers": (b"GET /a HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 20 * MAX_HEAD_BYTES, 431),
    "many equal headers": (b"GET /a HTTP/1.1\r\nHost: x\r\n" + b"X:\r\n" * 101 + b"\r\n", 431),
    "many headers": (b"GET /a HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(101)) + b"\r\n", 431),
    "a large head in one piece": (b"GET /a HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
    "endless trailers": (CHUNKED + b"0\r\n" + b"X: a\r\n" * 20 * MAX_HEAD_BYTES, 431),
    "an endless trailer": (CHUNKED + b"0\r\nX: " + b"a" * 20 * MAX_HEAD_BYTES, 431),
    "an endless extension": (CHUNKED + b"1;x=" + b"a" * 20 * MAX_HEAD_BYTES, 431),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("before", [b"", GET, WAIT], ids=["first", "second", "behind one"])
def test_a_broken_request_is_refused_in_its_turn_and_ends_the_connection(served: Run, what: str, before: bytes) -> None:
    data, expected = BROKEN[what]

    async def scenario(server: Server) -> None:
        client = await server.client(before + data + (GET if expected == 400 else b""))
        await asyncio.sleep(0.05)  # for the bad one to come while the one before waits; without it also right
        server.app.release.set()
        if before:
            assert (await client.answer())[0] == 200
        status, headers, body = await client.answer()
        assert (status, headers["connection"]) == (expected, "close")
        assert "expected" in json.loads(body)["error"]
        assert await client.rest() == b""
        assert len(server.app.asked) == bool(before)

    served(scenario)


@pytest.mark.parametrize(
    "data", [b"GET /a HT", b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhi"], ids=["head", "body"]
)
def test_a_request_that_is_cut_off_or_too_slow_is_refused_and_ends_the_connection(served: Run, data: bytes) -> None:
    async def scenario(server: Server) -> None:
        cut = await server.client(data)
        cut.writer.write_eof()
        slow = await server.client(data)
        for client, expected in ((cut, 400), (slow, 408)):
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (expected, "close")
            assert await client.rest() == b""

    served(scenario, request_seconds=0.5)


def test_an_idle_connection_ends_but_one_that_waits_for_its_answer_does_not(
    served: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "IDLE_SECONDS", 0.2)

    async def scenario(server: Server) -> None:
        waiting = await server.client(WAIT)
        for silent in (await server.client(), await server.client(GET)):
            await silent.rest()
        server.app.release.set()
        assert (await waiting.answer())[0] == 200

    served(scenario, request_seconds=0.5)


def test_a_client_that_does_not_read_takes_bounded_memory_and_ends(
    served: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "IDLE_SECONDS", 1.0)

    async def scenario(server: Server) -> None:
        client = await server.client(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        await server.until(lambda: bool(server.app.asked))
        await server.until(lambda: not server.http.open)
        assert len(server.app.asked) < 50
        assert server.http.in_flight == 0
        client.writer.transport.abort()

    served(scenario, request_seconds=1.0)


def test_a_client_that_does_not_read_a_short_answer_ends_too(served: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "IDLE_SECONDS", 0.5)

    async def scenario(server: Server) -> None:
        for more in (b"", b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhi"):
            client = Client(*await asyncio.open_connection("127.0.0.1", server.port, limit=1))
            asked = len(server.app.asked)
            # Until the kernels take no more, and then a little that stays here.
            while not any(cast(ServerConnection, one)._transport.get_write_buffer_size() for one in server.http.open):
                client.send(b"GET /some HTTP/1.1\r\nHost: x\r\n\r\n")
                await asyncio.sleep(0.001)
            client.send(more)
            assert len(server.app.asked) > asked
            await server.until(lambda: not server.http.open)
            assert server.http.in_flight == 0
            client.writer.transport.abort()

    served(scenario, request_seconds=4.0)  # so it looks more often


def test_a_client_that_reads_slowly_gets_all_of_its_answers(served: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "IDLE_SECONDS", 2.0)
    monkeypatch.setattr(connection_module, "DISCARD_SECONDS", 0.2)

    async def scenario(server: Server) -> None:
        much = b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n"
        client = await server.client(much * 29 + much.replace(b"\r\n\r", b"\r\nConnection: close\r\n\r"))
        for _ in range(30):
            assert len((await client.answer())[2]) == 1_000_000
            await asyncio.sleep(0.2)  # 6 s in all, 3 times what a client may take that reads nothing
        assert await client.rest() == b""

    served(scenario, request_seconds=1.0)


def test_an_idle_connection_keeps_nothing_of_its_last_request(served: Run) -> None:
    async def scenario(server: Server) -> None:
        client = await server.client(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50_000)
        await client.answer()
        (connection,) = server.http.open
        protocol = cast(ServerConnection, connection)._protocol
        kept = (protocol._target, protocol._body, protocol._headers, server.http.in_flight)
        assert kept == (b"", b"", {}, 0)

    served(scenario)


def test_only_a_request_that_must_be_held_is_refused_when_there_is_no_room(served: Run) -> None:
    half = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"

    async def scenario(server: Server) -> None:
        slow = [await server.client(half) for _ in range(2)]
        slow.append(await server.client(WAIT))
        await server.until(lambda: server.http.in_flight == 3)
        client = await server.client(GET + WAIT + half + b"hi" + half)
        for expected in (200, 503, 200, 503):
            status, headers, _ = await client.answer()
            assert (status, headers.get("retry-after")) == (expected, "1" if expected == 503 else None)
        assert await client.rest() == b""
        slow[2].send(GET)  # waits behind the one that is held
        server.app.release.set()
        assert (await slow[2].answer())[0] == 200
        assert (await slow[2].answer())[0] == 503
        client = await server.client(half)
        await server.until(lambda: server.http.in_flight == 3)
        for each in (*slow[:2], client):
            each.send(b"hi")
            assert (await each.answer())[0] == 200
        assert server.http.in_flight == 0

    served(scenario, max_requests=3)


def test_a_body_that_has_been_missing_for_long_makes_room_for_one_that_has_just_begun(served: Run) -> None:
    half = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"

    async def scenario(server: Server) -> None:
        slow = [await server.client(half) for _ in range(3)]
        await server.until(lambda: server.http.in_flight == 3)
        began = server.http.now
        await server.until(lambda: server.http.now > began + MISSING_SECONDS + 1)
        client = await server.client(half)
        assert (await slow[0].answer())[0] == 503
        for each in (slow[1], slow[2], client):
            each.send(b"hi")
            assert (await each.answer())[0] == 200

    served(scenario, max_requests=3)


def test_a_length_may_begin_with_any_number_of_zeros(served: Run) -> None:
    async def scenario(server: Server) -> None:
        client = await server.client(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"0" * 5_000 + b"2\r\n\r\nh")
        await server.until(lambda: server.http.in_flight == 1)
        client.send(b"i")
        assert (await client.answer())[2] == b"POST /a 2"

    served(scenario)


def test_one_connection_too_many_is_refused_when_none_is_idle(served: Run) -> None:
    async def scenario(server: Server) -> None:
        held = [await server.client(WAIT) for _ in range(2)]
        await server.until(lambda: server.http.in_flight == 2)
        beyond = await server.client(GET)
        status, headers, _ = await beyond.answer()
        assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
        assert await beyond.rest() == b""
        server.app.release.set()
        await held[0].answer()
        held[0].writer.close()
        beyond.writer.close()
        await server.until(lambda: len(server.http.open) == 1)
        assert (await (await server.client(GET)).answer())[0] == 200

    served(scenario, max_connections=2)


def test_the_connection_that_has_been_idle_for_the_longest_makes_room_for_a_new_one(served: Run) -> None:
    async def scenario(server: Server) -> None:
        busy = await server.client(WAIT)
        await server.until(lambda: server.http.in_flight == 1)
        began = await server.client(b"GET /a HTTP/1.1\r\nHost: x\r\n")
        idle = [await server.client(GET) for _ in range(2)]
        for client in idle:
            await client.answer()
        second = server.http.now
        await server.until(lambda: server.http.now > second)
        idle[0].send(GET)  # so that the other one has been idle for longer
        assert (await idle[0].answer())[0] == 200
        assert (await (await server.client(GET)).answer())[0] == 200
        assert await idle[1].rest() == b""
        assert len(server.http.open) == 4
        server.app.release.set()
        began.send(b"\r\n")
        idle[0].send(GET)
        for client in (busy, began, idle[0]):
            assert (await client.answer())[0] == 200

    served(scenario, max_connections=4, request_seconds=5.0)


def test_a_flood_of_idle_connections_silences_nobody(served: Run) -> None:
    async def scenario(server: Server) -> None:
        for _ in range(1_000):
            await server.client()
        assert (await (await server.client(GET)).answer())[0] == 200
        assert len(server.http.open) <= 50

    served(scenario, max_connections=50)


@pytest.mark.parametrize("target", [b"/fail", b"/fail-later"])
def test_an_unexpected_error_is_a_500_that_tells_nothing_of_the_cause(served: Run, target: bytes) -> None:
    async def scenario(server: Server) -> None:
        client = await server.client(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target + GET)
        status, _, body = await client.answer()
        assert (status, body) == (500, FAILED.body)
        assert (await client.answer())[0] == 200

    served(scenario)


def test_a_server_that_closes_answers_the_requests_that_have_begun_and_no_more(served: Run) -> None:
    async def scenario(server: Server) -> None:
        silent = await server.client(GET)
        await silent.answer()
        waiting = await server.client(WAIT)
        half = await server.client(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nh")
        await server.until(lambda: server.http.in_flight == 2)
        ending = asyncio.create_task(server.http.close(SECONDS))
        assert await silent.rest() == b""
        half.send(b"i" + GET)
        server.app.release.set()
        for client in (waiting, half):
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (200, "close")
            assert await client.rest() == b""
            client.writer.close()
        await asyncio.wait_for(ending, SECONDS)
        with pytest.raises(ConnectionRefusedError):
            await server.client(GET)

    served(scenario)
