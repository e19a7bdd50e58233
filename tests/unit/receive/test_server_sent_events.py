"""emostream.receive.stream_reader: bytes → lines → events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emostream.receive import stream_reader
from emostream.receive.stream_reader import LineTooLong, ServerSentEvent, parse_events, split_lines


def parsed(text: str, last_event_id: str = "") -> list[tuple[str, str, str]]:
    found = parse_events(split_lines([text.encode()]), last_event_id)
    return [(event.type, event.data, event.last_event_id) for event in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("retry: 1000\nid: 7\ndata: x\n\n", [("message", "x", "7")]),
        ("id: 7\n\ndata: x\n\n", [("message", "", "7"), ("message", "x", "7")]),
        (":\n\ndata: x\n\n", [("message", "x", "")]),
        ("event: gap\ndata: x\n\ndata:y\n\n", [("gap", "x", ""), ("message", "y", "")]),
        ("data: a\ndata: b\n\n", [("message", "a\nb", "")]),
        ("data: x\r\n\r\n", [("message", "x", "")]),
        ("data: x\n", []),
        ("data: x", []),
        ("id: 1\0\ndata: x\n\n", [("message", "x", "")]),
    ],
)
def test_events_are_what_the_standard_says(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert parsed(text) == expected


def test_an_id_holds_until_there_is_another() -> None:
    assert parsed("event: gap\ndata: x\n\nid: 8\ndata: y\n\n", "7") == [("gap", "x", "7"), ("message", "y", "8")]


@given(st.lists(st.binary(max_size=30)))
def test_no_bytes_make_the_parser_fail(lines: list[bytes]) -> None:
    assert all(isinstance(event, ServerSentEvent) for event in parse_events(lines))


@given(st.lists(st.binary(max_size=10)))
def test_lines_are_the_same_however_the_bytes_arrive(chunks: list[bytes]) -> None:
    assert list(split_lines(chunks)) == list(split_lines([b"".join(chunks)]))


def test_a_line_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_reader, "MAX_LINE_BYTES", 10)
    lines = split_lines([b"data: x\n", b"0123456789", b"0"])
    assert next(lines) == b"data: x"
    with pytest.raises(LineTooLong):
        next(lines)
