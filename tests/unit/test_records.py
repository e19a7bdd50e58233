"""emostream.records: what may come in, what is refused with which words, what goes out."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emostream.records import (
    CONTROL_CHARACTERS,
    MAX_TEXT_BYTES,
    Count,
    Event,
    InvalidRecord,
    encode,
    parse_count,
    parse_merged_request,
    record_key,
    room_of,
)
from emostream.records import parse_request as parse
from testkit.strategies import any_text, json_scalars, json_values
from tests.event_cases import EVENT_CASES, EventCase, compact, request_of

VALID = {"user_id": "u1", "emoji_type": "😊", "timestamp": "2026-01-31T20:15:00Z"}
TEXT_FIELDS = ["user_id", "emoji_type"]


def body(**changes: object) -> bytes:
    """A valid request with some fields changed, or taken out where they are `...`."""
    return json.dumps({k: v for k, v in (VALID | changes).items() if v is not ...}).encode()


valid_text = any_text.filter(
    lambda text: (
        text.strip() and len(text.encode()) <= MAX_TEXT_BYTES and not re.search(f"[{CONTROL_CHARACTERS}]", text)
    )
)
near_requests = st.fixed_dictionaries({name: json_scalars | st.just(value) for name, value in VALID.items()})
near_counts = st.fixed_dictionaries({"emoji": json_scalars | st.just("😊"), "count": json_scalars | st.just(3)})
any_bytes = st.binary() | st.builds(
    # allow_nan is on: NaN and Infinity are what other JSON writers send for those numbers.
    lambda value, ascii_only: json.dumps(value, ensure_ascii=ascii_only).encode(),
    json_values | near_requests | near_counts,
    st.booleans(),
)


@given(any_bytes)
@example(b"[" * 100_000)
@example(b'{"user_id":' * 50_000)
@example(b'{"user_id": "\xed\xa0\x80", "emoji_type": "x", "timestamp": "2026-01-01"}')
@example(b'{"emoji": "x", "count": ' + b"9" * 5000 + b"}")
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_either_parse_or_are_an_invalid_record(data: bytes) -> None:
    reasons = []
    for parser in (parse, parse_count):
        try:
            parser(data)
        except InvalidRecord as error:
            reasons.append(str(error))
    assert all("expected" in reason and reason.encode() for reason in reasons)


@pytest.mark.parametrize("case", EVENT_CASES, ids=lambda case: case.name)
def test_the_app_takes_the_events_of_the_table_and_refuses_the_rest(case: EventCase) -> None:
    for value in (case.value, compact(case.value)):
        if case.refusal:
            with pytest.raises(InvalidRecord, match=case.refusal):
                parse_merged_request(request_of(value))
        else:
            event = parse_merged_request(request_of(value))
            assert (event.room, event.emoji, event.count) == (case.room, case.emoji, case.taps)


@given(valid_text, valid_text)
def test_a_valid_request_becomes_the_event_of_the_contract(user_id: str, emoji: str) -> None:
    event = parse(body(user_id=user_id, emoji_type=emoji))
    expected = {"user_id": user_id, "emoji": emoji, "timestamp": "2026-01-31T20:15:00+00:00"}
    assert json.loads(encode(event)) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "expected a JSON object"),
        (b"\xff\xfe", "expected a JSON object"),
        (b"user_id=u1&emoji_type=x", "expected a JSON object"),
        (body() + b" x", "expected a JSON object"),
        (b"null", "expected a JSON object, got null"),
        (b"[]", "expected a JSON object, got array"),
        (b'"text"', "expected a JSON object, got str"),
        (b"{}", "expected the field user_id"),
        (b'{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
        (rb'{"user_id": "\ud83d", "emoji_type": "x", "timestamp": "2026-01-01"}', "surrogate"),
        (rb'{"user_id": "u", "emoji_type": "\ude0a\ud83d", "timestamp": "2026-01-01"}', "surrogate"),
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes, expected: str) -> None:
    with pytest.raises(InvalidRecord, match=expected):
        parse(data)


@pytest.mark.parametrize("place", ["value", "unread_key", "unread_value"])
def test_bytes_that_are_not_utf8_are_refused_wherever_they_are(place: str) -> None:
    data = {
        "value": body(user_id="@"),
        "unread_key": body(**{"@": 1}),
        "unread_value": body(more="@"),
    }[place].replace(b"@", b"\xff")
    with pytest.raises(InvalidRecord):
        parse(data)


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("value", [..., None, 5, True, ["x"], {"a": "x"}], ids=repr)
def test_a_field_that_is_missing_or_no_text_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidRecord, match=f"{name}.*got|{name}: expected str, got"):
        parse(body(**{name: value}))


@pytest.mark.parametrize("name", TEXT_FIELDS)
@pytest.mark.parametrize("text", ["", " ", "\u3000\u00a0"])
def test_blank_text_is_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidRecord, match=f"^{name}: expected a text that is not blank, got "):
        parse(body(**{name: text}))


@pytest.mark.parametrize("name", TEXT_FIELDS)
@pytest.mark.parametrize("text", ["a" * 64, "é" * 32, "😊" * 16])
def test_text_of_64_bytes_is_taken(name: str, text: str) -> None:
    assert text.encode() in encode(parse(body(**{name: text})))


@pytest.mark.parametrize("name", TEXT_FIELDS)
@pytest.mark.parametrize("text", ["a" * 65, "é" * 33, "😊" * 17])
def test_text_over_64_bytes_is_refused_with_its_size(name: str, text: str) -> None:
    with pytest.raises(InvalidRecord, match=f"^{name}: expected 1 to 64 bytes, got {len(text.encode())}"):
        parse(body(**{name: text}))


@given(st.sampled_from(TEXT_FIELDS), st.characters(categories=["Cc", "Zl", "Zp"]) | st.sampled_from("\u202e\u2066"))
def test_a_control_character_is_refused_by_its_number(name: str, character: str) -> None:
    with pytest.raises(InvalidRecord, match=rf"^{name}: expected no control characters, got U\+{ord(character):04X}"):
        parse(body(**{name: f"a{character}b"}))


@pytest.mark.parametrize("emoji", ["👩‍🚀", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️", "👍🏽", "🇮🇳", "1️⃣"])
def test_an_emoji_of_several_code_points_is_taken(emoji: str) -> None:
    assert parse(body(emoji_type=emoji)).emoji == emoji


@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)),
    st.none() | st.integers(-14 * 60, 14 * 60),
)
def test_a_timestamp_becomes_the_same_moment_in_utc(naive: datetime, offset_minutes: int | None) -> None:
    zone = timezone.utc if offset_minutes is None else timezone(timedelta(minutes=offset_minutes))
    written = naive if offset_minutes is None else naive.replace(tzinfo=zone)
    found = datetime.fromisoformat(parse(body(timestamp=written.isoformat())).timestamp)
    assert (found, found.utcoffset()) == (naive.replace(tzinfo=zone), timedelta(0))


@pytest.mark.parametrize(
    "timestamp",
    [
        "", "now", "1769890500", "2026-13-01T00:00:00Z", "2026-01-31T25:00:00Z", "2026-01-31T20:15:00+99:00",
        "2026-01-31T20:15:00Z\x00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "\x1b[31m", "x" * 10_000,
    ],
)  # fmt: skip
def test_a_timestamp_that_is_none_is_refused_in_printable_words(timestamp: str) -> None:
    with pytest.raises(InvalidRecord, match=r"^timestamp: expected ISO 8601") as refused:
        parse(body(timestamp=timestamp))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200


def test_keys_that_a_reader_does_not_know_are_ignored() -> None:
    assert parse_count(b'{"emoji": "x", "mood": {"a": [1, null]}, "count": 3, "events": "many"}') == Count("x", 3)


@given(valid_text, st.integers(1, 10**9))
def test_a_count_that_is_written_is_read_again(emoji: str, count: int) -> None:
    assert parse_count(encode(Count(emoji, count, events=1))) == Count(emoji, count, events=1)


@pytest.mark.parametrize("count", ["true", "0", "-1", "1.0", "1.5", "1e3", '"1"', "null", "[1]"])
def test_a_count_that_is_no_number_of_emojis_is_refused(count: str) -> None:
    with pytest.raises(InvalidRecord, match=r"^count: expected"):
        parse_count(f'{{"emoji": "x", "count": {count}}}'.encode())


@pytest.mark.parametrize("emoji", ["", "x" * 65, "\x1b[31m"])
def test_a_count_of_what_no_event_may_hold_is_refused(emoji: str) -> None:
    with pytest.raises(InvalidRecord, match=r"^emoji: expected"):
        parse_count(json.dumps({"emoji": emoji, "count": 1}).encode())


@pytest.mark.parametrize("value", [None, b"", b'{"count": 1}', b'{"emoji": "x"}'])
def test_a_record_that_is_no_count_is_refused(value: bytes | None) -> None:
    with pytest.raises(InvalidRecord, match="expected"):
        parse_count(value)


ROOMS = ["final", "a", "A-b_c.d~9", "r" * 64]
NO_ROOMS = [" ", "a b", "a/b", "r" * 65, "raum-ü", "a\n", "🏟️"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_stays_with_its_event_and_its_count(room: str) -> None:
    event = parse(body(room=room))
    assert json.loads(encode(event)) == {**json.loads(encode(parse(body()))), "room": room}
    assert parse_count(encode(Count("x", 3, room=room))) == Count("x", 3, room=room)


def test_the_default_room_leaves_no_trace() -> None:
    assert parse(body(room="")) == parse(body())
    assert encode(Event("u", "x", "t")) == b'{"user_id":"u","emoji":"x","timestamp":"t"}'
    assert encode(Count("x", 3)) == b'{"emoji":"x","count":3}'


@pytest.mark.parametrize("room", [*NO_ROOMS, None, 5, ["a"]], ids=repr)
def test_what_is_no_name_of_a_room_is_refused(room: object) -> None:
    with pytest.raises(InvalidRecord, match=r"room: expected .*, got"):
        parse(body(room=room))
    with pytest.raises(InvalidRecord, match=r"room: expected .*, got"):
        parse_count(json.dumps({"emoji": "x", "count": 3, "room": room}).encode())


@given(valid_text, st.sampled_from(["", *ROOMS]))
@example("a/b", "")
@example('"room"', "")
@example("a/b", "final")
def test_the_key_of_a_count_names_its_room(emoji: str, room: str) -> None:
    assert room_of(record_key(emoji, room), encode(Count(emoji, 1, room=room))) == room


@pytest.mark.parametrize("key", [None, b"", b"x", b"no room/x", b"\xff/x"], ids=repr)
def test_without_a_key_that_names_it_the_room_is_read_from_the_count(key: bytes | None) -> None:
    assert room_of(key, encode(Count("x", 1, room="final"))) == "final"
    assert room_of(key, encode(Count("x", 1))) == ""
