"""Whatever codec a topic or somebody's producer has, each of our readers reads its records.

All records of this file are on the topics before the readers start, so that one broker and one Spark are enough.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import product

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from emostream.deliver.registry import RegistryTopic
from emostream.deliver.rooms import DEFAULT_ROOM, Rooms
from emostream.deliver.topic_reader import TopicReader
from emostream.metrics.catalogue import DELIVER, ROUTE
from emostream.metrics.counters import Metrics
from emostream.operate.dashboard.counts_reader import read_counts
from emostream.process import Log, StopFlag
from emostream.route import Router
from emostream.settings import Settings, load
from testkit.broker import Broker
from testkit.scripts import script
from testkit.waiting import wait_until

# compression.type of a topic: the broker writes what producers send with the topic's codec, or leaves it as it comes.
OF_TOPICS = ["uncompressed", "gzip", "snappy", "lz4", "zstd", "producer"]
OF_PRODUCERS = [None, "gzip", "snappy", "lz4", "zstd"]
TIMESTAMPS = ["CreateTime", "LogAppendTime"]
TOPICS = ["emoji-topic", "main-pub-topic", "cluster1-emoji-topic", "subscriber-registry"]
REPEATS = 50
# Name of an emoji → how many records of it each topic has.
WRITTEN = {f"{topic}/{codec}/{kind}": REPEATS for topic, codec, kind in product(OF_TOPICS, OF_PRODUCERS, TIMESTAMPS)}
# A batch of some KB that is 3 MB when it is decompressed.
WRITTEN |= {f"huge/{codec}": 1 for codec in OF_PRODUCERS if codec}
HEADERS = [("traceparent", b"00-1"), ("", b"\xff")]
MORE = {"more": "x" * 3_000_000}


def value_of(topic: str, name: str) -> bytes:
    more = MORE if name.startswith("huge") else {}
    if topic == "emoji-topic":
        return json.dumps({"user_id": "u", "emoji": name, "timestamp": "2026-01-31T20:15:00+00:00"} | more).encode()
    if topic == "subscriber-registry":
        return json.dumps({"client_url": f"http://h/{name}", "next_offsets": {}} | more).encode()
    return json.dumps({"emoji": name, "count": 1} | more).encode()


def key_of(topic: str, name: str) -> bytes | None:
    return f"cluster1-emoji-topic/1/http://h/{name}".encode() if topic == "subscriber-registry" else None


@pytest.fixture(scope="module")
def written(broker: Broker) -> Iterator[Broker]:
    """A broker whose topics have every codec, with headers, without keys, and with transactions that were aborted."""
    broker.replace_topics()
    admin = KafkaAdminClient(bootstrap_servers=broker.servers)
    producers = {
        codec: KafkaProducer(
            bootstrap_servers=broker.servers, compression_type=codec, linger_ms=50, batch_size=1_000_000,
            max_request_size=4_000_000,
        )
        for codec in OF_PRODUCERS
    }  # fmt: skip
    for of_topic, timestamps in product(OF_TOPICS, TIMESTAMPS):
        configs = {"compression.type": of_topic, "message.timestamp.type": timestamps}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs) for topic in TOPICS])
        for topic, (codec, producer) in product(TOPICS, producers.items()):
            name = f"{of_topic}/{codec}/{timestamps}"
            for _ in range(REPEATS):
                producer.send(topic, value_of(topic, name), key_of(topic, name), headers=HEADERS)
            if codec and (of_topic, timestamps) == ("producer", "CreateTime"):
                producer.send(topic, value_of(topic, f"huge/{codec}"), key_of(topic, f"huge/{codec}"))
        for producer in producers.values():
            producer.flush()
    aborting = KafkaProducer(bootstrap_servers=broker.servers, transactional_id="of-somebody-else")
    aborting.init_transactions()
    for topic in TOPICS:
        aborting.begin_transaction()
        for partition in range(3):
            aborting.send(topic, value_of(topic, "aborted"), key_of(topic, "aborted"), partition=partition)
        aborting.abort_transaction()
    for producer in (aborting, *producers.values()):
        producer.close()
    yield broker
    configs = {"compression.type": "producer", "message.timestamp.type": "CreateTime"}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs) for topic in TOPICS])
    admin.close()


@pytest.fixture(scope="module")
def settings(written: Broker) -> Settings:
    return load(["CLUSTER-TOPIC=cluster1-emoji-topic", "MAX-AGE-SECONDS=3600"], environ=written.environment)


def test_the_subscribers_read_every_codec(settings: Settings) -> None:
    log = Log("test")
    counters = Metrics(log, DELIVER)
    rooms = Rooms(3600, 1_000_000, counters, log)
    reader = TopicReader(settings, "cluster1-emoji-topic", rooms, counters, log)
    reader.catch_up(StopFlag())
    _, records = rooms.open(DEFAULT_ROOM).history.after(0, 1_000_000)
    reader.close()
    found = [record.count.emoji for record in records]
    assert Counter(found) == WRITTEN
    assert reader.consumer.trouble is None


def test_the_registry_reads_every_codec(settings: Settings) -> None:
    registry = RegistryTopic(settings, "cluster1-emoji-topic", 1)
    found = sorted(registration.client_url for registration in registry.read())
    registry.close()
    assert found == sorted(f"http://h/{name}" for name in WRITTEN)


def test_the_timeline_reads_every_codec(settings: Settings) -> None:
    found = [row.emoji for row in read_counts(settings, 0, {}, timeout_seconds=120)]
    assert Counter(found) == WRITTEN


def test_the_cluster_publishers_read_every_codec(written: Broker, settings: Settings) -> None:
    log = Log("test")
    router = Router(settings, Metrics(log, ROUTE), log)
    router.start()
    # A turn may find nothing although there is more, where the broker is slow.
    wait_until("all are routed", lambda: not router.run_once() and router.consumer.lag == 0, 120)
    router.close()
    assert router.consumer.trouble is None
    # Each record is there a second time, except those that are too large for a producer.
    assert Counter(count["emoji"] for count in written.counts("cluster1-emoji-topic")) == {
        name: number if name.startswith("huge") else 2 * number for name, number in WRITTEN.items()
    }
    assert router.counters.snapshot()["skipped"] == 4


def test_spark_reads_every_codec(written: Broker) -> None:
    with script(written.environment, "main_publisher.py", MAX_EMOJIS_PER_BATCH=1000) as running:
        running.wait_for("msg=batch ", 240)
        assert running.terminate() == 0
    found = Counter[str]()
    for count in written.counts("main-pub-topic"):
        found[count["emoji"]] += count.get("events", 0)
    assert found == WRITTEN
