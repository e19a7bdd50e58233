"""Spellings of one client's URL (RFC 3986 6.2.2 and 6.2.3, IDNA, forms of an IP address) have one slot, and get each
count once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emostream.http.client import Target
from tests.unit.deliver.test_routes import ask, http

EQUIVALENT = {
    "empty path, case of scheme and host, default port": [
        "http://h.example/", "http://h.example", "HTTP://h.example/", "http://H.EXAMPLE/", "Http://H.example:80/",
        "http://h.example:/", "http://h.example:080", "http://h.example/#top", "http://h.example/?", "http://h.example?#",
        "http://h.example./", "http://%68.example/", "http://h%2Eexample/",
    ],
    "https": ["https://h/", "HTTPS://h:443", "https://H:0443/"],
    "another port": ["http://h:1", "http://h:1/", "HTTP://h:1/", "http://h:01/", "http://h.:1/"],
    "escapes": ["http://h/~me", "http://h/%7Eme", "http://h/%7eme", "http://h/~%6De", "http://h/./~me", "http://h/x/../~me"],
    "case of escapes": ["http://h/a%2fb", "http://h/a%2Fb", "http://h/a/../a%2Fb", "http://h/%2E/a%2Fb"],
    "dot segments": [
        "http://h/a/c", "http://h/a/./c", "http://h/a/b/../c", "http://h/../a/c", "http://h/a/b/%2e%2E/c",
        "http://h/../../a/c",
    ],
    "dot segments at the end": ["http://h/a/", "http://h/a/.", "http://h/a/b/..", "http://h/a/%2E"],
    "characters that must be escaped": ["http://h/\u00e9", "http://h/%C3%A9", "http://h/%c3%a9"],
    "query": ["http://h/?a=%7E", "http://h/?a=~", "http://h?a=~#x", "http://h/?%61=~"],
    "escapes in a query": ["http://h/?a=%c3%a9", "http://h/?a=\u00e9"],
    "names beyond ASCII": [
        "http://b\u00fccher.example/", "http://xn--bcher-kva.example/", "http://B\u00dcCHER.example/",
        "http://XN--BCHER-KVA.example", "http://bu\u0308cher.example/", "http://b%C3%BCcher.example/",
        "http://b\u00fccher\u3002example/",
    ],
    "IPv4": [
        "http://127.0.0.1:8001/", "http://127.1:8001/", "http://2130706433:8001/", "http://0x7f.0.0.1:8001/",
        "http://0177.0.0.1:8001/", "http://0x7F000001:8001/", "http://127.0.0.1.:8001/", "http://127.0.1:8001",
        "http://\uff11\uff12\uff17.0.0.1:8001/", "http://[::ffff:127.0.0.1]:8001/", "http://[::ffff:7f00:1]:8001/",
        "http://127%2E0.0.1:8001/",
    ],
    "IPv6": [
        "http://[::1]:8001/", "http://[0:0:0:0:0:0:0:1]:8001/", "http://[0000::0001]:8001", "http://[::0.0.0.1]:8001/",
        "http://[::1]:08001/",
    ],
    "case of IPv6": ["http://[fd00::ab]/", "http://[FD00::AB]/", "http://[fd00:0:0::ab]:80"],
}  # fmt: skip
PAIRS = [(kind, urls[0], url) for kind, urls in EQUIVALENT.items() for url in urls[1:]]
DIFFERENT = [
    "http://h/", "https://h/", "http://h:81/", "http://h:443/", "http://g/", "http://www.h/", "http://h/a", "http://h/A",
    "http://h/a/", "http://h//", "http://h/a/b", "http://h/a%2Fb", "http://h/a%252Fb", "http://h/?a", "http://h/?A",
    "http://h/?a=", "http://h/?a=1&b=2", "http://h/?b=2&a=1", "http://h/a?a", "http://h/%3Fa", "http://h/a;b", "http://h/a%3Bb",
    "http://h/a+b", "http://h/a%20b", "http://h/a%2Bb", "http://h/..a", "http://h/...", "http://127.0.0.1/",
    "http://localhost/", "http://[::1]/", "http://[::2]/", "http://[::1:7f00:1]/", "http://127.0.0.2/", "http://h/100%",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "one", "other"), PAIRS)
def test_two_spellings_of_one_client_have_one_slot(kind: str, one: str, other: str) -> None:
    client = http()
    assert ask(client, "/register", one) == (200, {"status": "registered", "client_url": one})
    assert ask(client, "/register", other) == (200, {"status": "already_registered", "client_url": other})
    assert client.get("/status").json == {"available_slots": 1}
    assert ask(client, "/deregister", other) == (200, {"status": "deregistered", "client_url": other})
    assert ask(client, "/deregister", one) == (404, {"status": "not_found", "client_url": one})
    assert client.get("/status").json == {"available_slots": 2}


def test_different_clients_have_a_slot_each() -> None:
    client = http(capacity=len(DIFFERENT))
    for url in DIFFERENT:
        assert ask(client, "/register", url) == (200, {"status": "registered", "client_url": url})


@pytest.mark.parametrize(
    "url",
    [
        "http://h%2Fx/", "http://h%40g/", "http://h%00/", "http://h%20g/", "http://h%3A1/", "http://%5B::1%5D/", "http://h%23/",
        "http://h%25/", "http://h%/", "http://h^/", "http://h|g/", "http://[v1.x]/", "http://[::1%25eth0]/", "http://[1.2.3.4]/",
        "http://[::1]x/", "http://h:-1/", "http://h:1_0/", "http://h:\u0661/", "http://./", "http://..", "http://h..",
    ],
)  # fmt: skip
def test_a_host_that_cannot_be_one_is_refused_with_400(url: str) -> None:
    status, answer = ask(http(), "/register", url)
    assert (status, "expected http" in answer["error"]) == (400, True)


url_text = st.text(st.sampled_from("ahAH%2e2F7E./:?#[]@&=+~1 \u00e9\u3002"), max_size=20).map("http://".__add__)


@given(url_text)
def test_the_normal_form_of_a_url_is_its_own_normal_form(url: str) -> None:
    try:
        normal = Target.parse(url).normal_url
    except ValueError:
        return
    assert Target.parse(normal).normal_url == normal
    assert normal.isascii()
    assert json.loads(json.dumps(normal)) == normal
