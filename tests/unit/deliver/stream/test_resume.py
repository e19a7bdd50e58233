"""A stream goes on in another cluster after the last micro-batch it has seen; a gap says that a part was not seen."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emostream.deliver.history import Record
from emostream.deliver.stream.micro_batches import WHOLE_WITHIN_SECONDS, MicroBatches
from emostream.deliver.stream.resume import MAX_ID_CHARACTERS, EventId
from emostream.records import parse_count
from tests.unit.deliver.stream.test_micro_batches import LONG_SECONDS, batches, emojis, parsed, record

LARGEST = 10**18 - 1
OLD_LONGER_ID = "1-7-6.10.0-7.2_7.1_"


@pytest.mark.parametrize("text", ["", "x", "1", "1-2", "0-1-1.1.1", "1-x-1.1.1", "1-1-1..1", "1-1--1", "1-1-1.1.1 ", "1-1-" + "9" * 300, "１-1-1", "1-１-1", "1-1-1.1.1-", "1-1-1-x", OLD_LONGER_ID])  # fmt: skip # noqa: E501
def test_text_that_is_not_an_id_of_ours_is_none(text: str) -> None:
    assert EventId.parse(text) is None


numbers = st.integers(0, LARGEST)


@given(st.integers(1, 99), st.none() | numbers, st.lists(numbers, min_size=1, max_size=9), st.booleans())
def test_the_text_of_an_id_is_parsed_to_the_same_id_and_is_not_too_long(
    cluster: int, batch_id: int | None, offsets: list[int], partial: bool
) -> None:
    event_id = EventId(cluster, batch_id, tuple(offsets), partial and batch_id is not None)
    assert EventId.parse(str(event_id)) == event_id
    assert len(str(event_id)) <= MAX_ID_CHARACTERS


def part(ours: MicroBatches, now: float, *records: Record) -> None:
    """Records that come together, and nothing else for a while."""
    ours.add(list(records), now)
    ours.close_due(now + WHOLE_WITHIN_SECONDS)


def id_of_last(ours: MicroBatches) -> EventId:
    event_id = EventId.parse(parsed(ours.events(0, merge=False))[-1]["id"])
    assert event_id
    return event_id


def test_a_stream_that_has_seen_a_whole_micro_batch_goes_on_after_it_in_another_cluster() -> None:
    first, second = batches(cluster=1, before=6), batches(cluster=2, before=6)
    whole = {"batch_id": 7, "batch_emojis": 2}
    part(first, 0, record(0, 5, "a", **whole), record(1, 9, "b", **whole))
    seen = id_of_last(first)
    assert str(seen) == "1-7-6.10.0"
    part(second, 0, record(0, 0, "a", **whole), record(1, 0, "b", **whole))
    part(second, 1, record(0, 1, "c", batch_id=8, batch_emojis=1))
    assert second.why_gap(seen) is None
    assert emojis(second.rest(seen)) == ["c"]


def test_a_stream_that_has_seen_a_part_of_a_micro_batch_is_told_of_a_gap_and_goes_on_after_it() -> None:
    first, second = batches(cluster=1, before=6), batches(cluster=2, before=6)
    whole = {"batch_id": 7, "batch_emojis": 3}
    part(first, 0, record(0, 5, "a", **whole), record(2, 9, "b", **whole))
    seen = id_of_last(first)
    assert str(seen) == "1-07-6.0.10"
    part(second, 0, record(0, 0, "a", **whole), record(1, 0, "c", **whole), record(2, 0, "b", **whole))
    part(second, 1, record(0, 1, "d", batch_id=8, batch_emojis=1))
    assert "a part of its last micro-batch" in (second.why_gap(seen) or "")
    assert emojis(second.rest(seen)) == ["d"]


def test_a_part_that_is_missing_of_an_earlier_micro_batch_is_a_gap_in_another_cluster_until_it_has_come() -> None:
    first, second = batches(cluster=1, before=6), batches(cluster=2, before=6)
    seven, eight = {"batch_id": 7, "batch_emojis": 2}, {"batch_id": 8, "batch_emojis": 1}
    part(first, 0, record(0, 0, "a", **seven))
    part(first, 1, record(0, 1, "c", **eight))
    assert str(id_of_last(first)) == "1-08-2.0.0"
    assert second.why_gap(id_of_last(first))
    part(first, 2, record(1, 0, "b", **seven))
    assert str(id_of_last(first)) == "1-8-2.1.0"
    assert second.why_gap(id_of_last(first)) is None


def test_the_late_part_of_a_micro_batch_that_was_seen_whole_does_not_come_again_from_another_cluster() -> None:
    first, second = batches(cluster=1, before=6), batches(cluster=2, before=6)
    whole = {"batch_id": 7, "batch_emojis": 2}
    part(first, 0, record(0, 5, "a", **whole), record(1, 9, "b", **whole))
    seen = id_of_last(first)
    part(second, 0, record(0, 0, "a", **whole))
    assert not second.progress.has(seen)
    assert not second.progress.is_before(seen)  # nothing says that the rest will not come
    part(second, 1, record(1, 0, "b", **whole))
    part(second, 2, record(0, 1, "c", batch_id=8, batch_emojis=1))
    assert second.progress.has(seen)
    assert emojis(second.rest(seen)) == ["c"]


def test_a_stream_that_began_before_the_first_record_is_told_of_a_gap_in_another_cluster() -> None:
    ours = batches(cluster=2)
    assert ours.why_gap(batches(cluster=1).progress.event_id())
    assert batches(cluster=1).why_gap(batches(cluster=1).progress.event_id()) is None


def test_where_a_topic_has_been_quiet_a_stream_of_another_cluster_is_not_told_of_a_gap() -> None:
    restarted = MicroBatches(2, {0: 5, 1: 6, 2: 7}, {0: 40, 1: 38}, LONG_SECONDS, 1000)
    seen = EventId(1, 40, (1, 2, 3))
    assert restarted.progress.has(seen)
    assert restarted.why_gap(seen) is None
    assert restarted.rest(seen) == b""
    assert str(restarted.progress.event_id()) == "2-40-5.6.7"
    assert restarted.why_gap(EventId(1, 39, (1, 2, 3))) is not None
    assert restarted.progress.is_before(EventId(1, 41, (1, 2, 3)))


def test_a_micro_batch_that_never_comes_whole_is_waited_for_only_as_long_as_it_is_kept() -> None:
    ours = batches(max_age_seconds=1)
    part(ours, 0, record(0, 0, batch_id=1, batch_emojis=2, timestamp_ms=0))
    part(ours, 1, record(0, 1, batch_id=2, batch_emojis=1, timestamp_ms=5000))
    assert str(ours.progress.event_id()) == "1-02-2.0.0"
    ours.forget(5000)
    assert str(ours.progress.event_id()) == "1-2-2.0.0"


def test_records_without_a_batch_id_stay_in_their_order_among_the_others() -> None:
    ours = batches()
    ours.add([record(0, 0, "a"), record(0, 1, "b", batch_id=1, batch_emojis=1), record(0, 2, "c")], 0)
    ours.close_due(0)
    events = parsed(ours.events(0, merge=False))
    assert [count["emoji"] for event in events for count in event["counts"]] == ["a", "b", "c"]
    for number, event in enumerate(events, 1):
        event_id = EventId.parse(event["id"])
        assert event_id
        assert emojis(ours.rest(event_id)) == ["a", "b", "c"][number:]


# --- a stream that is cut anywhere and goes on in any cluster ---


@dataclass
class Subscriber:
    """A subscriber that has read a part of its topic, and reads on when it is told to."""

    batches: MicroBatches
    portions: list[tuple[float, list[Record]]]  # not read yet, each with the seconds since the one before
    now: float = 0.0

    def read_portion(self) -> None:
        seconds, records = self.portions.pop(0)
        self.now += seconds
        self.batches.close_due(self.now)
        self.batches.add(records, self.now)
        self.batches.close_due(self.now)
        if not self.portions:
            self.batches.close_due(LONG_SECONDS)


@dataclass
class Viewer:
    """Someone who watches one subscriber after another."""

    got: list[str] = field(default_factory=list)
    event_id: EventId | None = None
    gap_up_to: int = -1  # the newest micro-batch of which a gap event has said that something may be missing

    def take(self, event: dict[str, Any]) -> None:
        self.got += [count["emoji"] for count in event["counts"]]
        self.event_id = EventId.parse(event["id"])
        assert self.event_id

    def come_to(self, subscriber: Subscriber) -> list[dict[str, Any]]:
        """The events that there are once all that was seen has come there, as the stream server sends them."""
        if self.event_id is None:
            return parsed(subscriber.batches.events(0, merge=False))
        if subscriber.batches.why_gap(self.event_id):
            assert self.event_id.partial
            assert self.event_id.batch_id is not None
            self.gap_up_to = max(self.gap_up_to, self.event_id.batch_id)
        while subscriber.portions and not subscriber.batches.progress.has(self.event_id):
            subscriber.read_portion()
        assert not subscriber.batches.progress.is_before(self.event_id)
        return parsed(subscriber.batches.rest(self.event_id))


@st.composite
def systems(draw: st.DrawFn) -> tuple[Counter[str], list[Subscriber]]:
    """One log of micro-batches, and subscribers of several clusters that read it, each in its own portions."""
    logs: list[list[dict[str, Any]]] = [[], [], []]
    batch_id = 0
    for where in draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), max_size=6)):
        batch_id += draw(st.sampled_from([1, 1, 1, 2]))  # one with bad records only leaves out a number
        size = draw(st.sampled_from([{"batch_emojis": len(where)}] * 4 + [{}, {"batch_emojis": len(where) + 1}]))
        for partition in where:
            value = {"emoji": f"{batch_id}/{partition}/{len(logs[partition])}", "count": 1, "batch_id": batch_id} | size
            logs[partition].append(value)
    everything = Counter(value["emoji"] for log in logs for value in log)
    subscribers = []
    for cluster in (1, 1, 2, 3):
        left = []
        for partition, log in enumerate(logs):
            offset, records = 0, []
            for value in log:
                if cluster != 1:  # markers of transactions take offsets, and fall differently in each cluster
                    offset += draw(st.integers(0, 2))
                data = json.dumps(value).encode()
                records.append(Record(partition, offset, 0, data, parse_count(data)))
                offset += 1
            left.append(records)
        portions = []
        while any(left):
            log_left = draw(st.sampled_from([records for records in left if records]))
            size_read = draw(st.integers(1, len(log_left)))
            portions.append((draw(st.sampled_from([0.0, 0.05, 0.2])), log_left[:size_read]))
            del log_left[:size_read]
        subscriber = Subscriber(batches(cluster, partitions=draw(st.integers(1, 3))), portions)
        for _ in range(draw(st.integers(0, len(portions)))):
            subscriber.read_portion()
        subscribers.append(subscriber)
    return everything, subscribers


@settings(max_examples=200)
@given(systems(), st.data())
def test_nothing_is_seen_twice_nor_missed_without_a_gap_wherever_a_stream_is_cut_and_goes_on(
    system: tuple[Counter[str], list[Subscriber]], data: st.DataObject
) -> None:
    everything, subscribers = system
    viewer = Viewer()
    for _ in range(data.draw(st.integers(0, 5))):
        events = viewer.come_to(data.draw(st.sampled_from(subscribers)))
        for event in events[: data.draw(st.integers(0, len(events)))]:
            viewer.take(event)
    last = data.draw(st.sampled_from(subscribers))
    while last.portions:
        last.read_portion()
    for event in viewer.come_to(last):
        viewer.take(event)
    assert not Counter(viewer.got) - everything
    missed = everything - Counter(viewer.got)
    assert all(int(emoji.partition("/")[0]) <= viewer.gap_up_to for emoji in missed)
