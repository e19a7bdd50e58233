"""Hop 3: main-pub-topic → cluster_publisher.py → one cluster's topic."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import AbstractContextManager

import pytest
from kafka import KafkaProducer

from emostream.process import why_not_ready
from emostream.settings import load
from testkit.broker import Broker
from testkit.scripts import Script, script
from testkit.waiting import wait_until

CLUSTER = "cluster2-emoji-topic"


def publisher(broker: Broker) -> AbstractContextManager[Script]:
    return script(broker.environment, "cluster_publisher.py", CLUSTER_TOPIC=CLUSTER)


def count(number: int, writer: str = "test") -> bytes:
    """A count that no other is equal to."""
    return json.dumps({"emoji": "🔥", "count": 1, "batch_id": number, "writer": writer}).encode()


def values(broker: Broker) -> list[bytes]:
    return [record.value for record in broker.read(CLUSTER)]


def routed(broker: Broker, number: int) -> None:
    """Return when the cluster topic holds this many records."""
    wait_until(f"{number} records on {CLUSTER}", lambda: len(broker.read(CLUSTER)) >= number)


def test_values_arrive_unchanged_to_the_byte_with_their_key_and_partition(empty_topics: Broker) -> None:
    written = [
        (0, b"key", b'{"emoji":"\xf0\x9f\x94\xa5","count":1}'),
        (1, None, b' { "count" : 2 , "emoji" : "\\ud83d\\udd25" }\n'),
        (2, "👩‍🚀".encode(), b'{"later": {"more": [1, null]}, "count": 4, "emoji": "x", "events": "unread"}'),
    ]
    producer = KafkaProducer(bootstrap_servers=empty_topics.servers)
    for partition, key, value in written:
        producer.send("main-pub-topic", partition=partition, key=key, value=value)
    producer.close()
    with publisher(empty_topics):
        routed(empty_topics, len(written))
    read = sorted(empty_topics.read(CLUSTER), key=lambda record: record.partition)
    assert [(record.partition, record.key, record.value) for record in read] == written


def test_no_other_cluster_gets_a_record(empty_topics: Broker) -> None:
    empty_topics.produce("main-pub-topic", [count(1)])
    with publisher(empty_topics):
        routed(empty_topics, 1)
    assert empty_topics.read("cluster1-emoji-topic") == []
    assert empty_topics.read("cluster3-emoji-topic") == []


BAD = [
    None,
    b"",
    b"no JSON",
    b"[]",
    b'{"emoji": "x"}',
    b'{"count": 1}',
    b'{"emoji": 5, "count": 1}',
    b'{"emoji": "x", "count": "1"}',
    b'{"emoji": "x", "count": 1.5}',
    b'{"emoji": "x", "count": 0}',
    b'{"emoji": "", "count": 1}',
    b'{"emoji": "\\u001b[2J", "count": 1}',
    b'{"emoji": "x", "count": 1} more',
    b"\xff\xfe",
]


def test_bad_records_are_skipped_by_topic_partition_and_offset_and_the_good_between_them_arrive(
    empty_topics: Broker,
) -> None:
    mixed = [value for number, bad in enumerate(BAD) for value in (bad, count(number))]
    empty_topics.produce("main-pub-topic", mixed, partition=1)
    with publisher(empty_topics) as running:
        routed(empty_topics, len(BAD))
        for offset in range(0, len(mixed), 2):
            assert f"topic=main-pub-topic partition=1 offset={offset} " in running.log
        assert running.log.count("skipped a record") == len(BAD)
    assert values(empty_topics) == [count(number) for number in range(len(BAD))]


def test_records_of_an_aborted_transaction_are_not_routed(empty_topics: Broker) -> None:
    producer = KafkaProducer(bootstrap_servers=empty_topics.servers, transactional_id="test-aborts")
    producer.init_transactions()
    producer.begin_transaction()
    producer.send("main-pub-topic", value=count(1), partition=0).get(timeout=30)
    producer.abort_transaction()
    producer.begin_transaction()
    producer.send("main-pub-topic", value=count(2), partition=0)
    producer.commit_transaction()
    producer.close()
    with publisher(empty_topics):
        routed(empty_topics, 1)
    assert values(empty_topics) == [count(2)]


def test_every_record_is_routed_exactly_once_through_repeated_kill_9(empty_topics: Broker) -> None:
    with (
        empty_topics.stream("main-pub-topic", lambda number: count(number, "plain")) as plain,
        empty_topics.stream(
            "main-pub-topic", lambda number: count(number, "transactional"), transactional=True
        ) as transactional,
    ):
        for _ in range(5):
            with publisher(empty_topics) as running:
                running.wait_for("routing")
                time.sleep(random.uniform(0, 1))  # any moment: before, in and after a transaction
                running.kill()
    with publisher(empty_topics) as running:
        running.wait_for("routing")
        routed(empty_topics, len(plain) + len(transactional))
        assert running.terminate() == 0
    wrong = Counter(values(empty_topics))
    wrong.subtract(plain + transactional)
    assert {value: number for value, number in wrong.items() if number} == {}


def test_it_continues_when_the_topics_are_replaced(empty_topics: Broker) -> None:
    with publisher(empty_topics) as running:
        empty_topics.produce("main-pub-topic", [count(number) for number in range(100)])
        routed(empty_topics, 100)
        empty_topics.replace_topics()
        empty_topics.produce("main-pub-topic", [count(100)])
        routed(empty_topics, 1)
        assert running.process.poll() is None
    assert values(empty_topics) == [count(100)]


def test_a_second_publisher_for_a_cluster_takes_over_and_the_first_ends_with_status_3(empty_topics: Broker) -> None:
    with publisher(empty_topics) as elder:
        elder.wait_for("routing")
        with publisher(empty_topics) as younger:
            younger.wait_for("routing")
            empty_topics.produce("main-pub-topic", [count(1)])
            assert elder.process.wait(60) == 3
            assert "another publisher for this cluster has taken over; this one ends" in elder.log
            assert "Traceback" not in elder.log
            empty_topics.produce("main-pub-topic", [count(2)])
            routed(empty_topics, 2)
            assert younger.terminate() == 0
    assert sorted(values(empty_topics)) == [count(1), count(2)]


@pytest.mark.parametrize("topic", ["main-pub-topic", CLUSTER])
def test_a_publisher_is_not_ready_while_a_topic_of_its_own_is_gone_and_says_so(
    empty_topics: Broker, topic: str
) -> None:
    settings = load([], empty_topics.environment)
    with publisher(empty_topics) as running:

        def why() -> str | None:
            return why_not_ready(settings, "cluster_publisher_2", running.process.pid)

        wait_until("it is ready", lambda: why() is None)
        empty_topics.delete(topic)
        said = f"missing topics {topic}; ./topic.sh creates them"
        wait_until("status knows why", lambda: why() == said)
        running.wait_for(f'msg="not ready" reason="{said}"')
        empty_topics.replace_topics()
        wait_until("it is ready again", lambda: why() is None)
        empty_topics.produce("main-pub-topic", [count(1)])
        routed(empty_topics, 1)


def test_at_sigterm_it_routes_what_is_there_and_ends_with_status_0(empty_topics: Broker) -> None:
    written = [count(number) for number in range(5_000)]
    with publisher(empty_topics) as running:
        running.wait_for("routing")
        os.kill(running.process.pid, signal.SIGSTOP)
        empty_topics.produce("main-pub-topic", written)
        os.kill(running.process.pid, signal.SIGTERM)
        os.kill(running.process.pid, signal.SIGCONT)
        assert running.process.wait(60) == 0
    assert sorted(values(empty_topics)) == sorted(written)


def test_a_publisher_without_a_cluster_topic_says_so_and_exits_2(broker: Broker) -> None:
    with script(broker.environment, "cluster_publisher.py") as running:
        assert running.process.wait(60) == 2
        assert "CLUSTER_TOPIC is not set: expected one of cluster1-emoji-topic" in running.log
        assert "Traceback" not in running.log
