"""emostream.deliver.history: a window bounded by age and size, read by cursors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from emostream.deliver.history import History, Record
from emostream.records import Count


def records(*timestamps_ms: int, first_offset: int = 0) -> list[Record]:
    return [Record(0, first_offset + n, ms, b"%d" % ms, Count("x", 1)) for n, ms in enumerate(timestamps_ms)]


def test_a_record_is_forgotten_when_it_is_older_than_the_bound() -> None:
    history = History(max_age_seconds=1, max_records=10)
    history.append(records(1000, 1001), now_ms=2000)
    assert len(history.after(0, 10)[1]) == 2
    history.append([], now_ms=2001)
    assert [record.timestamp_ms for record in history.after(0, 10)[1]] == [1001]


def test_the_oldest_records_go_when_there_are_too_many() -> None:
    history = History(max_age_seconds=60, max_records=3)
    history.append(records(1, 2, 3, 4, 5), now_ms=5)
    first, found = history.after(0, 10)
    assert (first, [record.timestamp_ms for record in found]) == (2, [3, 4, 5])


append_steps = st.lists(
    st.tuples(st.integers(0, 500), st.lists(st.integers(-2000, 0), max_size=5)),  # ms later, ages of new records
    max_size=20,
)


@given(append_steps, st.integers(1, 8), st.integers(1, 4))
def test_every_cursor_sees_what_a_plain_list_would_show(
    steps: list[tuple[int, list[int]]], max_records: int, limit: int
) -> None:
    history = History(max_age_seconds=1, max_records=max_records)
    everything: list[Record] = []
    first, now_ms = 0, 10_000
    for later_ms, ages_ms in steps:
        now_ms += later_ms
        added = records(*(now_ms + age for age in ages_ms), first_offset=len(everything))
        history.append(added, now_ms)
        everything += added
        while first < len(everything) and (
            len(everything) - first > max_records or everything[first].timestamp_ms < now_ms - 1000
        ):
            first += 1
        assert history.end == len(everything)
        for cursor in range(len(everything) + 1):
            begin = max(cursor, first)
            assert history.after(cursor, limit) == (begin, everything[begin : begin + limit])


def test_every_listener_is_called_for_records_and_not_for_an_empty_append() -> None:
    history = History(max_age_seconds=60, max_records=10)
    told: list[int] = []
    for listener in range(2):
        history.on_append(lambda listener=listener: told.append(history.end + listener))  # type: ignore[misc]
    history.append(records(1), now_ms=1)
    history.append([], now_ms=2)
    assert told == [1, 2]


def test_records_dropped_for_lack_of_room_are_not_confused_with_old_ones() -> None:
    history = History(max_age_seconds=1, max_records=3)
    history.append(records(1, 2), now_ms=2000)
    assert (history.start, history.overflowed) == (2, 0)
    history.append(records(2000, 2000, 2000, 2000), now_ms=2000)
    assert (history.start, history.overflowed) == (3, 3)
