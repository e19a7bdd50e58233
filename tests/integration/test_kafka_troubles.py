"""What goes wrong with topics while our processes read them: each says what, is not ready meanwhile, and goes on after.

The clock too: a virtual machine that was asleep, or NTP, sets it back.
"""

from __future__ import annotations

import json
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from confluent_kafka import Producer
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, NewPartitions

from emostream import consumers
from emostream.broker import admin_client, consumer, registry_producer, transactional_producer
from emostream.consumers import partitions
from emostream.deliver.rooms import Rooms
from emostream.deliver.topic_reader import TopicReader
from emostream.metrics.catalogue import DELIVER, ROUTE
from emostream.metrics.counters import Metrics
from emostream.process import Log, StopFlag, why_not_ready
from emostream.route import Router
from emostream.settings import Settings, load
from testkit.broker import Broker
from testkit.clock import SteppedClock
from testkit.logs import logged
from testkit.ports import lost_host
from testkit.scripts import Script, script
from testkit.waiting import wait_until

READY_WITHIN_SECONDS = 60.0  # on a busy machine; within 10 s otherwise
COUNT = b'{"emoji": "x", "count": 1}'


@pytest.fixture
def admin(empty_topics: Broker) -> Iterator[KafkaAdminClient]:
    """An operator."""
    client = KafkaAdminClient(bootstrap_servers=empty_topics.servers)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "RETRY_SECONDS", 1.0)


def corrupt(broker: Broker, topic: str, partition: int) -> None:
    """Change the last byte of a partition on the broker's disk, which is the last byte of its last batch."""
    (log,) = Path(broker.environment["DATA_DIR"]).glob(f"**/{topic}-{partition}/00000000000000000000.log")
    data = log.read_bytes()
    at = 0
    while at + 12 <= len(data) and (size := struct.unpack_from(">i", data, at + 8)[0]):
        at += 12 + size
    with log.open("r+b") as file:
        file.seek(at - 1)
        file.write(bytes([data[at - 1] ^ 0xFF]))


def produce_to_all(broker: Broker, topic: str, values: list[bytes]) -> None:
    for partition in range(3):
        broker.produce(topic, values, partition)


class Reading:
    """A reader of a topic in this process: turn after turn, and how many records it has read."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.records = 0
        self.reader: Router | TopicReader
        log = Log("test")
        if topic == settings.main_topic:
            self.reader = Router(settings, Metrics(log, ROUTE), log)
            self.reader.start()
        else:
            counters = Metrics(log, DELIVER)
            self.reader = TopicReader(settings, topic, Rooms(60, 1_000, counters, log), counters, log)
            self.reader.catch_up(StopFlag())

    @property
    def trouble(self) -> str | None:
        return self.reader.consumer.trouble

    def until(self, what: str, condition: Callable[[], Any]) -> Any:
        def turn() -> Any:
            self.records += self.reader.run_once(100)
            return condition()

        return wait_until(what, turn, READY_WITHIN_SECONDS)


@pytest.fixture(params=["main-pub-topic", "cluster1-emoji-topic"])
def topic(request: pytest.FixtureRequest) -> str:
    """What a cluster publisher reads, and what a subscriber reads."""
    return str(request.param)


@pytest.fixture
def reading(empty_topics: Broker, topic: str) -> Iterator[Reading]:
    """A reader that waits for records."""
    settings = load(["CLUSTER-TOPIC=cluster1-emoji-topic"], environ=empty_topics.environment)
    found = Reading(settings, topic)
    yield found
    found.reader.close()


def test_a_batch_that_cannot_be_read_is_named_and_holds_up_its_partition_only(
    empty_topics: Broker, admin: KafkaAdminClient, topic: str, reading: Reading
) -> None:
    empty_topics.produce(topic, [COUNT, COUNT], partition=1)
    reading.until("the first records", lambda: reading.records == 2)
    empty_topics.produce(topic, [COUNT], partition=1)
    corrupt(empty_topics, topic, 1)
    empty_topics.produce(topic, [COUNT], partition=0)
    trouble = reading.until("the trouble", lambda: reading.trouble)
    assert trouble.startswith(f"{topic}: partition 1 cannot be read at offset 2 (CorruptRecordError")
    reading.until("the record of the other partition", lambda: reading.records == 3)
    empty_topics.produce(topic, [COUNT], partition=2)
    reading.until("another one", lambda: reading.records == 4)
    assert reading.trouble == trouble
    admin.delete_records({TopicPartition(topic, 1): 3})  # as the sentence says
    empty_topics.produce(topic, [COUNT], partition=1)
    reading.until("what comes after it", lambda: reading.records == 5)
    reading.until("no trouble", lambda: reading.trouble is None)


def test_a_codec_without_its_library_is_such_a_batch(
    empty_topics: Broker, topic: str, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = Producer({"bootstrap.servers": empty_topics.servers, "compression.type": "zstd"})
    with monkeypatch.context() as patch:
        patch.setattr("kafka.codec.zstd", None)
        for partition in range(3):
            producer.produce(topic, COUNT * 100 + b" ", partition=partition)
        producer.flush(30)
        trouble = reading.until("the trouble", lambda: reading.trouble)
        assert "cannot be read at offset 0 (UnsupportedCodecError" in trouble
    reading.until("all records", lambda: reading.records == 3)
    reading.until("no trouble", lambda: reading.trouble is None)


def test_a_topic_that_gets_more_partitions_is_read_whole_and_its_lag_is_that_of_all(
    empty_topics: Broker, admin: KafkaAdminClient, topic: str, reading: Reading
) -> None:
    produce_to_all(empty_topics, topic, [COUNT])
    reading.until("the first records", lambda: reading.records == 3)
    admin.create_partitions({topic: NewPartitions(6)})
    empty_topics.produce(topic, [COUNT] * 10, partition=5)
    reading.until("the records in the new partition", lambda: reading.records == 13)
    reading.until("the lag", lambda: reading.reader.consumer.lag == 0)
    assert reading.trouble is None


def test_a_topic_that_is_made_anew_with_fewer_partitions_is_read_from_its_beginning(
    empty_topics: Broker, admin: KafkaAdminClient, topic: str, reading: Reading
) -> None:
    admin.create_partitions({topic: NewPartitions(6)})
    empty_topics.produce(topic, [COUNT] * 2, partition=5)
    produce_to_all(empty_topics, topic, [COUNT, COUNT])
    reading.until("the first records", lambda: reading.records == 8)
    with logged() as lines:
        empty_topics.replace_topics()
        empty_topics.produce(topic, [COUNT], partition=0)
        reading.until("the record of the new topic", lambda: reading.records == 9)
    assert any("made anew; reading it from its beginning" in line for line in lines)
    reading.until("the lag", lambda: reading.reader.consumer.lag == 0)
    assert reading.trouble is None


def test_records_that_were_deleted_before_they_were_read_are_passed_over(
    empty_topics: Broker, admin: KafkaAdminClient, topic: str, reading: Reading
) -> None:
    produce_to_all(empty_topics, topic, [COUNT])
    reading.until("the first records", lambda: reading.records == 3)
    client, assigned = reading.reader.consumer.client, reading.reader.consumer.assigned
    client.pause(*assigned)  # so that it does not read the others before they are deleted
    reading.until("no fetch is under way", lambda: not client._fetcher._nodes_with_pending_fetch_requests)
    produce_to_all(empty_topics, topic, [COUNT] * 4)
    admin.delete_records({TopicPartition(topic, partition): 3 for partition in range(3)})
    client.resume(*assigned)
    with logged() as lines:
        reading.until("what is left", lambda: reading.records == 9 and reading.reader.consumer.lag == 0)
    for partition in range(3):
        said = f"topic={topic} partition={partition} ended_at=1 oldest=3 newest=5"
        assert any("cannot go on where reading ended" in line and line.endswith(said) for line in lines)
    assert reading.trouble is None


def test_every_transaction_keeps_the_positions_of_all_partitions(empty_topics: Broker) -> None:
    """Otherwise a broker would forget where an idle partition was read to, and all of it would be routed again."""
    settings = load(["CLUSTER-TOPIC=cluster1-emoji-topic"], environ=empty_topics.environment)
    reading = Reading(settings, settings.main_topic)
    empty_topics.produce(settings.main_topic, [COUNT], partition=1)
    reading.until("the record", lambda: reading.records == 1)
    with KafkaConsumer(bootstrap_servers=empty_topics.servers, group_id="cluster1-emoji-topic-publisher") as reader:
        # A broker shows the offsets of a transaction a moment after it has taken it.
        tps = [TopicPartition(settings.main_topic, number) for number in range(3)]
        wait_until("all positions", lambda: [reader.committed(tp) for tp in tps] == [0, 1, 0])
    reading.reader.close()


# --- the main publisher ---


@dataclass
class MainPublisher:
    """A main publisher with a clock of its own, and what it says of itself."""

    broker: Broker
    script: Script
    clock: SteppedClock

    @property
    def not_ready(self) -> str | None:
        """Why it is not ready; None if it is."""
        return why_not_ready(load([], environ=self.broker.environment), "main_publisher", self.script.process.pid)

    def send(self, number: signal.Signals) -> None:
        """To its JVM too, which would go on with a micro-batch of its own."""
        os.killpg(self.script.process.pid, number)

    def until_ready(self) -> None:
        wait_until("it is ready", lambda: self.not_ready is None, 60)

    def counted(self, emoji: str) -> int:
        counts = self.broker.counts("main-pub-topic")
        return sum(count["events"] for count in counts if count["emoji"] == emoji)

    def tap(self, emoji: str, partition: int = 0) -> None:
        event = {"user_id": "u", "emoji": emoji, "timestamp": "2026-01-31T20:15:00+00:00"}
        self.broker.produce("emoji-topic", [json.dumps(event).encode()], partition)

    def counts(self, emoji: str, partition: int = 0, within_seconds: float = 60.0) -> None:
        """Tap once, and wait until that is counted."""
        self.tap(emoji, partition)
        wait_until(f"{emoji} is counted", lambda: self.counted(emoji), within_seconds)


@pytest.fixture(scope="module")
def main_publisher(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MainPublisher]:
    """One for all tests of it, because Spark takes 15 s to start."""
    broker.replace_topics()
    clock = SteppedClock(tmp_path_factory.mktemp("clock"))
    with script(broker.environment | clock.environment, "main_publisher.py") as running:
        found = MainPublisher(broker, running, clock)
        wait_until("it is ready", lambda: found.not_ready is None, 240)
        found.counts("first")
        yield found


@pytest.mark.parametrize("seconds", [-120, 120, 0])
def test_after_the_clock_was_set_there_is_a_micro_batch_within_seconds(
    main_publisher: MainPublisher, seconds: int
) -> None:
    """From 0 to -120 s, from there to 120 s, and back."""
    main_publisher.clock.step(seconds)
    main_publisher.counts(f"after a step to {seconds} s", within_seconds=READY_WITHIN_SECONDS)
    main_publisher.until_ready()


def test_the_lag_is_0_after_a_transaction_of_somebody_else(main_publisher: MainPublisher) -> None:
    event = b'{"user_id": "u", "emoji": "of a transaction", "timestamp": "2026-01-31T20:15:00+00:00"}'
    main_publisher.broker.produce_at_once("emoji-topic", [event])
    wait_until("it is counted", lambda: main_publisher.counted("of a transaction"))
    page = f"http://127.0.0.1:{main_publisher.broker.environment['METRICS_BASE_PORT']}/metrics"
    wait_until("no lag", lambda: "\nemostream_aggregate_lag_events 0.0\n" in requests.get(page, timeout=60).text)


def test_events_that_were_deleted_before_they_were_counted_are_passed_over(main_publisher: MainPublisher) -> None:
    newest = main_publisher.broker.written("emoji-topic")
    main_publisher.send(signal.SIGSTOP)  # so that it does not read the event before it is deleted
    main_publisher.tap("deleted")
    with KafkaAdminClient(bootstrap_servers=main_publisher.broker.servers) as admin:
        admin.delete_records({TopicPartition("emoji-topic", 0): -1})  # all that there are
    main_publisher.send(signal.SIGCONT)
    main_publisher.counts("after deleted events", within_seconds=60)
    main_publisher.until_ready()
    assert not main_publisher.counted("deleted")
    said = f"topic=emoji-topic partition=0 ended_at={newest} oldest={newest + 1}"
    log = main_publisher.script.log
    assert f'msg="cannot go on where reading ended; going on at the oldest record there is" {said}' in log


def test_a_topic_that_is_made_anew_is_counted_from_its_beginning(main_publisher: MainPublisher) -> None:
    main_publisher.broker.replace_topics()
    main_publisher.counts("in a new topic")
    main_publisher.until_ready()


def set_max_message_bytes(broker: Broker, topic: str, max_bytes: int) -> None:
    with KafkaAdminClient(bootstrap_servers=broker.servers) as admin:
        admin.alter_configs([ConfigResource("topic", topic, {"max.message.bytes": str(max_bytes)})])


def test_counts_that_are_too_large_for_their_topic_wait_until_it_takes_them(main_publisher: MainPublisher) -> None:
    set_max_message_bytes(main_publisher.broker, "main-pub-topic", 100)
    main_publisher.tap("large")
    said = "main-pub-topic: expected max.message.bytes of at least 1048588, found 100; kafka-configs changes it"
    wait_until("it says so", lambda: main_publisher.not_ready == said, 60)
    set_max_message_bytes(main_publisher.broker, "main-pub-topic", 1_048_588)
    wait_until("it is counted", lambda: main_publisher.counted("large") == 1, 60)
    main_publisher.until_ready()


def test_a_topic_of_events_that_was_made_anew_and_outgrew_the_former_one_unseen_is_counted_whole(
    main_publisher: MainPublisher,
) -> None:
    """Its offsets do not show that it is another topic: it has records where the reading ended."""
    broker = main_publisher.broker
    main_publisher.counts("before")
    main_publisher.send(signal.SIGSTOP)
    broker.replace_topics()
    event = {"user_id": "u", "emoji": "anew", "timestamp": "2026-01-31T20:15:00+00:00"}
    broker.produce("emoji-topic", [json.dumps(event).encode()] * 200, 0)
    main_publisher.send(signal.SIGCONT)
    wait_until("all are counted", lambda: main_publisher.counted("anew") >= 200, 60)
    main_publisher.until_ready()


def test_a_batch_that_cannot_be_read_is_not_ready_and_is_named(main_publisher: MainPublisher) -> None:
    broker = main_publisher.broker
    (before,) = [record.offset for record in broker.read("emoji-topic")][-1:]
    main_publisher.send(signal.SIGSTOP)  # so that it does not read the batch before it is corrupt
    main_publisher.tap("corrupt")
    corrupt(broker, "emoji-topic", 0)
    main_publisher.send(signal.SIGCONT)
    said = ("emoji-topic-0", f"offset {before + 1}")
    wait_until("it says so", lambda: all(part in str(main_publisher.not_ready) for part in said))
    with KafkaAdminClient(bootstrap_servers=broker.servers) as admin:
        admin.delete_records({TopicPartition("emoji-topic", 0): -1})
    main_publisher.counts("after a corrupt batch", within_seconds=60)
    main_publisher.until_ready()


def test_new_partitions_are_counted_and_so_is_a_topic_that_is_made_anew_with_fewer(
    main_publisher: MainPublisher,
) -> None:
    with KafkaAdminClient(bootstrap_servers=main_publisher.broker.servers) as admin:
        admin.create_partitions({"emoji-topic": NewPartitions(6)})
    main_publisher.counts("in a new partition", partition=5)
    main_publisher.until_ready()
    main_publisher.broker.replace_topics()
    main_publisher.counts("in one of three again", within_seconds=60)
    main_publisher.until_ready()


def test_each_client_begins_though_most_of_the_named_brokers_are_on_lost_hosts(empty_topics: Broker) -> None:
    with lost_host() as one, lost_host() as two, lost_host() as three:
        servers = ",".join([one, two, three, empty_topics.servers])
        settings = load(environ=empty_topics.environment | {"KAFKA_BOOTSTRAP_SERVERS": servers})
        # By itself, kafka-python would choose a lost one three times out of four, and give up after 30 s.
        with closing(consumer(settings, None)) as reader:
            assert len(partitions(reader, "emoji-topic")) == 3
        for producer in (registry_producer(settings), transactional_producer(settings, "test-lost-host")):
            assert producer.partitions_for("emoji-topic") == {0, 1, 2}
            producer.close()
        with closing(admin_client(settings)) as admin:
            assert "emoji-topic" in admin.list_topics()
