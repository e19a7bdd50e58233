"""One event per micro-batch. Within a cluster, resuming neither repeats nor leaves out a record."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emostream.deliver.history import Record
from emostream.deliver.stream.micro_batches import WHOLE_WITHIN_SECONDS, MicroBatches, gap
from emostream.deliver.stream.resume import EventId
from emostream.records import parse_count

LONG_SECONDS = 3600.0


def batches(
    cluster: int = 1, max_age_seconds: float = LONG_SECONDS, max_records: int = 1000, before: int | None = None,
    partitions: int = 3,
) -> MicroBatches:  # fmt: skip
    """`before` is the micro-batch of the last record that partition 2 held before, if any."""
    known = {} if before is None else {2: before}
    return MicroBatches(
        cluster, dict.fromkeys(range(partitions), 0), known, max_age_seconds, max_records, lambda: 4.2
    )


def record(partition: int, offset: int, emoji: str = "x", timestamp_ms: int = 0, generation: int = 0, **more: Any) -> Record:  # fmt: skip # noqa: E501
    value = json.dumps({"emoji": emoji, "count": 1} | more).encode()
    return Record(partition, offset, timestamp_ms, value, parse_count(value), generation)


def parsed(wire: bytes) -> list[dict[str, Any]]:
    """The events in a stream's text: their data, with id and event."""
    found = []
    for block in wire.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append(json.loads(fields.pop("data")) | fields)
    return found


def test_the_records_of_a_micro_batch_are_one_event() -> None:
    ours = batches(before=6)
    times = {"first_accepted_ms": 10, "last_accepted_ms": 20, "batched_ms": 30}
    later = {"first_accepted_ms": 5, "last_accepted_ms": 25, "batched_ms": 30}
    whole = {"batch_id": 7, "batch_emojis": 2}
    fire = record(0, 3, "🔥", 31, events=3, **whole, **times)
    ours.add([fire, record(2, 0, "👏", 33, events=1001, **whole, **later)], 0)
    assert ours.close_due(0) is None
    [event] = parsed(ours.events(0, merge=False))
    assert event == {
        "id": "1-7-4.0.1", "batch_id": 7, "merged": 1,
        "counts": [{"emoji": "🔥", "count": 1, "events": 3}, {"emoji": "👏", "count": 1, "events": 1001}],
        "first_accepted_ms": 5, "last_accepted_ms": 25, "batched_ms": 30, "routed_ms": 33, "pushed_ms": 4200,
    }  # fmt: skip


def test_keys_that_the_records_lack_are_left_out() -> None:
    ours = batches()
    ours.add([record(0, 0)], 0)
    assert parsed(ours.events(0, merge=False)) == [
        {"id": "1--1.0.0", "counts": [{"emoji": "x", "count": 1}], "routed_ms": 0, "pushed_ms": 4200, "merged": 1}
    ]


@pytest.mark.parametrize("odd", [{"batch_id": "x"}, {"events": []}, {"batch_id": -1}, {"batched_ms": 1.5}])
def test_a_count_survives_wrong_values_of_its_optional_keys(odd: dict[str, Any]) -> None:
    ours = batches()
    ours.add([record(0, 0, **odd)], 0)
    ours.close_due(LONG_SECONDS)
    assert [event["counts"][0]["count"] for event in parsed(ours.events(0, merge=False))] == [1]


def test_a_micro_batch_of_known_size_waits_for_its_last_record_but_not_for_long() -> None:
    ours = batches(before=0)
    ours.add([record(0, 0, batch_id=1, batch_emojis=2)], 0)
    assert ours.close_due(0) == WHOLE_WITHIN_SECONDS
    ours.add([record(1, 0, batch_id=1, batch_emojis=2)], 0.05)
    assert (ours.close_due(0.05), ours.end) == (None, 1)
    ours.add([record(0, 1, batch_id=2, batch_emojis=2)], 1)
    assert (ours.close_due(1 + WHOLE_WITHIN_SECONDS), ours.end) == (None, 2)
    ours.add([record(1, 1, batch_id=2, batch_emojis=2)], 2)
    ours.close_due(2 + WHOLE_WITHIN_SECONDS)
    ids = ["1-1-1.1.0", "1-02-2.1.0", "1-2-2.2.0"]  # the 0 in 02 says that it is only a part of the micro-batch
    assert [event["id"] for event in parsed(ours.events(0, merge=False))] == ids


def test_a_merged_event_has_the_sums_per_emoji() -> None:
    ours = batches()
    for number in range(3):
        whole = {"batch_id": number, "batch_emojis": 2}
        ours.add([record(0, 2 * number, "🔥", events=10, **whole), record(0, 2 * number + 1, "👏", **whole)], 0)
        ours.close_due(0)
    [event] = parsed(ours.events(1, merge=True))
    assert (event["id"], event["merged"], event["counts"]) == (
        "1-2-6.0.0", 2, [{"emoji": "🔥", "count": 2, "events": 20}, {"emoji": "👏", "count": 2}],
    )  # fmt: skip
    assert len(parsed(ours.events(0, merge=False))) == 3


def test_the_recent_past_is_one_event_with_the_data_of_each_micro_batch_and_the_newest_id() -> None:
    ours = batches()
    assert parsed(ours.recent(60)) == [{"id": "1--0.0.0", "event": "recent", "pushed_ms": 4200, "batches": []}]
    ours.add([record(0, 0, "👏", 1000, batch_id=1)], 0)
    ours.close_due(1)
    ours.add([record(0, 1, "🔥", 2500, batch_id=2), record(1, 0, "🔥", 2500, batch_id=2)], 1)
    ours.add([record(0, 2, "👏", 3500, batch_id=3)], 1)
    ours.close_due(2)
    single = parsed(ours.events(0, merge=False))
    [event] = parsed(ours.recent(60))
    assert (event["id"], event["event"], event["pushed_ms"]) == (single[-1]["id"], "recent", 4200)
    assert [batch | {"id": one["id"]} for batch, one in zip(event["batches"], single, strict=True)] == single
    assert [batch["batch_id"] for batch in parsed(ours.recent(2))[0]["batches"]] == [2, 3]
    assert [batch["batch_id"] for batch in parsed(ours.recent(1))[0]["batches"]] == [3]


def test_old_micro_batches_are_forgotten_and_a_stream_that_has_not_got_them_is_told() -> None:
    ours = batches(max_age_seconds=1)
    ours.add([record(0, 0, timestamp_ms=1000)], 0)
    ours.add([record(0, 1, timestamp_ms=1500)], 0)
    ours.forget(2001)
    told, event = parsed(ours.events(0, merge=False))
    assert (told["event"], "slow" in told["reason"], event["id"]) == ("gap", True, "1--2.0.0")
    many = batches(max_records=2)
    many.add([record(0, 0)], 0)
    many.add([record(0, 1), record(0, 2)], 0)
    many.forget(0)
    assert many.first == 1


def test_in_another_cluster_a_stream_goes_on_by_batch_id() -> None:
    ours = batches(cluster=2)
    for number in range(4):
        ours.add([record(0, number, batch_id=number)], 0)
    ours.close_due(0)
    there = EventId(1, 1, (900, 900, 900))
    assert ours.why_gap(there) is None
    assert [event["batch_id"] for event in parsed(ours.rest(there))] == [2, 3]
    assert not ours.progress.is_before(there)
    assert ours.progress.is_before(EventId(1, 4, (0, 0, 0)))
    assert ours.why_gap(EventId(1, None, (0, 0, 0))) is not None


def test_a_gap_is_told_only_where_a_record_is_missing() -> None:
    ours = batches(max_age_seconds=1)
    ours.add([record(0, 0, batch_id=1, timestamp_ms=0), record(1, 5, batch_id=2, timestamp_ms=5000)], 0)
    ours.close_due(0)
    assert ours.why_gap(EventId(1, None, (0, 0, 0))) is None
    ours.forget(5000)
    assert ours.why_gap(EventId(1, None, (0, 0, 0))) is not None
    assert ours.why_gap(EventId(1, 1, (1, 0, 0))) is None
    assert ours.why_gap(EventId(2, 0, (1, 0, 0))) is not None
    assert ours.why_gap(EventId(2, 1, (1, 0, 0))) is None
    assert ours.why_gap(EventId(1, 1, (1, 0))) is None  # partition 2 is new to this stream, and begins with offset 0
    assert ours.why_gap(EventId(1, 1, (0, 0))) is not None


def test_a_stream_from_before_the_topic_got_more_partitions_gets_these_from_their_first_record() -> None:
    ours = batches(before=0)
    ours.add([record(0, 0, "a", batch_id=1, batch_emojis=1)], 0)
    ours.close_due(0)
    before = ours.progress.event_id()
    ours.add([record(5, 0, "b", batch_id=2, batch_emojis=2), record(4, 1, "c", batch_id=2, batch_emojis=2)], 1)
    ours.close_due(1)
    assert (str(before), str(ours.progress.event_id())) == ("1-1-1.0.0", "1-2-1.0.0.0.2.1")
    assert ours.why_gap(before) is None
    assert emojis(ours.rest(before)) == ["b", "c"]
    # A subscriber that does not know of the new partitions yet waits for what the stream has seen of them.
    assert not batches().progress.has(ours.progress.event_id())
    assert EventId.parse(str(ours.progress.event_id())) == ours.progress.event_id()


def test_the_id_of_a_topic_with_a_thousand_partitions_can_be_read() -> None:
    event_id = EventId(1, 5, tuple(range(10**9, 10**9 + 1000)))
    assert EventId.parse(str(event_id)) == event_id


def test_a_replaced_topic_starts_over_without_repeating_what_was_sent_of_the_old_one() -> None:
    ours = batches()
    ours.add([record(0, 40, "old", batch_id=9, batch_emojis=1)], 0)
    ours.close_due(0)
    ours.add([record(0, 0, "new", batch_id=1, batch_emojis=1, generation=1)], 1)
    ours.close_due(1)
    [event] = parsed(ours.events(1, merge=False))
    assert (event["id"], event["counts"][0]["emoji"]) == ("1-1-1.0.0", "new")
    assert parsed(ours.rest(EventId(1, 1, (0, 0, 0))))[0]["counts"][0]["emoji"] == "new"


def test_records_lost_before_they_came_here_are_a_gap_for_every_stream() -> None:
    ours = batches()
    ours.add([record(0, 0)], 0)
    ours.lose()
    ours.add([record(0, 10), record(0, 11, "y")], 0)
    assert [event.get("event") for event in parsed(ours.events(1, merge=False))] == ["gap", None]
    assert ours.why_gap(EventId(1, None, (1, 0, 0))) is not None
    assert ours.why_gap(EventId(1, None, (10, 0, 0))) is None
    assert emojis(ours.rest(EventId(1, None, (10, 0, 0)))) == ["x", "y"]


def test_a_reason_with_line_breaks_stays_one_field() -> None:
    assert gap('a\nb"').count(b"\n") == 3


# Several subscribers of a cluster read the same partitions, each in portions and moments of its own.
logs = st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=4), max_size=8)


@st.composite
def readings(draw: st.DrawFn) -> tuple[list[list[Record]], list[list[tuple[float, list[Record]]]]]:
    """The partitions of a topic, and two ways to read them: portions, each with the seconds since the one before."""
    partitions: list[list[Record]] = [[], [], []]
    batch_id = 0
    for batch in draw(logs):
        batch_id = draw(st.sampled_from([batch_id + 1, batch_id + 1, batch_id + 1, 0]))
        for partition, skipped in batch:
            log = partitions[partition]
            offset = (log[-1].offset + 1 if log else 0) + skipped  # markers take offsets, too
            emoji = f"{partition}/{offset}"
            log.append(record(partition, offset, emoji, batch_id=batch_id, batch_emojis=len(batch)))
    ways = []
    for _ in range(2):
        left = [list(log) for log in partitions]
        portions = []
        while any(left):
            log = draw(st.sampled_from([log for log in left if log]))
            size = draw(st.integers(1, len(log)))
            portions.append((draw(st.sampled_from([0.0, 0.05, 0.2])), log[:size]))
            del log[:size]
        ways.append(portions)
    return partitions, ways


def read(portions: list[tuple[float, list[Record]]], partitions: int) -> MicroBatches:
    """Read them all; the topic had so many partitions when the reading began, and got the others later."""
    ours, now = batches(partitions=partitions), 0.0
    for seconds, portion in portions:
        now += seconds
        ours.close_due(now)
        ours.add(portion, now)
        ours.close_due(now)
    ours.close_due(LONG_SECONDS)
    return ours


def emojis(wire: bytes) -> list[str]:
    return [count["emoji"] for event in parsed(wire) for count in event["counts"]]


@given(readings(), st.data())
def test_wherever_a_stream_is_cut_it_goes_on_in_its_cluster_with_exactly_what_it_has_not_got(
    found: tuple[list[list[Record]], list[list[tuple[float, list[Record]]]]], data: st.DataObject
) -> None:
    partitions, ways = found
    everything = Counter(f"{record.partition}/{record.offset}" for log in partitions for record in log)
    here, there = [read(way, data.draw(st.integers(1, 3))) for way in ways]
    assert Counter(emojis(here.events(0, merge=False))) == everything
    events = parsed(here.events(0, merge=False))
    got: list[str] = []
    for event in events[: data.draw(st.integers(0, len(events)))]:
        got += [count["emoji"] for count in event["counts"]]
        event_id = EventId.parse(event["id"])
        assert event_id
        for subscriber in (here, there):
            assert subscriber.why_gap(event_id) is None
            rest = subscriber.rest(event_id)
            assert Counter(got + emojis(rest)) == everything
            # And once more, from the middle of what came then.
            for again in parsed(rest)[:1]:
                middle = EventId.parse(again["id"])
                assert middle
                seen = got + [count["emoji"] for count in again["counts"]]
                assert Counter(seen + emojis(here.rest(middle))) == everything


def test_a_micro_batch_in_which_the_room_has_no_part_is_whole() -> None:
    ours = batches()
    ours.whole_until(6)
    assert str(ours.progress.event_id()) == "1-6-0.0.0"
    ours.add([record(0, 9, batch_id=7, batch_emojis=1)], 0)
    ours.close_due(0)
    assert str(ours.progress.event_id()) == "1-7-10.0.0"


def test_a_micro_batch_that_misses_a_record_or_is_still_open_is_not_whole() -> None:
    ours = batches()
    ours.add([record(0, 0, batch_id=3, batch_emojis=2)], 0)
    ours.close_due(1)
    ours.whole_until(9)
    assert [ours.progress.has(EventId(2, batch_id, ())) for batch_id in (2, 3)] == [True, False]
    assert str(ours.progress.event_id()) == "1-03-1.0.0"
    other = batches()
    other.add([record(0, 0, batch_id=5, batch_emojis=2)], 0)
    other.whole_until(9)
    assert [other.progress.has(EventId(2, batch_id, ())) for batch_id in (4, 5)] == [True, False]


def test_the_event_of_a_named_room_says_its_room() -> None:
    ours = batches()
    ours.add([record(0, 0, batch_id=3, batch_emojis=1, room="final")], 0)
    ours.close_due(0)
    assert [event["room"] for event in parsed(ours.events(0, merge=False))] == ["final"]
