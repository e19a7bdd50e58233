"""Hop 2: emoji-topic → main_publisher.py (a real Spark) → main-pub-topic.

Spark takes 15 s to start, so the tests of a class share one publisher. Most of their events are on the topic before it
starts, so that its first micro-batch has all of them.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition

from testkit.broker import Broker
from testkit.scripts import Script, script, with_children_gone
from testkit.settings import PROJECT_DIR
from testkit.waiting import wait_until
from tests.event_cases import EVENT_CASES, compact

SIZES = {"one": 1, "999": 999, "1000": 1000, "1001": 1001, "3785": 3785}


def event(emoji: str) -> bytes:
    return json.dumps({"user_id": "u", "emoji": emoji, "timestamp": "2026-01-31T20:15:00+00:00"}).encode()


def events_of_all_sizes() -> list[bytes]:
    """As many events of each emoji as SIZES says, shuffled."""
    events = [event(emoji) for emoji, size in SIZES.items() for _ in range(size)]
    random.shuffle(events)
    return events


def of(broker: Broker, emoji: str) -> list[dict[str, Any]]:
    """The records of one emoji on main-pub-topic."""
    return [count for count in broker.counts("main-pub-topic") if count["emoji"] == emoji]


def counted(broker: Broker, emoji: str, events: int) -> list[dict[str, Any]]:
    """The records of one emoji, once their events add up to this number."""
    wait_until(
        f"{events} events of {emoji} counted", lambda: sum(count["events"] for count in of(broker, emoji)) >= events
    )
    return of(broker, emoji)


def commit_beyond_the_end(broker: Broker) -> None:
    """Commit offsets that the topic does not reach, as a publisher of a longer topic would have left them."""
    consumer = KafkaConsumer(bootstrap_servers=broker.servers, group_id="main-publisher", enable_auto_commit=False)
    tps = [TopicPartition("emoji-topic", number) for number in range(3)]
    consumer.assign(tps)
    consumer.commit({tp: OffsetAndMetadata(1_000_000, "41", -1) for tp in tps})
    consumer.close()


@pytest.fixture(scope="class")
def publisher(broker: Broker) -> Iterator[Script]:
    """A publisher whose first micro-batch had events of all sizes, and the records of all cases, each written twice."""
    broker.replace_topics()
    broker.produce("emoji-topic", events_of_all_sizes())
    broker.produce("emoji-topic", [written for case in EVENT_CASES for written in (case.value, compact(case.value))], 2)
    with script(broker.environment, "main_publisher.py") as running:
        running.wait_for("msg=batch ", 240)
        yield running


@pytest.fixture(scope="class")
def successor(broker: Broker) -> Iterator[Script]:
    """A publisher with ROUNDING=floor. The one before it had read further than emoji-topic reaches now."""
    broker.replace_topics()
    commit_beyond_the_end(broker)
    broker.produce("emoji-topic", events_of_all_sizes())
    with script(broker.environment, "main_publisher.py", ROUNDING="floor") as running:
        running.wait_for("msg=batch ", 240)
        yield running


class TestARunningPublisher:
    def test_each_emoji_has_one_record_with_the_events_and_their_thousands_rounded_up(
        self, broker: Broker, publisher: Script
    ) -> None:
        found = [count for count in broker.counts("main-pub-topic") if count["emoji"] in SIZES]
        assert sorted((count["emoji"], count["events"], count["count"]) for count in found) == [
            ("1000", 1000, 1), ("1001", 1001, 2), ("3785", 3785, 4), ("999", 999, 1), ("one", 1, 1),
        ]  # fmt: skip

    def test_bad_records_are_not_counted_and_the_good_beside_them_are(self, broker: Broker, publisher: Script) -> None:
        first_batch = [count for count in broker.counts("main-pub-topic") if count["batch_id"] == 0]
        expected = Counter({("", emoji): events for emoji, events in SIZES.items()})
        for case in EVENT_CASES:
            if case.emoji:
                expected[case.room, case.emoji] += 2 * case.taps
        assert {(count.get("room", ""), count["emoji"]): count["events"] for count in first_batch} == expected
        emojis = Counter(room for room, _ in expected)
        assert {(count.get("room", ""), count["batch_emojis"]) for count in first_batch} == set(emojis.items())

    def test_the_key_of_a_record_names_its_room(self, broker: Broker, publisher: Script) -> None:
        keys = {
            (record.key.decode(), count.get("room"), count["emoji"])
            for record in broker.read("main-pub-topic")
            if (count := json.loads(record.value))
        }
        assert {("final/🔥", "final", "🔥"), ("🔥", None, "🔥")} <= keys
        assert all(key == (f"{room}/{emoji}" if room else emoji) for key, room, emoji in keys)

    def test_bad_records_are_logged_with_their_number_topic_partition_and_first_offset(
        self, broker: Broker, publisher: Script
    ) -> None:
        first = min(
            record.offset for record in broker.read("emoji-topic") if record.partition == 2 and not record.value
        )
        bad = sum(2 for case in EVENT_CASES if case.emoji is None)
        assert f"topic=emoji-topic records={bad} " in publisher.log
        assert f'first_offset_of_each_partition="{{\\"2\\": {first}}}"' in publisher.log

    def test_every_micro_batch_starts_from_zero(self, broker: Broker, publisher: Script) -> None:
        for batch in (1, 2):
            broker.produce_at_once("emoji-topic", [event("again")] * 1000)
            records = counted(broker, "again", batch * 1000)
            assert [(count["events"], count["count"]) for count in records] == [(1000, 1)] * batch

    def test_an_emoji_without_events_in_a_micro_batch_has_no_record_for_it(
        self, broker: Broker, publisher: Script
    ) -> None:
        for emoji in ("once", "then another"):
            broker.produce_at_once("emoji-topic", [event(emoji)])
            counted(broker, emoji, 1)
        assert len(of(broker, "once")) == 1

    def test_a_micro_batch_without_events_publishes_nothing(self, broker: Broker, publisher: Script) -> None:
        before = len(broker.read("main-pub-topic"))
        broker.produce_at_once("emoji-topic", [b"no event"])
        wait_until("the bad record is skipped", lambda: "records=1 " in publisher.log)
        assert len(broker.read("main-pub-topic")) == before

    def test_a_flood_of_different_emojis_leaves_the_largest_and_the_number_of_the_rest(
        self, broker: Broker, publisher: Script
    ) -> None:
        flood = [event(f"flood {number:03}") for number in range(150) for _ in range(2 if number >= 60 else 1)]
        broker.produce_at_once("emoji-topic", [*flood, b"no event"])
        wait_until("the flood is cut", lambda: "more emojis than MAX_EMOJIS_PER_BATCH" in publisher.log)
        assert "rooms=0 emojis=50 events=50" in publisher.log
        found = [count for count in broker.counts("main-pub-topic") if count["emoji"].startswith("flood")]
        assert sorted(count["emoji"] for count in found if count["events"] == 2) == [
            f"flood {number:03}" for number in range(60, 150)
        ]
        assert len(found) == 100
        assert {count["batch_emojis"] for count in found} == {100}

    def test_its_page_of_metrics_has_the_numbers_of_spark(self, broker: Broker, publisher: Script) -> None:
        url = f"http://127.0.0.1:{broker.environment['METRICS_BASE_PORT']}/metrics"

        def page() -> str:
            return requests.get(url, timeout=60).text

        wait_until("Spark's numbers", lambda: "\nemostream_spark_input_rows_per_second " in page())
        assert 'emostream_spark_step_seconds{step="addBatch"}' in page()

    def test_events_of_an_aborted_transaction_are_not_counted(self, broker: Broker, publisher: Script) -> None:
        producer = KafkaProducer(bootstrap_servers=broker.servers, transactional_id="test-aborts")
        producer.init_transactions()
        producer.begin_transaction()
        producer.send("emoji-topic", value=event("aborted"), partition=0).get(timeout=30)
        producer.abort_transaction()
        producer.close()
        broker.produce("emoji-topic", [event("after it")], partition=0)
        counted(broker, "after it", 1)
        assert of(broker, "aborted") == []

    def test_at_sigterm_it_counts_what_is_there_and_ends_with_status_0(self, broker: Broker, publisher: Script) -> None:
        broker.produce("emoji-topic", [event("at the end")] * 2500)
        assert publisher.terminate() == 0
        assert sum(count["events"] for count in of(broker, "at the end")) == 2500
        assert "Traceback" not in publisher.log


class TestAPublisherWhoseTopicWasReplaced:
    def test_it_warns_and_goes_on_at_the_first_event(self, broker: Broker, successor: Script) -> None:
        assert "cannot go on where reading ended; going on at the oldest record there is" in successor.log
        assert {count["emoji"]: count["events"] for count in broker.counts("main-pub-topic")} == SIZES
        assert "Traceback" not in successor.log

    def test_rounding_floor_counts_full_thousands_and_at_least_one(self, broker: Broker, successor: Script) -> None:
        found = {count["emoji"]: count["count"] for count in broker.counts("main-pub-topic")}
        assert found == {"one": 1, "999": 1, "1000": 1, "1001": 1, "3785": 3}

    def test_when_another_publisher_takes_over_it_publishes_nothing_and_ends_with_status_3(
        self, broker: Broker, successor: Script
    ) -> None:
        other = KafkaProducer(bootstrap_servers=broker.servers, transactional_id="main-publisher")
        other.init_transactions()
        broker.produce("emoji-topic", [event("for the other")])
        status = successor.process.wait(120)
        other.close()
        assert of(broker, "for the other") == []
        assert status == 3, successor.log[-2000:]


def test_kill_9_at_any_moment_counts_every_event_exactly_once(empty_topics: Broker) -> None:
    emojis = [f"emoji {number}" for number in range(5)]
    with empty_topics.stream("emoji-topic", lambda number: event(emojis[number % 5]), per_second=500) as written:
        for life in range(2):
            with script(empty_topics.environment, "main_publisher.py", BATCH_SECONDS=1) as running:
                running.wait_for("aggregating" if life else "msg=batch ", 240)
                time.sleep(random.uniform(0, 3))  # any moment: before, in and after a transaction
                running.kill()
    with script(empty_topics.environment, "main_publisher.py") as running:
        running.wait_for("msg=batch ", 240)
        assert running.terminate() == 0
    counted = Counter[str]()
    for count in empty_topics.counts("main-pub-topic"):
        assert count["count"] == -(-count["events"] // 1000)
        counted[count["emoji"]] += count["events"]
    assert counted == Counter(json.loads(value)["emoji"] for value in written)


def test_a_sender_with_a_million_taps_on_two_workers_moves_a_count_by_the_cap_at_most(empty_topics: Broker) -> None:
    cap, honest = 100, 30
    port, metrics = empty_topics.environment["APP_PORT"], empty_topics.environment["METRICS_BASE_PORT"]

    def send(user_id: str, taps: int, events: int) -> None:
        tap = {"user_id": user_id, "emoji_type": "🔥", "timestamp": "2026-01-31T20:15:00Z", "count": taps}
        # A connection of its own for each request, so that both workers get some.
        answer = requests.post(f"http://127.0.0.1:{port}/send-emojis", json=[tap] * events, timeout=30)
        assert answer.json()["accepted"] == events

    def capped() -> int:
        page = requests.get(f"http://127.0.0.1:{metrics}/metrics", timeout=60).text
        return int(float(re.findall(r"^emostream_aggregate_capped_total (\S+)", page, re.MULTILINE)[0]))

    with (
        script(empty_topics.environment, "app.py", APP_WORKERS=2) as app,
        script(empty_topics.environment, "main_publisher.py", MAX_TAPS_PER_USER=cap) as publisher,
    ):
        publisher.wait_for("msg=aggregating", 240)
        app.wait_for_port(int(port))
        with ThreadPoolExecutor(8) as senders:
            sent = [senders.submit(send, "a script", 1_000, 50) for _ in range(20)]
            sent += [senders.submit(send, f"viewer {number}", 1, 1) for number in range(honest)]
        for one in sent:
            one.result()
        total = 20 * 50 * 1_000 + honest
        wait_until("all counted or capped",
                   lambda: sum(count["events"] for count in of(empty_topics, "🔥")) + capped() == total)  # fmt: skip
        found = [count["events"] for count in of(empty_topics, "🔥")]
    assert honest < sum(found) <= honest + cap * len(found)
    assert len(found) < 10, "the script's taps came in so many micro-batches that this shows little"


def test_spark_submit_with_packages_runs_it_as_well(empty_topics: Broker, tmp_path: Path) -> None:
    empty_topics.produce("emoji-topic", [event("submitted")] * 1001)
    # No connector in its DATA_DIR: --packages has to bring it.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = empty_topics.environment | {"DATA_DIR": str(tmp_path / "data"), "PATH": path}
    command = [
        str(Path(sys.executable).parent / "spark-submit"), "--conf", f"spark.jars.ivy={tmp_path / 'ivy'}",
        "--packages", "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0", "main_publisher.py", "BATCH_SECONDS=1",
    ]  # fmt: skip
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        submitted = subprocess.Popen(
            command, cwd=PROJECT_DIR, env=environment, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        Script(submitted, log_path).wait_for("msg=batch ", 240)
        assert [(count["events"], count["count"]) for count in empty_topics.counts("main-pub-topic")] == [(1001, 2)]
    finally:
        with_children_gone(submitted.pid)
        submitted.wait(30)
