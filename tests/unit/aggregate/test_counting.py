"""Rows of a micro-batch → its CountedBatch, without Spark; and how many events make a count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import Row

from emostream.aggregate.counting import emoji_count, summarize
from testkit.settings import settings_with

Event = tuple["str | None", int]  # emoji or None where the record is no event, accepted_ms


def rows_of(events: list[Event]) -> list[Row]:
    """What Spark makes of events: one row per emoji."""
    groups: dict[str | None, list[int]] = {}
    for emoji, accepted_ms in events:
        groups.setdefault(emoji, []).append(accepted_ms)
    return [
        Row(emoji=emoji, events=len(found), first_accepted_ms=min(found), last_accepted_ms=max(found))
        for emoji, found in groups.items()
    ]


any_events = st.lists(st.tuples(st.sampled_from(["😊", "🔥", None]), st.integers(1, 10**13)))

any_emojis = st.lists(st.tuples(st.sampled_from([None, *"abcdef"]), st.integers(1, 10**13)))


@given(any_events, st.randoms(use_true_random=False), st.sampled_from(["ceil", "floor"]))
def test_a_batch_holds_every_event_once_whatever_the_order_of_its_rows(
    events: list[Event], random: object, rounding: str
) -> None:
    rows = rows_of(events)
    random.shuffle(rows)  # type: ignore[attr-defined]
    settings = settings_with(EVENTS_PER_EMOJI=2, ROUNDING=rounding)
    batch = summarize(rows, None, batch_id=7, batched_ms=99, settings=settings)

    of_emoji = {name: [ms for emoji, ms in events if emoji == name] for name, _ in events if name}
    expected = [
        (name, emoji_count(len(times), 2, rounding), len(times), 7, min(times), max(times), 99)
        for name, times in sorted(of_emoji.items())
    ]
    found = [
        (c.emoji, c.count, c.events, c.batch_id, c.first_accepted_ms, c.last_accepted_ms, c.batched_ms)
        for c in batch.counts
    ]
    assert found == expected
    assert batch.bad_records == sum(emoji is None for emoji, _ in events)
    assert {count.batch_emojis for count in batch.counts} <= {len(batch.counts)}
    assert (batch.cut_emojis, batch.cut_events) == (0, 0)


@given(any_emojis, st.integers(1, 4))
def test_the_emojis_with_most_events_are_published_and_the_rest_is_counted(events: list[Event], top: int) -> None:
    settings = settings_with(MAX_EMOJIS_PER_BATCH=top)
    rows = sorted(rows_of(events), key=lambda row: (row["emoji"] is not None, -row["events"], row["emoji"] or ""))
    good = [row for row in rows if row["emoji"] is not None]
    total = Row(emojis=len(good), events=sum(row["events"] for row in good))
    seen = rows[: top + 2]  # as `largest` leaves them
    batch = summarize(seen, total if len(good) > top else None, batch_id=1, batched_ms=1, settings=settings)

    assert {count.emoji for count in batch.counts} == {row["emoji"] for row in good[:top]}
    assert batch.cut_emojis == len(good[top:])
    assert batch.cut_events == sum(row["events"] for row in good[top:])
    assert batch.bad_records == sum(emoji is None for emoji, _ in events)


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
