"""emostream.deliver.rooms: which records a room has, what is decoded, and what is remembered of a closed room."""

from __future__ import annotations

import time

import pytest

from emostream.deliver import rooms as module
from emostream.deliver.history import Record
from emostream.deliver.rooms import DEFAULT_ROOM, Room, Rooms
from emostream.metrics.catalogue import DELIVER
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.records import Count, parse_count
from testkit.consumed import consumed

LOG = Log("test")


def make(max_age_seconds: float = 60, max_records: int = 10_000) -> Rooms:
    found = Rooms(max_age_seconds, max_records, Metrics(LOG, DELIVER), LOG)
    found.begin({0: 0, 1: 0}, {})
    return found


def records(room: Room) -> list[Record]:
    return room.history.after(0, 100_000)[1]


def emojis(room: Room) -> list[str]:
    return [record.count.emoji for record in records(room)]


def count(emoji: str, room: str = "", batch_id: int = 1) -> Count:
    return Count(emoji, 1, batch_id=batch_id, room=room)


def test_each_room_has_its_own_records() -> None:
    rooms = make()
    final, default = rooms.open("final"), rooms.open(DEFAULT_ROOM)
    counts = count("x", "final"), count("a/b"), count("y", "semi")
    assert rooms.append([consumed(one, offset=n) for n, one in enumerate(counts)], caught_up=True) == 3
    assert (emojis(final), emojis(default)) == (["x"], ["a/b"])


def test_a_room_that_somebody_opens_later_has_all_that_is_kept_of_it() -> None:
    rooms = make()
    always = rooms.open("final")
    rooms.append([consumed(count(emoji, "final"), offset=n) for n, emoji in enumerate("abc")], caught_up=True)
    rooms.close("final")
    rooms.append([consumed(count("d", "final"), offset=3)], caught_up=True)
    again = rooms.open("final")
    assert again is not always
    assert emojis(again) == ["a", "b", "c", "d"]


def test_records_that_nobody_listens_to_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def parse(value: bytes) -> Count:
        decoded.append(value)
        return parse_count(value)

    monkeypatch.setattr(module, "parse_count", parse)
    rooms = make()
    rooms.open("final")
    for batch in range(10):
        named = [consumed(count("x", f"room{n}", batch), offset=100 * batch + n) for n in range(100)]
        rooms.append([consumed(count("x", "final", batch), offset=100 * batch), *named], caught_up=True)
    assert len(decoded) == 10 * 2  # that of the room, and the last one, whose batch id is needed


def test_a_bad_record_of_a_room_is_skipped_when_the_room_is_opened() -> None:
    rooms = make()
    bad = consumed(count("x", "final"), offset=0, value=b'{"emoji": "x", "room": "final"}')
    assert rooms.append([bad, consumed(count("y", "final"), offset=1)], caught_up=True) == 2
    assert emojis(rooms.open("final")) == ["y"]
    rooms.close("final")


def test_a_bad_record_without_a_room_is_skipped_at_once() -> None:
    rooms = make()
    bad = consumed(count("x"), key=None, value=b'{"room"')
    assert rooms.append([bad, consumed(count("y"), offset=1)], caught_up=True) == 1
    assert emojis(rooms.open(DEFAULT_ROOM)) == ["y"]


def test_waiting_records_are_bounded_by_number_and_age() -> None:
    rooms = make(max_records=10)
    rooms.append([consumed(count(str(n), "final"), offset=n) for n in range(25)], caught_up=True)
    assert emojis(rooms.open("final")) == [str(n) for n in range(15, 25)]
    old_ms = round(time.time() * 1000) - 61_000
    aged = make()
    aged.append([consumed(count("old", "final"), timestamp_ms=old_ms)], caught_up=True)
    assert emojis(aged.open("final")) == []


def test_a_room_knows_where_its_forgotten_records_ended_and_is_not_disturbed_by_other_rooms() -> None:
    old_ms = round(time.time() * 1000) - 61_000
    rooms = make()
    of_final, of_semi = count("x", "final", 7), count("x", "semi", 9)
    rooms.append([consumed(of_final, 1, 40, old_ms), consumed(of_semi, 0, 90, old_ms)], caught_up=True)
    final, quiet = rooms.open("final"), rooms.open("quiet")
    assert (final.starts, final.before) == ({0: 0, 1: 41}, {1: 7})
    assert (quiet.starts, quiet.before) == ({0: 0, 1: 0}, {})


def test_made_up_rooms_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 100)
    old_ms = round(time.time() * 1000) - 61_000
    rooms = make()
    rooms.append([consumed(count("x", f"r{n}", n + 1), 0, n, old_ms) for n in range(1_000)], caught_up=True)
    assert len(rooms._forgotten) == 100
    # A room that is not remembered may have lost what the forgotten ones had.
    assert (rooms.open("r5").starts, rooms.open("r5").before) == ({0: 900, 1: 0}, {0: 900})
    assert rooms.open("r999").starts == {0: 1_000, 1: 0}


def test_micro_batches_are_whole_up_to_the_one_before_the_newest() -> None:
    rooms = make()
    rooms.append([consumed(count("x", "a", 5)), consumed(count("y", "b", 6), 1)], caught_up=True)
    assert rooms.whole_until == 5
    rooms.append([], caught_up=True)
    assert rooms.whole_until == 5
    rooms.append([consumed(count("x", "a", 7), offset=1)], caught_up=False)
    assert rooms.whole_until is None


def test_a_topic_that_was_replaced_begins_with_nothing() -> None:
    rooms = make()
    rooms.append([consumed(count("old", "final"), offset=50)], caught_up=True)
    rooms.start_over(1, [0, 1, 2])
    rooms.append([consumed(count("new", "final"), offset=0)], caught_up=True)
    final = rooms.open("final")
    assert [(record.count.emoji, record.generation) for record in records(final)] == [("new", 1)]
    assert final.starts == {0: 0, 1: 0, 2: 0}


def test_listeners_hear_of_every_room() -> None:
    heard: list[str] = []
    rooms = make()
    rooms.on_append(lambda: heard.append("!"))
    rooms.open("final")
    rooms.append([consumed(count("x", "final"))], caught_up=True)
    rooms.append([consumed(count("x"))], caught_up=True)
    rooms.append([consumed(count("x", "semi"))], caught_up=True)
    assert len(heard) == 2
