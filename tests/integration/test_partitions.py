"""Topics with any number of partitions, each its own, that get more of them while everything runs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import requests
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewPartitions, NewTopic

from emostream.deliver.registry import Registration, RegistryTopic
from emostream.operate.dashboard.counts_reader import read_counts
from emostream.settings import REGISTRY_TOPIC, load
from testkit.broker import Broker
from testkit.http_calls import call
from testkit.http_servers import http_client
from testkit.ports import free_port_block, listening
from testkit.scripts import Script, script
from testkit.waiting import wait_until
from tests.integration.test_stream import Curl, curl

CLUSTER = "cluster2-emoji-topic"
EMOJIS = [f"e{number}" for number in range(20)]
TAKEN_UP_SECONDS = 5.0
COUNTED_SECONDS = TAKEN_UP_SECONDS + 10.0  # the first micro-batches of a cold JVM are slow
BUSY = 6  # so much longer may it take on a busy machine


@pytest.fixture
def admin(empty_topics: Broker) -> Iterator[KafkaAdminClient]:
    """An operator."""
    client = KafkaAdminClient(bootstrap_servers=empty_topics.servers)
    yield client
    client.close()


def event(emoji: str) -> bytes:
    return json.dumps({"user_id": "u", "emoji": emoji, "timestamp": "2026-01-31T20:15:00+00:00"}).encode()


def count(emoji: str, number: int = 0) -> bytes:
    return json.dumps({"emoji": emoji, "count": 1, "events": 1, "batch_id": number, "batch_emojis": 1}).encode()


def total(counts: list[dict[str, Any]], emojis: list[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for one in counts:
        if one["emoji"] in emojis:
            found[one["emoji"]] += one["events"]
    return found


def tapped(taps: list[bytes]) -> Counter[str]:
    return Counter(json.loads(tap)["emoji"] for tap in taps)


def grow(admin: KafkaAdminClient, broker: Broker, topic: str, value: bytes, seen: Callable[[], object], seconds: float) -> None:  # fmt: skip # noqa: E501
    """Give a topic 6 partitions, write to the last one, and wait until that record has been seen."""
    admin.create_partitions({topic: NewPartitions(6)})
    began = time.monotonic()
    broker.produce(topic, [value], partition=5)
    wait_until(f"the record in the new partition of {topic}", seen, seconds * BUSY)
    print(f"{topic}: seen {time.monotonic() - began:.1f} s after the topic got more partitions")


class Stages:
    """A main publisher, a cluster publisher and a subscriber, with one client and one stream."""

    def __init__(self, broker: Broker, stack: ExitStack) -> None:
        self.broker = broker
        self._stack = stack
        self.main_publisher = self.start_main_publisher()
        self.cluster_publisher = self.start_cluster_publisher()
        self._port = free_port_block(2)
        self.url = f"http://127.0.0.1:{self._port}"
        self.stream_url = f"http://127.0.0.1:{self._port + 1}/stream"
        self.subscriber = self.start_subscriber()
        self.client = stack.enter_context(http_client())
        assert call(f"{self.url}/register", {"client_url": self.client.url})[0] == 200

    def start_main_publisher(self) -> Script:
        return self._stack.enter_context(script(self.broker.environment, "main_publisher.py"))

    def start_cluster_publisher(self) -> Script:
        return self._stack.enter_context(script(self.broker.environment, "cluster_publisher.py", CLUSTER_TOPIC=CLUSTER))

    def start_subscriber(self) -> Script:
        found = self._stack.enter_context(
            script(self.broker.environment, "subscriber.py", CLUSTER_TOPIC=CLUSTER, MAX_AGE_SECONDS=900,
                   SUBSCRIBER_BASE_PORT=self._port - 11, STREAM_BASE_PORT=self._port - 10)
        )  # fmt: skip
        found.wait_for("msg=listening")
        wait_until("the subscriber listens", lambda: listening(self._port) and listening(self._port + 1))
        return found

    def received(self) -> list[dict[str, Any]]:
        return list(self.client.received)

    def lags(self) -> list[str]:
        first = int(self.broker.environment["METRICS_BASE_PORT"])
        pages = [f"http://127.0.0.1:{first}", f"http://127.0.0.1:{first + 2}", self.url]
        lines = [line for page in pages for line in requests.get(f"{page}/metrics", timeout=60).text.splitlines()]
        return [line.split()[1] for line in lines if line.startswith("emostream_") and "_lag_" in line.split()[0]]

    def all_arrived(self, taps: list[bytes], streams: list[Curl]) -> None:
        """Each event was counted, routed, pushed and streamed exactly once."""
        wanted = tapped(taps)
        ends: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "counted": lambda: self.broker.counts("main-pub-topic"),
            "routed": lambda: self.broker.counts(CLUSTER),
            "pushed": self.received,
            "streamed": lambda: [one for stream in streams for seen in stream.events for one in seen["counts"]],
        }
        for what, counts in ends.items():

            def all_there(counts: Callable[[], list[dict[str, Any]]] = counts) -> bool:
                return total(counts(), EMOJIS) >= wanted

            wait_until(f"all are {what}", all_there, 300)
            assert total(counts(), EMOJIS) == wanted, what
        keys = [(one["batch_id"], one["emoji"]) for one in self.broker.counts("main-pub-topic")]
        assert len(set(keys)) == len(keys)
        wait_until("nothing is behind", lambda: set(self.lags()) == {"0.0"})


@contextmanager
def stages(broker: Broker) -> Iterator[Stages]:
    with ExitStack() as stack:
        yield Stages(broker, stack)


def test_new_partitions_are_read_from_their_first_record_by_every_stage_also_through_kill_9(
    empty_topics: Broker, admin: KafkaAdminClient
) -> None:
    broker = empty_topics
    with stages(broker) as running:
        streams = []
        with (
            broker.stream("emoji-topic", lambda number: event(EMOJIS[number % 20])) as taps,
            curl(broker.environment, running.stream_url) as stream,
        ):
            wait_until("the first pushes", running.received, 400)
            grow(
                admin, broker, "emoji-topic", event("new"),
                lambda: total(broker.counts("main-pub-topic"), ["new"]), COUNTED_SECONDS,
            )  # fmt: skip
            grow(
                admin, broker, "main-pub-topic", count("newer"),
                lambda: total(broker.counts(CLUSTER), ["newer"]), TAKEN_UP_SECONDS,
            )  # fmt: skip
            old_id = stream.last_event_id
            grow(
                admin, broker, CLUSTER, count("newest"),
                lambda: "newest" in str(running.received()) and "newest" in str(stream.events), TAKEN_UP_SECONDS,
            )  # fmt: skip
            assert (old_id.count("."), stream.last_event_id.count(".")) == (2, 5)
            running.main_publisher.kill()
            running.main_publisher = running.start_main_publisher()
            running.cluster_publisher.kill()
            running.cluster_publisher = running.start_cluster_publisher()
            running.main_publisher.wait_for("msg=batch ", 400)
            place = stream.last_event_id
            streams.append(stream)
        with curl(broker.environment, running.stream_url, "-H", f"Last-Event-ID: {place}") as rest:
            running.all_arrived(taps, [*streams, rest])
            assert not [seen for seen in rest.events if "reason" in seen]
        # Its registration, with the positions in all partitions, holds over a restart.
        before = len(running.received())
        assert running.subscriber.terminate() == 0
        running.subscriber = running.start_subscriber()
        broker.produce(CLUSTER, [count("restarted")], partition=4)
        wait_until("the last count is pushed", lambda: "restarted" in str(running.received()))
        assert len(running.received()) == before + 1
        # An id from before the topic got more partitions: all in the new ones is new to it.
        with curl(broker.environment, running.stream_url, "-H", f"Last-Event-ID: {old_id}") as old:
            wait_until("the rest", lambda: "newest" in str(old.events))
            assert not [seen for seen in old.events if "reason" in seen]
        assert {record.partition for record in broker.read("emoji-topic")} == set(range(6))
        assert {record.partition for record in broker.read("main-pub-topic")} == set(range(6))
        assert {record.partition for record in broker.read(CLUSTER)} == set(range(6))


@pytest.mark.parametrize("numbers", [(6, 4, 1), (1, 6, 4)])
def test_each_topic_may_have_its_own_number_of_partitions(
    empty_topics: Broker, admin: KafkaAdminClient, numbers: tuple[int, int, int]
) -> None:
    broker = empty_topics
    wanted = dict(zip(("emoji-topic", "main-pub-topic", CLUSTER), numbers, strict=True))
    admin.delete_topics(list(wanted))
    wait_until("they are gone", lambda: not set(wanted) & set(admin.list_topics()))
    admin.create_topics([NewTopic(topic, number, replication_factor=1) for topic, number in wanted.items()])
    with stages(broker) as running, curl(broker.environment, running.stream_url) as stream:
        with broker.stream("emoji-topic", lambda number: event(EMOJIS[number % 20])) as taps:
            wait_until("the first pushes", running.received, 400)
        running.all_arrived(taps, [stream])
        assert stream.last_event_id.count(".") == numbers[2] - 1


def test_the_dashboard_reads_new_partitions(empty_topics: Broker, admin: KafkaAdminClient) -> None:
    settings, next_offsets = load([], environ=empty_topics.environment), dict[int, int]()
    empty_topics.produce("main-pub-topic", [count("old")], partition=0)
    assert [row.emoji for row in read_counts(settings, 0, next_offsets, 60)] == ["old"]
    admin.create_partitions({"main-pub-topic": NewPartitions(6)})
    empty_topics.produce("main-pub-topic", [count("new")], partition=5)
    assert [row.emoji for row in read_counts(settings, 0, next_offsets, 60)] == ["new"]
    assert not list(read_counts(settings, 0, next_offsets, 60))


def test_a_registration_holds_when_its_key_moves_to_another_partition(
    empty_topics: Broker, admin: KafkaAdminClient
) -> None:
    settings = load([], environ=empty_topics.environment)
    urls = [f"http://127.0.0.1:{port}/" for port in range(8001, 8013)]
    older = RegistryTopic(settings, CLUSTER, 1)
    for url in urls:
        older.save(Registration(url, {0: 1}))()
    older.close()
    before = {record.key: record.partition for record in empty_topics.read(REGISTRY_TOPIC)}
    admin.create_partitions({REGISTRY_TOPIC: NewPartitions(6)})
    newer = RegistryTopic(settings, CLUSTER, 1)
    for url in urls:
        newer.save(Registration(url, {0: 2, 5: 1}))()
    after = {record.key: record.partition for record in empty_topics.read(REGISTRY_TOPIC)}
    assert any(before[key] != after[key] for key in before)
    found = {registration.client_url: registration.next_offsets for registration in newer.read()}
    assert found == {url: {0: 2, 5: 1} for url in urls}
    for url in urls:
        newer.forget(url)
    wait_until("all are forgotten", lambda: not newer.read())
    newer.close()


def test_a_record_keeps_its_order_with_the_others_of_its_partition_whatever_the_numbers(
    empty_topics: Broker, admin: KafkaAdminClient
) -> None:
    admin.create_partitions({"main-pub-topic": NewPartitions(7)})
    producer = KafkaProducer(bootstrap_servers=empty_topics.servers, metadata_max_age_ms=100)
    wait_until("the producer knows", lambda: len(producer.partitions_for("main-pub-topic")) == 7)
    for number in range(20):
        for partition in range(7):
            producer.send("main-pub-topic", value=count(f"p{partition}", number), partition=partition)
    producer.close()
    with script(empty_topics.environment, "cluster_publisher.py", CLUSTER_TOPIC=CLUSTER):
        wait_until("all are routed", lambda: len(empty_topics.read(CLUSTER)) == 140)
    for emoji in (f"p{partition}" for partition in range(7)):
        found = [record for record in empty_topics.read(CLUSTER) if json.loads(record.value)["emoji"] == emoji]
        assert [json.loads(record.value)["batch_id"] for record in found] == list(range(20))
        assert {record.partition for record in found} == {int(emoji[1:]) % 3}
