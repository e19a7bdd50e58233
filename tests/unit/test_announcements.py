"""emostream.announcements: who is known, from what was read and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from emostream.announcements import ANNOUNCE_SECONDS, FORGET_SECONDS, Announcements, key_of
from emostream.roles import Place

ONE = Place(1, 1, "http://192.0.2.7:7001", "http://192.0.2.7:7101/stream")
OTHER = Place(2, 3, "http://192.0.2.8:7001", "/s/2-3/stream")


def record(place: Place, value: bytes | None = None, lives: bool = True) -> Any:
    return SimpleNamespace(key=key_of(place), value=(value or msgspec.json.encode(place)) if lives else None)


def polled(*records: Any) -> Any:
    return {"partition": list(records)}


def test_a_subscriber_is_where_it_said_last_until_it_says_that_it_stops() -> None:
    found = Announcements()
    moved = msgspec.structs.replace(ONE, url="http://192.0.2.9:7001")
    found.note(polled(record(ONE), record(OTHER)), now=100)
    assert found.now() == [ONE, OTHER]
    found.note(polled(record(ONE, msgspec.json.encode(moved))), now=101)
    assert set(found.now()) == {moved, OTHER}
    found.note(polled(record(ONE, lives=False)), now=102)
    assert found.now() == [OTHER]


@pytest.mark.parametrize(
    "value",
    [
        b"junk", b"\xff", b"[]", b'{"client_url":"http://h/"}',
        b'{"cluster":0,"subscriber":1,"url":"http://h:1","stream_url":"/s"}',
        b'{"cluster":1,"subscriber":1,"url":"ftp://h:1","stream_url":"/s"}',
        b'{"cluster":1,"subscriber":1,"url":"http://h:1","stream_url":"http://h; script-src *"}',
    ],
)  # fmt: skip
def test_what_cannot_be_an_announcement_is_none(value: bytes) -> None:
    found = Announcements()
    found.note(polled(record(ONE), record(ONE, value)), now=100)
    assert found.now() == []


def test_registrations_and_records_without_a_key_are_passed_over() -> None:
    found = Announcements()
    value = msgspec.json.encode(ONE)
    found.note(polled(*(SimpleNamespace(key=key, value=value) for key in (None, b"", b"cluster1-emoji-topic/1/u"))), 1)
    assert found.now() == []


def test_keys_that_a_later_version_adds_are_ignored() -> None:
    found = Announcements()
    found.note(polled(record(ONE, msgspec.json.encode(msgspec.to_builtins(ONE) | {"new": 1}))), now=100)
    assert found.now() == [ONE]


def test_who_says_nothing_while_others_do_is_forgotten() -> None:
    found, now = Announcements(), 100.0
    found.note(polled(record(ONE), record(OTHER)), now)
    for _ in range(int(FORGET_SECONDS / ANNOUNCE_SECONDS)):
        now += ANNOUNCE_SECONDS
        found.note(polled(record(OTHER)), now)
        assert set(found.now()) == {ONE, OTHER}
    found.note(polled(record(OTHER)), now + ANNOUNCE_SECONDS)
    assert found.now() == [OTHER]


def test_while_the_broker_is_away_and_when_it_is_back_nobody_is_forgotten() -> None:
    found = Announcements()
    found.note(polled(record(ONE), record(OTHER)), now=100)
    found.note({}, now=100 + 10 * FORGET_SECONDS)
    assert found.now() == [ONE, OTHER]
    found.note(polled(record(OTHER)), now=101 + 10 * FORGET_SECONDS)
    assert set(found.now()) == {ONE, OTHER}
