"""Streams of many rooms, cut and continued anywhere: each listener sees the sums of its room, once.

Subscribers without Kafka and sockets: topics are lists of records, and a transport keeps what is written to it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.consumer.fetcher import ConsumerRecord

from emostream.deliver.rooms import Rooms
from emostream.deliver.stream.event_stream import EventStream
from emostream.deliver.stream.room_streams import RoomStreams
from emostream.metrics.catalogue import DELIVER
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.records import Count, record_key
from testkit.consumed import consumed

ROOMS = ["", "final", "semi"]
EMOJIS = "abcd"
PARTITIONS = 2
LOG = Log("test")


def partition_of(key: bytes) -> int:
    return hashlib.sha256(key).digest()[0] % PARTITIONS


class Topic:
    """A cluster's topic. `salt` puts its records on other partitions than those of other clusters.

    The records of a transaction can be read in one partition earlier than in another. But none of the next transaction
    can be read before all of them.
    """

    def __init__(self, cluster: int, salt: bytes) -> None:
        self.cluster = cluster
        self.partitions: list[list[ConsumerRecord]] = [[] for _ in range(PARTITIONS)]
        self._written: list[list[Count]] = [[] for _ in range(PARTITIONS)]
        self._salt = salt

    def publish(self, counts: list[Count]) -> None:
        for partition in range(PARTITIONS):
            self.arrive(partition)
        for count in counts:
            self._written[partition_of(self._salt + record_key(count.emoji, count.room))].append(count)

    def arrive(self, partition: int) -> None:
        log = self.partitions[partition]
        for count in self._written[partition]:
            log.append(consumed(count, partition, 3 * len(log)))  # other things have offsets, too
        self._written[partition] = []


class Transport:
    """Where a stream writes to."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def set_protocol(self, protocol: object) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Subscriber:
    """What a subscriber does with its topic and its streams."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.counters = Metrics(LOG, DELIVER)
        self.rooms = Rooms(3600, 100_000, self.counters, LOG)
        self.rooms.begin(dict.fromkeys(range(PARTITIONS), 0), {})
        self.open: dict[str, RoomStreams] = {}
        self._read = [0] * PARTITIONS

    def read(self, portions: Sequence[int]) -> None:
        """Read up to so many records of each partition."""
        found: list[ConsumerRecord] = []
        for partition, most in enumerate(portions):
            found += self.topic.partitions[partition][self._read[partition] :][:most]
        for record in found:
            self._read[record.partition] += 1
        caught_up = all(read == len(log) for read, log in zip(self._read, self.topic.partitions, strict=True))
        self.rooms.append(found, caught_up)
        self.turn()

    def turn(self, last: bool = False) -> None:
        for room in self.open.values():
            room.take_news(last)
            room.send_to_ready()

    def begin(self, name: str, last_event_id: str) -> tuple[EventStream, Transport]:
        if name not in self.open:
            self.open[name] = RoomStreams(self.rooms, self.rooms.open(name), self.topic.cluster, self.counters)
        room, transport = self.open[name], Transport()
        stream = EventStream(cast(Any, transport), room.end, room.catch_up, lambda _stream: None)
        room.open[stream] = None
        transport.write(room.beginning(stream, last_event_id, 0))
        return stream, transport

    def end(self, name: str, stream: EventStream) -> None:
        del self.open[name].open[stream]
        if not self.open[name].open:
            del self.open[name]
            self.rooms.close(name)


@dataclass
class Viewer:
    """Someone who watches a room, now at this subscriber, now at that one."""

    room: str
    seen: Counter[str] = field(default_factory=Counter)
    gaps: list[str] = field(default_factory=list)
    last_event_id: str = ""

    def connect(self, subscriber: Subscriber) -> None:
        self.subscriber = subscriber
        self.stream, self.transport = subscriber.begin(self.room, self.last_event_id)

    def leave(self) -> None:
        for text in self.transport.written.decode().split("\n\n"):
            fields = dict(line.partition(": ")[::2] for line in text.splitlines())
            self.last_event_id = fields.get("id", self.last_event_id)
            if fields.get("event") == "gap":
                self.gaps.append(fields["data"])
            elif "data" in fields:
                batch = json.loads(fields["data"])
                assert batch.get("room", "") == self.room
                self.seen.update({count["emoji"]: count["count"] for count in batch["counts"]})
        self.transport.written = b""
        self.subscriber.end(self.room, self.stream)


batches = st.dictionaries(
    st.tuples(st.sampled_from(ROOMS), st.sampled_from(EMOJIS)), st.integers(1, 9), min_size=1, max_size=6
)
steps = st.one_of(
    batches,
    st.tuples(st.just("read"), st.integers(0, 2), st.tuples(st.integers(0, 4), st.integers(0, 4))),
    st.tuples(st.just("arrive"), st.integers(0, PARTITIONS - 1)),
    st.tuples(st.just("hurry"), st.integers(0, 2)),  # what is here of the open micro-batches goes out
    st.tuples(st.just("move"), st.integers(0, len(ROOMS) - 1), st.integers(0, 2)),
)


def play(script: list[Any], subscribers: list[Subscriber]) -> tuple[list[Viewer], dict[str, Counter[str]]]:
    """Let batches, readers and viewers go as the script says, then all to the end."""
    topics = {subscriber.topic.cluster: subscriber.topic for subscriber in subscribers}
    published: dict[str, Counter[str]] = {room: Counter() for room in ROOMS}
    viewers = [Viewer(room) for room in ROOMS]
    for viewer in viewers:
        viewer.connect(subscribers[0])
    batch_id = 0
    for step in script:
        if isinstance(step, dict):
            sizes = Counter(room for room, _ in step)
            counts = [Count(e, n, batch_id=batch_id, batch_emojis=sizes[r], room=r) for (r, e), n in step.items()]
            for topic in topics.values():
                topic.publish(counts)
            for count in counts:
                published[count.room][count.emoji] += count.count
            batch_id += 1
        elif step[0] == "read":
            subscribers[step[1] % len(subscribers)].read(step[2])
        elif step[0] == "arrive":
            for topic in topics.values():
                topic.arrive(step[1])
        elif step[0] == "hurry":
            subscribers[step[1] % len(subscribers)].turn(last=True)
        else:
            viewers[step[1]].leave()
            viewers[step[1]].connect(subscribers[step[2] % len(subscribers)])
    for topic in topics.values():
        topic.publish([])
    for subscriber in subscribers:
        subscriber.read([1_000] * PARTITIONS)
        subscriber.turn(last=True)
    for viewer in viewers:
        viewer.leave()
    return viewers, published


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=30))
def test_in_its_cluster_every_viewer_sees_exactly_the_sums_of_its_room(script: list[Any]) -> None:
    topic = Topic(1, b"")
    viewers, published = play(script, [Subscriber(topic), Subscriber(topic)])
    for viewer in viewers:
        assert (viewer.seen, viewer.gaps) == (published[viewer.room], [])


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=30))
def test_in_another_cluster_a_viewer_sees_nothing_twice_and_is_told_of_what_it_misses(script: list[Any]) -> None:
    first = Topic(1, b"")
    viewers, published = play(script, [Subscriber(first), Subscriber(Topic(2, b"salt")), Subscriber(first)])
    for viewer in viewers:
        assert viewer.seen <= published[viewer.room]
        if not viewer.gaps:
            assert viewer.seen == published[viewer.room]


@pytest.mark.parametrize("quiet", [1, 5])
def test_a_quiet_room_goes_on_in_another_cluster_without_a_gap(quiet: int) -> None:
    here, there = Subscriber(Topic(1, b"")), Subscriber(Topic(2, b"salt"))
    viewer = Viewer("final")
    viewer.connect(here)
    for batch_id in range(20):
        room = "semi" if batch_id % (quiet + 1) else "final"
        for subscriber in (here, there):
            subscriber.topic.publish([Count("a", 1, batch_id=batch_id, batch_emojis=1, room=room)])
            subscriber.topic.publish([])
            subscriber.read([9] * PARTITIONS)
    viewer.leave()
    viewer.connect(there)
    for subscriber in (here, there):
        subscriber.topic.publish([Count("a", 1, batch_id=20, batch_emojis=1, room="final")])
        subscriber.topic.publish([])
        subscriber.read([9] * PARTITIONS)
    viewer.leave()
    assert (viewer.seen, viewer.gaps) == ({"a": 20 // (quiet + 1) + (1 if 20 % (quiet + 1) else 0) + 1}, [])


def test_a_viewer_is_told_in_another_cluster_when_its_subscriber_had_not_read_a_partition() -> None:
    here, there = Subscriber(Topic(1, b"")), Subscriber(Topic(2, b"salt"))
    viewer = Viewer("final")
    viewer.connect(here)
    by_partition = {partition_of(record_key(emoji, "final")): emoji for emoji in EMOJIS}
    assert len(by_partition) == PARTITIONS
    for batch_id, partition in enumerate(by_partition):
        for subscriber in (here, there):
            emoji = by_partition[partition]
            subscriber.topic.publish([Count(emoji, 1, batch_id=batch_id, batch_emojis=1, room="final")])
            subscriber.topic.publish([])
    here.read([9 if partition == list(by_partition)[-1] else 0 for partition in range(PARTITIONS)])
    there.read([9] * PARTITIONS)
    viewer.leave()
    viewer.connect(there)
    there.turn(last=True)
    viewer.leave()
    reason = "this is another cluster, and the stream has seen only a part of its last micro-batch"
    assert viewer.gaps == [json.dumps({"reason": reason}, separators=(",", ":"))]
