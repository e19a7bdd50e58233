"""Rows of a micro-batch → its CountedBatch, without Spark; and how many events make a count."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import Row

from emostream.aggregate.counting import emoji_count, summarize
from emostream.records import Count
from testkit.settings import settings_with

Event = tuple["str | None", str, int]  # room, None if the record is not an event; emoji, accepted_ms


def rows_of(events: list[Event]) -> list[Row]:
    """What Spark makes of events: one row per room and emoji."""
    groups: dict[tuple[str | None, str | None], list[int]] = {}
    for room, emoji, accepted_ms in events:
        groups.setdefault((room, None if room is None else emoji), []).append(accepted_ms)
    return [
        Row(
            room=room, emoji=emoji, events=len(times), capped=0,
            first_accepted_ms=min(times), last_accepted_ms=max(times),
        )
        for (room, emoji), times in groups.items()
    ]


any_room = st.sampled_from([None, "", "final", "semi"])
any_events = st.lists(st.tuples(any_room, st.sampled_from("abcdef"), st.integers(1, 10**13)))


@given(any_events, st.randoms(use_true_random=False), st.sampled_from(["ceil", "floor"]))
def test_a_batch_holds_every_event_once_whatever_the_order_of_its_rows(
    events: list[Event], random: object, rounding: str
) -> None:
    rows = rows_of(events)
    random.shuffle(rows)  # type: ignore[attr-defined]
    settings = settings_with(EVENTS_PER_EMOJI=2, ROUNDING=rounding)
    batch = summarize(rows, None, batch_id=7, batched_ms=99, settings=settings)

    groups: dict[tuple[str, str], list[int]] = {}
    for room, emoji, accepted_ms in events:
        if room is not None:
            groups.setdefault((room, emoji), []).append(accepted_ms)
    in_room = Counter(room for room, _ in groups)
    assert batch.counts == [
        Count(emoji, emoji_count(len(ms), 2, rounding), len(ms), 7, in_room[room], min(ms), max(ms), 99, room)
        for (room, emoji), ms in sorted(groups.items())
    ]
    assert batch.bad_records == sum(room is None for room, _, _ in events)
    assert batch.by_room == Counter(room for room, _, _ in events if room is not None)
    assert (batch.cut_rooms, batch.cut_emojis, batch.cut_events) == (0, 0, 0)


@given(any_events, st.integers(1, 3), st.integers(1, 4))
def test_the_largest_emojis_of_the_largest_rooms_are_published_and_the_rest_is_counted(
    events: list[Event], rooms: int, emojis: int
) -> None:
    settings = settings_with(MAX_ROOMS_PER_BATCH=rooms, MAX_EMOJIS_PER_BATCH=emojis)
    batch = summarize(rows_of(events), None, batch_id=1, batched_ms=1, settings=settings)

    good = Counter((room, emoji) for room, emoji, _ in events if room is not None)
    of_room = Counter(room for room, _, _ in events if room is not None)
    kept_rooms = sorted(of_room, key=lambda room: (-of_room[room], room))[:rooms]
    kept = {
        (room, emoji)
        for room in kept_rooms
        for emoji in sorted((e for r, e in good if r == room), key=lambda emoji: (-good[room, emoji], emoji))[:emojis]
    }
    assert [(count.room, count.emoji) for count in batch.counts] == sorted(kept)
    assert batch.cut_rooms == len(of_room) - len(kept_rooms)
    assert batch.cut_emojis == len(good) - len(kept)
    assert batch.cut_events == sum(good.values()) - batch.events


def test_what_spark_has_cut_already_is_counted_with_its_totals() -> None:
    rows = rows_of([("", "a", 1), ("final", "a", 1), ("final", "a", 1), (None, "", 1)])
    totals = Row(rooms=7, emojis=10, events=100, capped=5)
    batch = summarize(rows, totals, batch_id=1, batched_ms=1, settings=settings_with(MAX_ROOMS_PER_BATCH=1))
    assert [(count.room, count.events, count.batch_emojis) for count in batch.counts] == [("", 1, 1), ("final", 2, 1)]
    assert (batch.cut_rooms, batch.cut_emojis, batch.cut_events) == (5, 8, 97)
    assert (batch.capped_events, batch.bad_records) == (5, 1)


@pytest.mark.parametrize(
    ("events", "ceil", "floor"),
    [
        (1, 1, 1),
        (999, 1, 1),
        (1000, 1, 1),
        (1001, 2, 1),
        (1999, 2, 1),
        (2000, 2, 2),
        (3785, 4, 3),
        (10**9, 10**6, 10**6),
    ],
)
def test_a_count_is_what_the_contract_says(events: int, ceil: int, floor: int) -> None:
    assert (emoji_count(events, 1000, "ceil"), emoji_count(events, 1000, "floor")) == (ceil, floor)


@given(st.integers(1, 10**18), st.integers(1, 10**6))
def test_a_count_is_at_least_1_and_within_one_of_the_exact_share(events: int, events_per_emoji: int) -> None:
    up = emoji_count(events, events_per_emoji, "ceil")
    down = emoji_count(events, events_per_emoji, "floor")
    assert (up - 1) * events_per_emoji < events <= up * events_per_emoji
    assert down == 1 or down * events_per_emoji <= events < (down + 1) * events_per_emoji
    assert min(up, down) >= 1
