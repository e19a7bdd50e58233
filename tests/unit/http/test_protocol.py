"""emostream.http.protocol: bytes in, requests and refusals out, without a socket."""

from __future__ import annotations

import pytest

from emostream.http.head import PROXY_WANTED
from emostream.http.messages import BUSY, NOT_HTTP, Answer, Request
from emostream.http.protocol import (
    CUT_OFF,
    LARGE_HEAD,
    LONG_TARGET,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    PIECE_BYTES,
    ReadState,
    ServerProtocol,
    answer_bytes,
)
from emostream.records import MAX_BODY_BYTES

GET = b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def protocol() -> ServerProtocol:
    return ServerProtocol("192.0.2.1", lambda _target: MAX_BODY_BYTES)


def fed(data: bytes, to: ServerProtocol | None = None) -> list[Request]:
    """What a protocol returns for these bytes, in pieces as large as there may be."""
    to = to or protocol()
    pieces = (data[begin : begin + PIECE_BYTES] for begin in range(0, len(data), PIECE_BYTES))
    return [request for piece in pieces for request in to.receive(piece)]


def refusal_of(data: bytes) -> Answer | None:
    *_, last = fed(data)
    return last.refusal


def test_a_whole_request_comes_back_at_once() -> None:
    assert fed(GET) == [Request({b"host": b"x"}, "192.0.2.1", b"GET", b"/a?b")]


def test_a_request_goes_through_its_states() -> None:
    one = protocol()
    states = [one.state]
    for piece in (b"PO", b"ST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n", b"\r\n", b"h", b"i"):
        one.receive(piece)
        states.append(one.state)
    assert states == [
        ReadState.IDLE, ReadState.HEAD, ReadState.HEAD, ReadState.BODY, ReadState.BODY, ReadState.IDLE,
    ]  # fmt: skip


def test_pipelined_requests_come_back_in_their_order() -> None:
    assert [request.body for request in fed(POST + b"first" + GET + POST + b"third")] == [b"first", b"", b"third"]


@pytest.mark.parametrize("last", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"])
def test_nothing_is_read_after_the_last_request(last: bytes) -> None:
    one = protocol()
    assert len(fed(GET + last + GET, one)) == 2
    assert (one.state, one.receive(GET)) == (ReadState.CLOSED, [])


def test_a_refusal_is_the_last_thing_that_comes_back() -> None:
    one = protocol()
    good, refused = fed(GET + b"nonsense\r\n\r\n" + GET, one)
    assert (good.refusal, refused.refusal) == (None, NOT_HTTP)
    assert one.state is ReadState.CLOSED
    assert one.refuse(BUSY) == []


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (GET[:-2] + b"X: y\r\n" * (MAX_HEADERS - 1) + b"\r\n", None),
        (GET[:-2] + b"X: y\r\n" * MAX_HEADERS + b"\r\n", LARGE_HEAD),
        (b"GET /" + b"a" * (MAX_HEAD_BYTES + 1), LONG_TARGET),
        (GET[:-2] + b"X: " + b"y" * MAX_HEAD_BYTES, LARGE_HEAD),
        (CHUNKED + b"1\r\na\r\n" * 5_000 + b"0\r\n\r\n", None),
        (CHUNKED + (b"1;" + b"x" * 30 + b"\r\na\r\n") * 5_000, LARGE_HEAD),
    ],
    ids=["lines", "a line more", "target", "header", "small chunks", "chunks of extensions"],
)
def test_the_size_of_a_head_and_of_the_bytes_around_chunks_is_limited(data: bytes, refusal: Answer | None) -> None:
    assert refusal_of(data) == refusal


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("more", [0, 1])
def test_a_body_is_too_large_by_its_declared_length_or_by_what_comes(declared: bool, more: int) -> None:
    size = MAX_BODY_BYTES + more
    if declared:
        data = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"x" * (1 if more else size)
    else:
        data = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)
    refused = refusal_of(data)
    assert (refused.status if refused else None) == (413 if more else None)


def test_the_end_of_the_client_cuts_off_only_a_request_that_has_begun() -> None:
    idle, begun = protocol(), protocol()
    begun.receive(POST + b"h")
    assert idle.receive_eof() == []
    assert [request.refusal for request in begun.receive_eof()] == [CUT_OFF]
    assert idle.state is begun.state is ReadState.CLOSED


def test_a_request_that_has_begun_is_the_last_one_when_the_server_finishes() -> None:
    idle, begun = protocol(), protocol()
    begun.receive(POST)
    for one in (idle, begun):
        one.finish()
    assert (fed(GET, idle), [request.body for request in fed(b"hello" + GET, begun)]) == ([], [b"hello"])


@pytest.mark.parametrize("more", [b"Transfer-Encoding: gzip, chunked", b"Content-Encoding: br", b"Connection: Upgrade"])
def test_a_head_like_the_one_before_is_not_taken_for_good(more: bytes) -> None:
    one = protocol()
    assert [request.refusal for request in fed(GET + GET, one)] == [None, None]
    bad = more != b"Connection: Upgrade"
    [request] = fed(GET[:-2] + more + b"\r\n\r\n" + (b"0\r\n\r\n" if b"Transfer" in more else b""), one)
    assert (request.refusal is not None) == bad
    other = protocol()
    for data, status in ((GET, None), (GET.replace(b"Host: x", b"Host: a, b"), 400)):
        [request] = fed(data, other)
        assert (request.refusal.status if request.refusal else None) == status


def test_an_http_1_0_request_like_the_1_1_request_before_it_is_answered_as_1_0_and_the_other_way_round() -> None:
    new = GET.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")
    old = new.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert [request.keep_alive for request in fed(new + old + new + old + old + new)] == [
        False, True, False, True, True, False,
    ]  # fmt: skip


def test_a_client_that_waits_for_100_continue_is_told_once_and_only_before_its_body() -> None:
    waits, sends = protocol(), protocol()
    head = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    waits.receive(head)
    sends.receive(head + b"h")
    assert [waits.take_expectation(), waits.take_expectation(), sends.take_expectation()] == [True, False, False]


def test_an_offer_of_another_protocol_is_declined_and_a_tunnel_is_refused() -> None:
    offer = POST.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert [request.body for request in fed(offer + b"hello" + GET)] == [b"hello", b""]
    [tunnel] = fed(b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
    assert tunnel.refusal == PROXY_WANTED


def test_an_answer_has_the_length_of_its_body_and_says_whether_the_connection_ends() -> None:
    answer = Answer(200, b"hello", (("said", "yes"),))
    assert answer_bytes(answer, "now") == b"HTTP/1.1 200 OK\r\ndate: now\r\nsaid: yes\r\ncontent-length: 5\r\n\r\nhello"
    assert answer_bytes(answer, connection="close").endswith(b"\r\nconnection: close\r\n\r\nhello")
    assert answer_bytes(answer, to_head=True) == b"HTTP/1.1 200 OK\r\nsaid: yes\r\n\r\n"
    assert answer_bytes(Answer(204, b"")) == b"HTTP/1.1 204 No Content\r\n\r\n"
