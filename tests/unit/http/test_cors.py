"""emostream.http.cors: what the app and the streams tell browsers."""

from __future__ import annotations

import pytest

from emostream.http.cors import Cors
from emostream.http.messages import BUSY, Answer, Request

A, B = "https://a.example", "https://b.example"


@pytest.mark.parametrize(
    ("origins", "origin", "headers"),
    [
        ("*", A, {"access-control-allow-origin": "*"}),
        ("*", None, {"access-control-allow-origin": "*"}),
        (f"{A},{B}", B, {"access-control-allow-origin": B, "vary": "Origin"}),
        (f"{A},{B}", "https://c.example", {"vary": "Origin"}),
        (f"{A},{B}", "", {"vary": "Origin"}),
        ("", A, {}),
        ("", "", {}),
    ],
)
def test_a_page_of_a_listed_origin_may_read(origins: str, origin: str | None, headers: dict[str, str]) -> None:
    assert dict(Cors(origins).headers(origin)) == headers


def preflight(origins: str, **asked: str) -> dict[str, str]:
    header = {name.replace("_", "-"): value for name, value in asked.items()}.get
    return dict(Cors(origins).preflight(header, "POST", "Content-Type"))


TRACING = "sentry-trace, baggage,traceparent"


@pytest.mark.parametrize(
    ("origins", "origin", "asked", "allowed"),
    [
        ("*", A, TRACING, TRACING),
        (f"{A},{B}", B, TRACING, TRACING),
        (A, B, TRACING, "Content-Type"),
        ("", A, TRACING, "Content-Type"),
        ("*", A, "", "Content-Type"),
        ("*", A, "x" * 2_001, "Content-Type"),
        ("*", A, "a, b c", "Content-Type"),
        ("*", A, "a\r\nset-cookie: b", "Content-Type"),
        ("*", A, "*", "*"),
    ],
)
def test_a_page_of_a_listed_origin_may_send_any_headers_that_it_asks_for(
    origins: str, origin: str, asked: str, allowed: str
) -> None:
    found = preflight(origins, origin=origin, access_control_request_headers=asked)
    assert found["access-control-allow-headers"] == allowed
    assert found["access-control-allow-methods"] == "POST"


@pytest.mark.parametrize(("origins", "allowed"), [("*", "true"), (A, "true"), (B, None), ("", None)])
def test_a_page_of_a_listed_origin_may_call_into_a_private_network(origins: str, allowed: str | None) -> None:
    found = preflight(origins, origin=A, access_control_request_private_network="true")
    assert found.get("access-control-allow-private-network") == allowed
    assert "access-control-allow-private-network" not in preflight(origins, origin=A)


@pytest.mark.parametrize(("origins", "exposed"), [("*", True), (A, True), (B, False), ("", False)])
def test_a_script_of_a_listed_origin_may_read_when_to_try_again(origins: str, exposed: bool) -> None:
    request = Request({b"origin": A.encode()}, "")
    later = dict(Cors(origins).headed(BUSY, request).headers)
    assert ("access-control-expose-headers" in later) == exposed
    assert "access-control-expose-headers" not in dict(Cors(origins).headed(Answer(200, b""), request).headers)
