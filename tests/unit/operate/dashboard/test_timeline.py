"""emostream.operate.dashboard.timeline: the counts of the last 30 minutes, in buckets for the chart."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from emostream.operate.dashboard import timeline
from emostream.operate.dashboard.counts_reader import TopicUnreadable
from emostream.operate.dashboard.timeline import BUCKETS, Timeline, view
from testkit.settings import settings_with
from tests.unit.operate.dashboard.conftest import NOW_MS, unreadable


def test_buckets_hold_the_most_frequent_emojis_and_the_sum_of_all_others() -> None:
    emojis = "🔥😊😂👏😍🎉🦕🐳"
    buckets = {100: Counter({emoji: 80 - 10 * n for n, emoji in enumerate(emojis)}), 101: Counter({"😊": 1000})}
    found = view(buckets, 100 - BUCKETS + 2)
    assert [one.emoji for one in found.emojis] == list("😊🔥😂👏😍🎉")
    assert [one.events[-2:] for one in found.emojis[:2]] == [[70, 1000], [80, 0]]
    assert (found.others[-2:], found.other_emojis) == ([20 + 10, 0], 2)
    assert found.first_ms == (102 - BUCKETS) * 10_000
    assert all(len(one.events) == BUCKETS for one in found.emojis)


@pytest.mark.usefixtures("topic")
def test_a_bucket_is_shown_when_it_is_complete_and_without_events_the_count_stands_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW_MS / 1000)
    found = Timeline(settings_with()).now()
    assert found.first_ms + BUCKETS * 10_000 == NOW_MS - 10_000  # more counts may still arrive in the last one
    assert found.emojis == []
    monkeypatch.setattr(time, "time", lambda: NOW_MS / 1000 + 3.6)
    found = Timeline(settings_with()).now()
    assert {one.emoji: one.events[-1] for one in found.emojis} == {
        "🔥": 6000, "👏": 3, "😊": 1, '=HYPERLINK("http://x",1)': 1,
    }  # fmt: skip


@pytest.mark.usefixtures("topic")
def test_a_room_has_a_timeline_of_its_own_and_all_rooms_are_listed_with_their_last_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW_MS / 1000 + 3.6)
    shown = {room: {one.emoji: one.events[-1] for one in Timeline(settings_with(), room).now().emojis}
             for room in ("", "final", "other")}  # fmt: skip
    assert shown[""]["🔥"] == 1500
    assert (shown["final"], shown["other"]) == ({"🔥": 4500}, {})
    everything = Timeline(settings_with())
    assert [(one.room, one.events) for one in everything.rooms().rooms] == [("final", 4500), ("", 1505)]
    monkeypatch.setattr(time, "time", lambda: NOW_MS / 1000 + 80)
    assert Timeline(settings_with()).rooms().rooms == []


def test_only_the_busiest_rooms_are_listed_because_anybody_may_make_one_up() -> None:
    found = timeline.rooms_view([Counter({f"room-{n}": 1000 - n for n in range(102)}), Counter({"room-101": 200})])
    assert (len(found.rooms), found.others, found.other_rooms) == (100, 901 + 900, 2)
    assert found.rooms[0] == timeline.RoomEvents("room-101", 1099)


@pytest.mark.usefixtures("topic")
def test_whoever_looks_again_soon_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Timeline(settings_with())
    first = one.now()
    monkeypatch.setattr(timeline, "read_counts", unreadable)
    assert one.now() is first


@pytest.mark.usefixtures("topic")
def test_whoever_looks_later_reads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "TIMELINE_SECONDS", 0.0)
    one = Timeline(settings_with())
    one.now()
    monkeypatch.setattr(timeline, "read_counts", unreadable)
    with pytest.raises(TopicUnreadable):
        one.now()


@pytest.mark.usefixtures("topic")
def test_made_up_emojis_do_not_fill_the_memory_and_count_among_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_BUCKET_EMOJIS", 2)
    monkeypatch.setattr(time, "time", lambda: NOW_MS / 1000 + 3.6)
    found = Timeline(settings_with()).now()
    assert len(found.emojis) == 2
    assert sum(one.events[-1] for one in found.emojis) + found.others[-1] == 6000 + 3 + 1 + 1
