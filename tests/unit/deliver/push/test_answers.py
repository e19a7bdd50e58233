"""Whatever headers a client answers with, its status decides: a 2xx is a delivery, and nothing of it raises."""

from __future__ import annotations

import gzip
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emostream.http import client as http_client
from tests.unit.deliver.push.test_engine import history_of, pushing, pushing_to_junk, record

OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
RETRY_AFTER = [
    b"Wed, 21 Oct 99999999999999999999 07:28:00 GMT", b"Wed, 99999999999999999999 Oct 2015 07:28:00 GMT",
    b"Wed, 21 Oct 2015 99999999999999999999:28:00 GMT", b"Wed, 21 Oct 2015 07:28:00 +99999999999999999999",
    b"Wed, 21 Oct 9999 23:59:59 -2359", b"Wed, 21 Oct 0001 00:00:00 +2359", b"Wed, 21 Oct -1 07:28:00 GMT",
    b"Wednesday, 21-Oct-15 07:28:00 GMT", b"Wed Oct 21 07:28:00 2015", b"Wed, 31 Feb 2015 07:28:00 GMT", b"9" * 400,
    b"9" * 5000, b"1e400", b"inf", b"nan", b"-1", b"+5", b"0x10", b"1_000", b"1.5", b"1, 2", b"1\r\nRetry-After: x",
    b"x\r\nRetry-After: 1", b"", b" " * 40 + b"5", b"\t5\t", b"\xff\xfe", "\u0661\u0662".encode(), b"\xc2\xb2",
    b"\xb2", b"soon", b"(", b"(((((", b'"', b",", b",,,", b":", b"::", b"Wed", b"Wed,", b"Wed, 21", b"Wed, 21 Oct",
    b"Wed, 21 Oct 2015", b"Oct", b"2015-10-21T07:28:00Z", b"Thu, 99 Foo", b"0 0 0 0 0 0", b"a b c d e f g h",
    b"Wed, 21 Oct 2015 07:28:00 (GMT",
]  # fmt: skip


@pytest.mark.parametrize("value", RETRY_AFTER, ids=lambda value: repr(value[:40]))
def test_a_2xx_is_a_delivery_whatever_its_retry_after_is(value: bytes) -> None:
    with pushing_to_junk(OK + b"Retry-After: " + value + b"\r\n" + EMPTY) as ours:
        assert ours.counters.snapshot() == {"delivered": 1}


@pytest.mark.parametrize("value", RETRY_AFTER, ids=lambda value: repr(value[:40]))
def test_no_retry_after_raises_and_none_is_negative(value: bytes) -> None:
    assert (http_client._seconds(value.decode("latin-1")) or 0.0) >= 0.0


@given(
    st.text() | st.from_regex(r"[A-Za-z]{3}, [0-9]{1,30} [A-Za-z]{3} [0-9]{1,30} [0-9]{1,5}(:[0-9]{1,30}){0,3} .{0,9}")
)
def test_no_text_at_all_raises(value: str) -> None:
    assert (http_client._seconds(value) or 0.0) >= 0.0


HEADS = {
    "no reason phrase": b"HTTP/1.1 200\r\n" + EMPTY,
    "an empty reason phrase": b"HTTP/1.1 200 \r\n" + EMPTY,
    "a reason phrase in Latin-1": b"HTTP/1.1 200 D\xe9j\xe0 vu\r\n" + EMPTY,
    "a reason phrase in UTF-8": "HTTP/1.1 200 \U0001f525\r\n".encode() + EMPTY,
    "a reason phrase with control characters": b"HTTP/1.1 200 \x1b[31m\x07\r\n" + EMPTY,
    "a long reason phrase": b"HTTP/1.1 200 " + b"x" * 20_000 + b"\r\n" + EMPTY,
    "a reason phrase that looks like a status": b"HTTP/1.1 200 500\r\n" + EMPTY,
    "an unknown status": b"HTTP/1.1 299 x\r\n" + EMPTY,
    "201": b"HTTP/1.1 201 Created\r\nLocation: http://[\r\n" + EMPTY,
    "204 with a length": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    "204 with a bad length": b"HTTP/1.1 204 No Content\r\nContent-Length: x\r\n\r\n",
    "204 with chunks": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    "205": b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
    "206": b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/1\r\nContent-Length: 1\r\n\r\nx",
    "226": b"HTTP/1.1 226 IM Used\r\n" + EMPTY,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n",
    "HTTP/1.0, kept alive": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + EMPTY,
    "100 before it": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + EMPTY,
    "102 and 103 before it": b"HTTP/1.1 102 Processing\r\n\r\n" + HINTS + OK + EMPTY,
    "200 provisional answers before it": HINTS * 200 + OK + EMPTY,
    "lines that end with LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "a header with a bad name": OK + b"X Y: 1\r\n" + EMPTY,
    "a header without a name": OK + b": 1\r\n" + EMPTY,
    "a header without a colon": OK + b"nonsense\r\n" + EMPTY,
    "a space before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "a name in Latin-1": OK + b"X-\xe9: 1\r\n" + EMPTY,
    "a NUL in a value": OK + b"X: \x00\r\n" + EMPTY,
    "a CR in a value": OK + b"X: a\rb\r\n" + EMPTY,
    "a folded line": OK + b"X: a\r\n  b\r\n" + EMPTY,
    "a first line that is folded": OK + b"  X: a\r\n" + EMPTY,
    "a thousand headers": OK + b"X: y\r\n" * 1000 + EMPTY,
    "more headers than are read": OK + b"X: y\r\n" * 10_000 + EMPTY,
    "one header that is too long": OK + b"X: " + b"y" * 100_000 + b"\r\n" + EMPTY,
    "cookies": OK + b"Set-Cookie: a=b; Expires=Wed, 21 Oct 99999999999\r\nSet-Cookie: \xff=\x80;;=\r\n" + EMPTY,
    "a date that is none": OK + b"Date: yesterday\r\nExpires: -1\r\nAge: x\r\nLast-Modified: \xff\r\n" + EMPTY,
    "Connection: close": OK + b"Connection: close\r\n" + EMPTY,
    "Connection: Close, TE": OK + b"Connection: Close, TE\r\n" + EMPTY,
    "Keep-Alive": OK + b"Connection: Keep-Alive\r\nKeep-Alive: timeout=0, max=\xff\r\n" + EMPTY,
    "Connection twice": OK + b"Connection: close\r\nConnection: keep-alive\r\n" + EMPTY,
    "an offer to upgrade": OK + b"Upgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\n" + EMPTY,
    "an offer to upgrade without a body": b"HTTP/1.1 204 x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "Content-Length twice, the same": OK + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "Content-Length twice, two numbers": OK + b"Content-Length: 0\r\nContent-Length: 7\r\n\r\n",
    "Content-Length as a list": OK + b"Content-Length: 0, 0\r\n\r\n",
    "a negative length": OK + b"Content-Length: -1\r\n\r\n",
    "a length with a sign": OK + b"Content-Length: +0\r\n\r\n",
    "a length that is no number": OK + b"Content-Length: abc\r\n\r\n",
    "a length beyond 64 bits": OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "an empty length": OK + b"Content-Length:\r\n\r\n",
    "both framings": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown transfer coding": OK + b"Transfer-Encoding: gzip\r\n\r\nx",
    "chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk": CHUNKED + b"zz\r\n",
    "a chunk that is too large": CHUNKED + b"fffffffffffffffffff\r\n",
    "chunk extensions and trailers": CHUNKED + b"1;a=b\r\nx\r\n0\r\nX: y\r\nRetry-After: \xff\r\n\r\n",
    "a body that is not announced": OK + EMPTY + b"and more",
    "two answers": OK + EMPTY + b"HTTP/1.1 500 x\r\n" + EMPTY,
    "a body that is no gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz",
    "a body that would unpack to a gigabyte": OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(10_000_000)),
    "an unknown coding": OK + b"Content-Encoding: \xff, br, x\r\nContent-Length: 1\r\n\r\nx",
    "a media type that is none": OK + b"Content-Type: ;;;\xff\r\nContent-Length: 1\r\n\r\nx",
    "a challenge": OK + b"WWW-Authenticate: \xff\r\nStrict-Transport-Security: x\r\nAlt-Svc: h3=\":443\"\r\n" + EMPTY,
}  # fmt: skip


@pytest.mark.parametrize("what", HEADS)
def test_a_2xx_is_a_delivery_at_once_whatever_else_it_says(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "READ_SECONDS", 60.0)  # so that a stall of the machine is less than half of it
    began = time.monotonic()
    with pushing_to_junk(HEADS[what]) as ours:
        assert ours.counters.snapshot() == {"delivered": 1}
        assert time.monotonic() - began < http_client.READ_SECONDS / 2


@pytest.mark.parametrize("length", [b"", b"Content-Length: 0\r\n", b"Content-Length: 5\r\n"])
def test_a_204_is_complete_at_the_end_of_its_head_on_a_connection_that_stays_open(
    length: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "READ_SECONDS", 60.0)  # as above
    with socket.create_server(("127.0.0.1", 0)) as listener:
        began = time.monotonic()
        with pushing(f"http://127.0.0.1:{listener.getsockname()[1]}/", history_of(record(0, 0))) as ours:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 204 No Content\r\n" + length + b"\r\n")
                ours.wait_for_end()
        assert time.monotonic() - began < http_client.READ_SECONDS / 2
        assert ours.counters.snapshot() == {"delivered": 1}


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 300 x\r\n", b"HTTP/1.1 301 x\r\nLocation: /\r\n", b"HTTP/1.1 304 x\r\n", b"HTTP/1.1 305 x\r\n",
        b"HTTP/1.1 399 x\r\n", b"HTTP/1.1 400 x\r\n", b"HTTP/1.1 599 x\r\n", b"HTTP/1.1 999 x\r\n",
        b"HTTP/1.1 099 x\r\n", b"HTTP/1.1 101 x\r\nUpgrade: x\r\nConnection: upgrade\r\n", b"HTTP/1.1 20 x\r\n",
        b"HTTP/1.1 2000 x\r\n", b"HTTP/1.1 2xx x\r\n", b"HTTP/1.1 -200 x\r\n", b"HTTP/1.1 \xb2\xb0\xb0 x\r\n",
        b"HTTP/1.1\r\n", b"200 OK\r\n", b"HTTP 200 OK\r\n", b"PRI * HTTP/2.0\r\n", b"\x16\x03\x01\x02\x00",
        b"<html>200 OK", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200", b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 500 x\r\n",
        b"HTTP/1.1 503 x\r\nRetry-After: 0\r\n",
    ],
    ids=lambda answer: repr(answer[:40]),
)  # fmt: skip
def test_an_answer_without_a_2xx_is_one_failed_attempt(answer: bytes) -> None:
    ended = answer + (EMPTY if answer.endswith(b"\r\n") else b"")
    with pushing_to_junk(ended) as ours:
        assert ours.counters.snapshot() == {"delivered": 1, "failed_attempts": 1}
