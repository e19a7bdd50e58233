"""emostream.http.cors: what the app and the streams tell browsers."""

from __future__ import annotations

import pytest

from emostream.http.cors import Cors

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
