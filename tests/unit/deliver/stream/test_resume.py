"""A stream resumes in any cluster, wherever it was cut, with exactly what it has not got."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emostream.deliver.history import Record
from emostream.deliver.stream.micro_batches import WHOLE_WITHIN_SECONDS, Batches
from emostream.deliver.stream.resume import MAX_ID_CHARACTERS, Place, Reached
from tests.unit.deliver.stream.test_micro_batches import LONG_SECONDS, batches, emojis, parsed, record

LARGEST = 10**18 - 1


@pytest.mark.parametrize("text", ["", "x", "1", "1-2", "0-1-1.1.1", "1-x-1.1.1", "1-1-1..1", "1-1--1", "1-1-1.1.1 ", "1-1-" + "9" * 300, "１-1-1", "1-1-1.1.1-", "1-1-1.1.1-_", "1-1-1.1-1_1", "1-1-1-1.1.1", "1-1-1-x"])  # fmt: skip # noqa: E501
def test_what_is_no_id_of_ours_is_none(text: str) -> None:
    assert Place.parse(text) is None


@given(st.integers(1, 9), st.none() | st.integers(0, 10**17), st.lists(st.integers(0, 10**17), min_size=1, max_size=9))
def test_an_id_names_its_place(cluster: int, batch_id: int | None, offsets: list[int]) -> None:
    place = Place(cluster, batch_id, tuple(offsets))
    assert Place.parse(str(place)) == place


numbers = st.integers(0, LARGEST)
reached = st.none() | st.builds(Reached, numbers, numbers)


@given(st.integers(1, 9), st.none() | numbers, st.tuples(*[numbers] * 3), st.tuples(*[reached] * 3))
def test_an_id_that_tells_of_each_partition_names_its_place_and_is_not_too_long(
    cluster: int, batch_id: int | None, offsets: tuple[int, int, int], each: tuple[Reached | None, ...]
) -> None:
    place = Place(cluster, batch_id, offsets, each)
    assert Place.parse(str(place)) == place
    assert len(str(place)) <= MAX_ID_CHARACTERS


def part(ours: Batches, now: float, *records: Record) -> None:
    """Records that come together, and nothing else for a while."""
    ours.add(list(records), now)
    ours.close_due(now + WHOLE_WITHIN_SECONDS)


def place_of_last(ours: Batches) -> Place:
    place = Place.parse(parsed(ours.events(0, merge=False))[-1]["id"])
    assert place
    return place


def test_the_second_part_of_a_micro_batch_comes_from_another_cluster_where_only_the_first_was_seen() -> None:
    first, second = batches(cluster=1, before=6), batches(cluster=2, before=6)
    whole = {"batch_id": 7, "batch_emojis": 3}
    part(first, 0, record(0, 5, "a", **whole), record(2, 9, "b", **whole))
    seen = place_of_last(first)
    part(second, 0, record(0, 0, "a", **whole), record(1, 0, "c", **whole), record(2, 0, "b", **whole))
    assert second.has(seen)
    assert emojis(second.rest(seen)) == ["c"]


def test_the_second_part_does_not_come_again_from_another_cluster_where_it_is_late() -> None:
    first, second = batches(cluster=1, before=6), batches(cluster=2, before=6)
    whole = {"batch_id": 7, "batch_emojis": 2}
    part(first, 0, record(0, 5, "a", **whole), record(1, 9, "b", **whole))
    seen = place_of_last(first)
    assert str(seen) == "1-7-6.10.0"
    part(second, 0, record(0, 0, "a", **whole))
    assert not second.has(seen)
    assert second.is_before(seen)
    part(second, 1, record(1, 0, "b", **whole))
    part(second, 2, record(0, 1, "c", batch_id=8, batch_emojis=1))
    assert second.has(seen)
    assert emojis(second.rest(seen)) == ["c"]


def test_an_id_without_partitions_is_understood_as_ever() -> None:
    ours = batches(cluster=2)
    for number in range(3):
        part(ours, number, record(number, 0, str(number), batch_id=number, batch_emojis=1))
    assert emojis(ours.rest(Place(1, 0, (77, 0, 0)))) == ["1", "2"]


def test_a_stream_that_began_before_the_first_record_misses_none_in_another_cluster() -> None:
    ours = batches(cluster=2)
    began = batches(cluster=1).place
    part(ours, 0, record(0, 0, "a", batch_id=4))
    assert ours.why_gap(began) is None
    assert emojis(ours.rest(began)) == ["a"]


def test_where_a_topic_has_been_quiet_a_stream_of_another_cluster_is_not_told_of_a_gap() -> None:
    restarted = Batches(2, {0: 5, 1: 6, 2: 7}, {0: 40, 1: 38}, LONG_SECONDS, 1000)
    for seen in (Place(1, 40, (1, 2, 3)), Place(1, 40, (1, 2, 3), (Reached(40, 2), Reached(38, 1), None))):
        assert restarted.has(seen)
        assert restarted.why_gap(seen) is None
        assert restarted.rest(seen) == b""
    assert restarted.why_gap(Place(1, 39, (1, 2, 3))) is not None
    assert restarted.why_gap(Place(1, 39, (1, 2, 3), (Reached(39, 1), Reached(38, 1), None))) is not None
    assert restarted.is_before(Place(1, 41, (1, 2, 3)))


def test_a_micro_batch_that_never_comes_whole_is_waited_for_only_as_long_as_it_is_kept() -> None:
    ours = batches(max_age_seconds=1)
    part(ours, 0, record(0, 0, batch_id=1, batch_emojis=2, timestamp_ms=0))
    part(ours, 1, record(0, 1, batch_id=2, batch_emojis=1, timestamp_ms=5000))
    assert ours.place.reached is not None
    ours.forget(5000)
    assert str(ours.place) == "1-2-2.0.0"


def test_records_without_a_batch_id_keep_their_place_among_the_others() -> None:
    ours = batches()
    ours.add([record(0, 0, "a"), record(0, 1, "b", batch_id=1, batch_emojis=1), record(0, 2, "c")], 0)
    ours.close_due(0)
    events = parsed(ours.events(0, merge=False))
    assert [count["emoji"] for event in events for count in event["counts"]] == ["a", "b", "c"]
    for number, event in enumerate(events, 1):
        place = Place.parse(event["id"])
        assert place
        assert emojis(ours.rest(place)) == ["a", "b", "c"][number:]


# --- any cut of a stream, and any other cluster ---


@dataclass
class Subscriber:
    """A subscriber that has read its topic only so far, and reads on when it is told."""

    batches: Batches
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
    """Who watches one subscriber after another."""

    got: list[str] = field(default_factory=list)
    place: Place | None = None

    def take(self, event: dict[str, Any]) -> None:
        self.got += [count["emoji"] for count in event["counts"]]
        self.place = Place.parse(event["id"])
        assert self.place

    def come_to(self, subscriber: Subscriber) -> list[dict[str, Any]]:
        """The events that there are, once it has all that was seen; as stream.py serves them."""
        if self.place is None:
            return parsed(subscriber.batches.events(0, merge=False))
        assert subscriber.batches.why_gap(self.place) is None
        while subscriber.portions and not subscriber.batches.has(self.place):
            subscriber.read_portion()
        assert not subscriber.batches.is_before(self.place)
        return parsed(subscriber.batches.rest(self.place))


@st.composite
def systems(draw: st.DrawFn) -> tuple[Counter[str], list[Subscriber]]:
    """One log of micro-batches, and subscribers of several clusters that read it, each in its own portions."""
    logs: list[list[dict[str, Any]]] = [[], [], []]
    batch_id = 0
    for where in draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), max_size=6)):
        batch_id += draw(st.sampled_from([1, 1, 1, 2]))  # one with bad records only leaves out a number
        size = draw(st.sampled_from([{"batch_emojis": len(where)}] * 4 + [{}, {"batch_emojis": len(where) + 1}]))
        for partition in where:
            value = {"emoji": f"{partition}/{len(logs[partition])}", "count": 1, "batch_id": batch_id} | size
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
                records.append(Record(partition, offset, 0, json.dumps(value).encode()))
                offset += 1
            left.append(records)
        portions = []
        while any(left):
            log_left = draw(st.sampled_from([records for records in left if records]))
            size_read = draw(st.integers(1, len(log_left)))
            portions.append((draw(st.sampled_from([0.0, 0.05, 0.2])), log_left[:size_read]))
            del log_left[:size_read]
        subscriber = Subscriber(batches(cluster), portions)
        for _ in range(draw(st.integers(0, len(portions)))):
            subscriber.read_portion()
        subscribers.append(subscriber)
    return everything, subscribers


@settings(max_examples=200)
@given(systems(), st.data())
def test_every_count_is_seen_once_wherever_a_stream_is_cut_and_in_whichever_cluster_it_goes_on(
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
    assert Counter(viewer.got) == everything
