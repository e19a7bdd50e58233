"""Seed and number → the bytes of one connection to the app: good, bad or cut off. The same ones each time."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

Bytes = Callable[[random.Random, str], "Case"]


@dataclass
class Case:
    """The bytes of one connection. `good` are the users whose events must be accepted if the answer is 200."""

    kind: str
    parts: list[bytes]  # sent one after the other, with a pause between
    good: list[str] = field(default_factory=list)
    # The statuses that must come, in order, if that is certain.
    statuses: list[int] | None = None
    # The client leaves before the end, so nobody knows what the app accepted of it.
    cut: bool = False


def event(user: str, **others: object) -> dict[str, object]:
    """A good one."""
    return {"user_id": user, "emoji_type": "😊", "timestamp": "2026-01-31T20:15:00Z"} | others


def request(body: bytes, *headers: str, head: str = "POST /send-emoji HTTP/1.1", length: object = None) -> bytes:
    """A whole request. `length` is the Content-Length that it declares; with "" it declares none."""
    lines = [head, "Host: localhost", "Content-Type: application/json", *headers]
    if length != "":
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + body


def good_request(user: str, *headers: str) -> bytes:
    """A tap that must be accepted."""
    return request(json.dumps(event(user)).encode(), *headers)


def chunked(r: random.Random, body: bytes, *headers: str, spoil: bool = False) -> bytes:
    """A request whose body comes in chunks of any size. `spoil` breaks one of them."""
    wire, rest = b"", body
    while rest:
        size = r.randint(1, len(rest))
        extension = r.choice(["", "", ";a", ';name="value"', ";" + "x" * 50])
        wire += f"{size:{r.choice(['x', 'X', '04x'])}}{extension}\r\n".encode() + rest[:size] + b"\r\n"
        rest = rest[size:]
    wire += b"0\r\n" + r.choice([b"", b"", b"Trailer: a\r\n"]) + b"\r\n"
    if spoil:
        wire = mutated(r, wire)
    return request(b"", "Transfer-Encoding: chunked", *headers, length="") + wire


def mutated(r: random.Random, data: bytes) -> bytes:
    """The same bytes, a few of them changed, removed, doubled or moved."""
    found = bytearray(data)
    for _ in range(r.choice([1, 1, 1, 2, 3, 8])):
        at = r.randrange(len(found) + 1)
        end = min(len(found), at + r.choice([1, 1, 2, 4, 16]))
        match r.randrange(6):
            case 0:
                found[at:end] = r.randbytes(end - at)
            case 1:
                del found[at:end]
            case 2:
                found[at:at] = found[at:end] * r.choice([1, 2, 50])
            case 3:
                found[at:at] = r.choice(ODD_BYTES)
            case 4:
                found[at:end] = bytes(byte ^ 1 << r.randrange(8) for byte in found[at:end])
            case _:
                found[at:end] = b""
                found[0:0] = data[at:end]
    return bytes(found)


ODD_BYTES = [
    b"\x00", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc0\x80", b"\xed\xa0\x80", b'"',
    b"\\", b"{", b"[", b"\\u0000", b"\\ud800", b"%00", b"-1", b"1e999", b"NaN", b"null", b"../", b"\xe2\x80\xae",
    b"\x1b[2J", b" ", b"\t",
]  # fmt: skip
ODD_VALUES: list[object] = [
    None, True, 0, -1, 1.5, 10**30, "", " ", "x" * 65, "x" * 70_000, "\0", "\ud800", "é" * 33, [], {}, [[]],
    {"a": {}}, "\u202e", "2026-13-45T99:99:99Z", "0000-00-00", "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00+14:00", "now", "final", "a/b", "fin\u00e4l",
]  # fmt: skip
ODD_BODIES = [
    b"", b"null", b"[]", b"{}", b"0", b'""', b"[" * 50_000, b'{"a":' * 20_000, b"{" * 70_000, b"\xff" * 100,
    b" " * 65_537, b'{"user_id":"a","user_id":"b","emoji_type":"x","timestamp":"2026-01-31"}', b"1" * 60_000,
    b'{"user_id":"',
]  # fmt: skip
ODD_LENGTHS = [
    0, 1, -1, "+5", "5 ", "0x10", "1e3", "ten", "", "5, 5", "5, 6", "99999999999999999999", 65_537, 2**31, 2**63,
    "\u0665",
]  # fmt: skip
ODD_HEADS = [
    "GET /send-emoji HTTP/1.1", "PUT /send-emoji HTTP/1.1", "HEAD /send-emoji HTTP/1.1",
    "OPTIONS /send-emoji HTTP/1.1", "OPTIONS * HTTP/1.1", "TRACE / HTTP/1.1", "CONNECT localhost:80 HTTP/1.1",
    "PRI * HTTP/2.0", "POST /send-emoji HTTP/1.0", "POST /send-emoji HTTP/2.0", "POST /send-emoji HTTP/9.9",
    "POST /send-emoji", "post /send-emoji HTTP/1.1", "POST  /send-emoji HTTP/1.1", "POST /send-emoji/ HTTP/1.1",
    "POST //send-emoji HTTP/1.1", "POST /send-emoji?%00=%zz HTTP/1.1", "POST /%73end-emoji HTTP/1.1",
    "POST /%ff%fe HTTP/1.1", "POST /../../etc/passwd HTTP/1.1", "POST /%2e%2e/ HTTP/1.1",
    "POST http://localhost/send-emoji HTTP/1.1", "POST http://[::1/ HTTP/1.1", "POST /" + "a" * 9_000 + " HTTP/1.1",
    "POST /é HTTP/1.1", "POST /a b HTTP/1.1", "M\xc9THOD / HTTP/1.1", "GET / HTTP/1.1",
    "GET /static/../app.py HTTP/1.1", "GET /livez HTTP/1.1", "GET /readyz HTTP/1.1", "POST /livez HTTP/1.1",
    "POST /send-emoji?room=final HTTP/1.1", "POST /send-emoji?room=a/b HTTP/1.1",
    "POST /send-emoji?room=a&room=b HTTP/1.1", "POST /send-emoji?room=%ff HTTP/1.1",
    "POST /send-emoji?room=" + "a" * 65 + " HTTP/1.1",
    "GET /openapi.json HTTP/1.1", "BREW / HTTP/1.1", "GET /send-emojis HTTP/1.1", "A" * 5_000 + " / HTTP/1.1",
]  # fmt: skip
ODD_HEADERS = [
    "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity",
    "Transfer-Encoding: chunked, chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding : chunked",
    "Content-Length: 3", "Content-Length: 0", "Content-Type: text/plain",
    "Content-Type: application/json; charset=utf-16", "Content-Type: application/json;;;", "Content-Type:",
    "Content-Type: \xff\xfe", "Content-Encoding: gzip", "Expect: 100-continue", "Expect: a miracle",
    "Upgrade: websocket", "Upgrade: h2c", "Connection: Upgrade", "Connection: keep-alive, close", "Host: a, b",
    "Host:", "Host: [::1", "Host: localhost:99999", "X-Forwarded-For: ' OR 1=1 --",
    "X-Forwarded-For: 999.1.1.1, ::::", "Authorization: Basic \xff", "Authorization: Bearer", "X-API-Key: \u20ac",
    "Cookie: " + "a=b;" * 900, "Origin: null", "Origin: http://\x7f", "Access-Control-Request-Method: \x01",
    "X-" + "a" * 4_000 + ": 1", "X: " + "a" * 9_000, "NoColon", ": no name", "A\x00B: 1", "A: \x00", "A: a\nB: b",
    "A: a\rB: b", " folded: 1", "Range: bytes=0-", "Content-Length: -1", "SCRIPT_NAME: /x", "Wsgi.input: 1",
    "X-HTTP-Method-Override: DELETE", "Accept: \xff", "If-None-Match: *", "Idempotency-Key: 1",
]  # fmt: skip


def good(_r: random.Random, user: str) -> Case:
    return Case("good", [good_request(user)], [user], [200])


def odd_body(r: random.Random, _user: str) -> Case:
    return Case("odd body", [request(r.choice(ODD_BODIES))], statuses=None)


def odd_value(r: random.Random, user: str) -> Case:
    name = r.choice(["user_id", "emoji_type", "timestamp", "count", "room", "other"])
    body = event(user, **{name: r.choice(ODD_VALUES)})
    return Case(
        "odd value", [request(json.dumps(body, ensure_ascii=r.random() < 0.5).encode("utf-8", "surrogatepass"))]
    )


def mutated_body(r: random.Random, user: str) -> Case:
    return Case("mutated body", [request(mutated(r, json.dumps(event(user)).encode()))])


def mutated_request(r: random.Random, user: str) -> Case:
    return Case("mutated request", [mutated(r, good_request(user))])


def random_bytes(r: random.Random, _user: str) -> Case:
    return Case(
        "random bytes", [r.choice([b"", b"POST ", b"\x16\x03\x01"]) + r.randbytes(r.choice([1, 10, 100, 5_000]))]
    )


def odd_head(r: random.Random, user: str) -> Case:
    return Case("odd head", [request(json.dumps(event(user)).encode(), head=r.choice(ODD_HEADS))])


def odd_header(r: random.Random, user: str) -> Case:
    headers = r.sample(ODD_HEADERS, r.choice([1, 1, 2, 3]))
    return Case("odd header", [request(json.dumps(event(user)).encode(), *headers)])


def many_headers(r: random.Random, user: str) -> Case:
    return Case(
        "many headers", [good_request(user, *(f"X-{n}: {n}" for n in range(r.choice([50, 99, 101, 500, 3_000]))))]
    )


def wrong_length(r: random.Random, user: str) -> Case:
    return Case("wrong length", [request(json.dumps(event(user)).encode(), length=r.choice(ODD_LENGTHS))], cut=True)


def two_lengths(r: random.Random, user: str) -> Case:
    """Request smuggling: two parties disagree about where a request ends."""
    body = json.dumps(event(user)).encode()
    extra = r.choice(
        ["Transfer-Encoding: chunked", "Content-Length: 5", f"Content-Length: {len(body)}", "Content-Length: 999"]
    )
    return Case("two lengths", [request(body, extra) + good_request(user + "-smuggled")])


def truncated(r: random.Random, user: str) -> Case:
    whole = good_request(user)
    return Case("truncated", [whole[: r.randrange(1, len(whole))]], cut=True)


def in_chunks(r: random.Random, user: str) -> Case:
    return Case("chunked", [chunked(r, json.dumps(event(user)).encode())], [user], [200])


def in_bad_chunks(r: random.Random, user: str) -> Case:
    return Case("bad chunks", [chunked(r, json.dumps(event(user)).encode(), spoil=True)], cut=True)


def pipelined(r: random.Random, user: str) -> Case:
    """Several requests at once. The bad ones end where they say, so the good ones after them count."""
    wire, users, statuses = b"", [], []
    for n in range(r.randint(2, 8)):
        match r.randrange(4):
            case 0:
                wire += request(b'{"user_id":1}')
                statuses.append(400)
            case 1:
                wire += request(b"", head="POST /nowhere HTTP/1.1")
                statuses.append(404)
            case 2:
                users.append(f"{user}-{n}")
                wire += chunked(r, json.dumps(event(users[-1])).encode())
                statuses.append(200)
            case _:
                users.append(f"{user}-{n}")
                wire += good_request(users[-1])
                statuses.append(200)
    return Case("pipelined", [wire], users, statuses)


def in_pieces(r: random.Random, user: str) -> Case:
    """A good request that comes slowly: in pieces, cut anywhere."""
    whole = good_request(user)
    cuts = sorted(r.sample(range(1, len(whole)), r.choice([1, 2, 5])))
    pieces = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return Case("in pieces", pieces, [user], [200])


def batch(r: random.Random, user: str) -> Case:
    """A batch with good and bad events, as an array or one event a line."""
    events: list[object] = []
    users = []
    for n in range(r.choice([1, 3, 20])):
        if r.random() < 0.7:
            users.append(f"{user}-{n}")
            events.append(event(users[-1], count=r.choice([1, 2, 1000])))
        else:
            events.append(
                r.choice([event(f"{user}-{n}", count=r.choice([0, -1, 1001, 1.5, "2", None])), 1, {}, [], None])
            )
    lines = r.random() < 0.5
    body = ("\n".join(map(json.dumps, events)) if lines else json.dumps(events)).encode()
    media = "application/x-ndjson" if lines else "application/json"
    wire = (
        f"POST /send-emojis HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return Case("batch", [wire.encode() + body], users, [200 if users else 400])


def mutated_batch(r: random.Random, user: str) -> Case:
    case = batch(r, user)
    head, _, body = case.parts[0].partition(b"\r\n\r\n")
    changed = mutated(r, body)
    head = head.replace(f"Content-Length: {len(body)}".encode(), f"Content-Length: {len(changed)}".encode())
    return Case("mutated batch", [head + b"\r\n\r\n" + changed])


GOOD: list[Bytes] = [good, in_chunks, in_pieces, pipelined]
BAD: list[Bytes] = [
    odd_body, odd_value, mutated_body, mutated_request, random_bytes, odd_head, odd_header, many_headers,
    wrong_length, two_lengths, truncated, in_bad_chunks,
]  # fmt: skip


def case(seed: int, number: int, batches: bool) -> Case:
    """The case of this number. `batches`: the app knows POST /send-emojis."""
    r = random.Random(f"{seed}-{number}")
    fine = [*GOOD, batch] if batches else GOOD
    make = r.choice([*fine, *BAD, *([mutated_batch] * 2 if batches else [])])
    # Different names, because the rest of a bent case must not be mistaken for a good one.
    return make(r, f"{'good' if make in fine else 'bent'}-{seed}-{number}")
