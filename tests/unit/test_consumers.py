"""emostream.consumers on a fake client: which partitions are read, from where, and what is said when that changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from kafka import OffsetAndMetadata, TopicPartition
from kafka.errors import LogTruncationError, OffsetOutOfRangeError, UnknownTopicOrPartitionError

from emostream import consumers
from emostream.consumers import AssignedConsumer, EndOffsets, partitions
from emostream.process import Log
from testkit.logs import logged
from testkit.settings import settings_with

TOPIC = "emoji-topic"


def tp(number: int) -> TopicPartition:
    return TopicPartition(TOPIC, number)


@dataclass
class FakeClient:
    """A KafkaConsumer, and the topic that it reads: the oldest and the next offset of each of its partitions."""

    topic: dict[int, tuple[int, int]]
    topic_id: UUID = field(default_factory=uuid4)
    assigned: set[TopicPartition] = field(default_factory=set)
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    answers: list[Any] = field(default_factory=list)  # of the next polls: an error, or records
    offsets: dict[TopicPartition, int] = field(default_factory=dict)  # committed
    updates: int = 0

    def __post_init__(self) -> None:
        self._cluster = SimpleNamespace(
            add_topic=lambda _: None, request_update=self._update, topic_id=lambda _: self.topic_id,
            partitions_for_topic=lambda _: set(self.topic) or None,
        )  # fmt: skip
        self._net = SimpleNamespace(run=lambda *_: None)
        self._manager = SimpleNamespace(wait_for=None)

    def _update(self) -> None:
        self.updates += 1

    def assign(self, found: list[TopicPartition]) -> None:
        self.assigned = set(found)
        self.positions = {tp: offset for tp, offset in self.positions.items() if tp in self.assigned}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        assert tp in self.assigned
        self.positions[tp] = offset

    def seek_to_beginning(self, *found: TopicPartition) -> None:
        self.positions |= self.beginning_offsets(list(found or self.assigned))

    def beginning_offsets(self, found: list[TopicPartition], timeout_ms: int = 0) -> dict[TopicPartition, int]:
        return {tp: self.topic[tp.partition][0] for tp in found}

    def end_offsets(self, found: list[TopicPartition], timeout_ms: int = 0) -> dict[TopicPartition, int]:
        return {tp: self.topic[tp.partition][1] for tp in found}

    def committed(self, tp: TopicPartition) -> int | None:
        return self.offsets.get(tp)

    def position(self, tp: TopicPartition, timeout_ms: int = 0) -> int | None:
        return self.positions.get(tp)

    def highwater(self, tp: TopicPartition) -> int:
        return self.topic[tp.partition][1]

    def close(self, autocommit: bool, timeout_ms: int) -> None:
        self.positions = {}

    def poll(self, timeout_ms: int) -> Any:
        answer = self.answers.pop(0) if self.answers else {}
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """Of a topic with three partitions of ten records."""
    found = FakeClient(dict.fromkeys(range(3), (0, 10)))
    monkeypatch.setattr(consumers, "consumer", lambda *_, **__: found)
    monkeypatch.setattr(consumers, "LAG_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(consumers, "METADATA_TIMEOUT_MS", 50)
    return found


@pytest.fixture
def reader(client: FakeClient) -> AssignedConsumer:
    """It has committed 4 of each, and goes on there."""
    client.offsets = {tp(number): 4 for number in range(3)}
    found = AssignedConsumer(settings_with(), TOPIC, "group", Log("test"))
    found.go_on_where_committed()
    found.poll(0)
    return found


def test_every_partition_is_read_where_it_was_committed_and_a_new_one_from_its_first_record(
    client: FakeClient,
) -> None:
    client.offsets = {tp(0): 4, tp(2): 10}
    found = AssignedConsumer(settings_with(), TOPIC, "group", Log("test"))
    with logged() as lines:
        assert found.go_on_where_committed() == {tp(0): 4, tp(1): 0, tp(2): 10}
    assert lines == []


def test_partitions_that_are_added_are_read_from_their_first_record_and_the_others_on_where_they_were(
    client: FakeClient, reader: AssignedConsumer
) -> None:
    client.topic |= {3: (0, 7), 4: (2, 7)}
    reader.poll(0)
    assert client.positions == {tp(0): 4, tp(1): 4, tp(2): 4, tp(3): 0, tp(4): 2}
    assert reader.positions() == client.positions
    assert reader.lag == 3 * 6 + 7 + 5
    assert (reader.generation, reader.trouble) == (0, None)


@pytest.mark.parametrize("known", [0, 2])
def test_a_broker_that_does_not_know_all_partitions_yet_changes_nothing(
    client: FakeClient, reader: AssignedConsumer, known: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "LAG_EVERY_SECONDS", 60.0)
    client._cluster.partitions_for_topic = lambda _: set(range(known)) or None
    client.topic_id = client.topic_id if known else uuid4()
    reader.poll(0)
    assert client.positions == {tp(0): 4, tp(1): 4, tp(2): 4}
    assert reader.generation == 0


@pytest.mark.parametrize(("oldest", "newest", "generation"), [(6, 10, 0), (0, 3, 1), (1, 3, 1)])
def test_what_is_not_there_any_more_is_passed_over_with_a_sentence(
    client: FakeClient, reader: AssignedConsumer, oldest: int, newest: int, generation: int
) -> None:
    client.topic[1] = oldest, newest
    client.answers.append(OffsetOutOfRangeError({tp(1): 4}))
    with logged() as lines:
        assert reader.poll(0) == {}
    assert client.positions == {tp(0): 4, tp(1): oldest, tp(2): 4}
    assert reader.generation == generation  # of offsets that start over
    (line,) = lines
    assert line.endswith(f"topic={TOPIC} partition=1 ended_at=4 oldest={oldest} newest={newest}")


def test_after_an_election_that_lost_records_reading_goes_on_with_those_that_were_written_since(
    client: FakeClient, reader: AssignedConsumer
) -> None:
    client.answers.append(LogTruncationError({tp(1): OffsetAndMetadata(2, "", 0)}))
    with logged() as lines:
        assert reader.poll(0) == {}
    assert client.positions == {tp(0): 4, tp(1): 2, tp(2): 4}
    assert reader.generation == 1
    (line,) = lines
    assert "the broker has lost records" in line
    assert line.endswith(f"topic={TOPIC} partition=1 offset=2")


def test_a_topic_that_is_made_anew_with_fewer_partitions_is_read_from_its_beginning(
    client: FakeClient, reader: AssignedConsumer
) -> None:
    client.topic, client.topic_id = {0: (0, 1)}, uuid4()
    client.answers.append({tp(2): ["a record of the old topic"]})
    assert reader.poll(0) == {}
    assert client.positions == {tp(0): 0}
    assert (reader.generation, reader.lag) == (1, 1)


def test_a_topic_that_is_missing_is_an_error_after_a_while(client: FakeClient) -> None:
    client.topic = {}
    with pytest.raises(UnknownTopicOrPartitionError, match=TOPIC):
        partitions(client, TOPIC, timeout_ms=50)
    assert client.updates > 1


def test_the_end_of_a_topic_is_that_of_the_partitions_it_has_now(client: FakeClient) -> None:
    ends = EndOffsets(settings_with(), TOPIC)
    assert ends.now(100) == dict.fromkeys(range(3), 10)
    client.topic[3] = 0, 2
    assert ends.now(100) == {0: 10, 1: 10, 2: 10, 3: 2}


def test_a_consumer_of_a_topic_that_is_missing_leaves_no_connection_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    client, closed = FakeClient({}), list[bool]()
    monkeypatch.setattr(client, "close", lambda **_: closed.append(True))
    monkeypatch.setattr(consumers, "consumer", lambda *_: client)
    monkeypatch.setattr(consumers, "partitions", lambda found, topic: partitions(found, topic, timeout_ms=0))
    with pytest.raises(UnknownTopicOrPartitionError):
        AssignedConsumer(settings_with(), TOPIC, None, Log("test"))
    assert closed == [True]
