"""The timeline from a real broker: every committed count, and each only once."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import pytest

from emostream.operate.dashboard import timeline
from emostream.operate.dashboard.counts_reader import CountRow, TopicUnreadable, read_counts
from emostream.operate.dashboard.timeline import Timeline, to_csv
from emostream.settings import Settings, load
from testkit.broker import Broker
from testkit.http_calls import call
from testkit.ports import listening
from testkit.scripts import script
from testkit.settings import environment_for
from testkit.waiting import wait_until

EMOJIS = "🔥😊😂👏😍🎉🦕"


def settings_of(broker: Broker) -> Settings:
    return load([], broker.environment)


def count(batch_id: int, emoji: str, events: int, batched_ms: int) -> bytes:
    """A record of MAIN_TOPIC."""
    record = {"emoji": emoji, "count": -(-events // 1000), "events": events, "batch_id": batch_id}
    return json.dumps(record | {"batched_ms": batched_ms}).encode()


def publish(broker: Broker, batches: range) -> None:
    """Each emoji in each of these batches, spread over the partitions."""
    now_ms = round(time.time() * 1000)
    for partition in range(3):
        mine = [(n, emoji) for n in batches for i, emoji in enumerate(EMOJIS) if (i + n) % 3 == partition]
        values = [count(n, emoji, 100 + n, now_ms - 1000 * (batches[-1] - n)) for n, emoji in mine]
        broker.produce_at_once("main-pub-topic", values, partition)


def test_every_count_is_in_the_csv_once_and_in_order(empty_topics: Broker) -> None:
    empty_topics.produce("main-pub-topic", [b"junk", None])
    publish(empty_topics, range(40))
    now_ms = round(time.time() * 1000)
    lines = list(csv.DictReader(io.StringIO(to_csv(settings_of(empty_topics), 1, now_ms).decode())))
    found = [(int(line["batch_id"]), line["emoji"], int(line["events"])) for line in lines]
    assert sorted(found) == sorted((n, emoji, 100 + n) for n in range(40) for emoji in EMOJIS)
    assert [batch_id for batch_id, _, _ in found] == sorted(batch_id for batch_id, _, _ in found)


def test_each_count_is_read_once_and_a_replaced_topic_is_read_from_its_start(
    empty_topics: Broker,
) -> None:
    settings = settings_of(empty_topics)
    offsets: dict[int, int] = {}

    def found() -> list[CountRow]:
        return list(read_counts(settings, 0, offsets, 60))

    assert found() == []
    publish(empty_topics, range(3))
    assert len(found()) == 3 * len(EMOJIS)
    assert found() == []
    publish(empty_topics, range(3, 5))
    assert {row.batch_id for row in found()} == {3, 4}
    empty_topics.replace_topics()
    publish(empty_topics, range(1))
    assert {row.batch_id for row in found()} == {0}


def test_the_chart_continues_with_the_counts_that_came_since(
    empty_topics: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "TIMELINE_SECONDS", 0.0)
    one = Timeline(settings_of(empty_topics))
    publish(empty_topics, range(2))
    one.now()
    publish(empty_topics, range(2, 4))
    later = time.time() + 20
    monkeypatch.setattr(time, "time", lambda: later)
    found = one.now()
    assert {series.emoji: sum(series.events) for series in found.emojis} == dict.fromkeys(
        sorted(EMOJIS)[:6], 100 + 101 + 102 + 103
    )
    assert (sum(found.others), found.other_emojis) == (406, 1)


def test_a_broker_that_is_away_is_reported(tmp_path: Path) -> None:
    settings = load([], environment_for(tmp_path / "away"))
    with pytest.raises(TopicUnreadable, match=r"main-pub-topic cannot be read from localhost:\d+"):
        Timeline(settings).now()


def test_the_app_answers_with_what_is_on_the_topic(empty_topics: Broker) -> None:
    publish(empty_topics, range(5))
    url = f"http://127.0.0.1:{empty_topics.environment['APP_PORT']}"
    with script(empty_topics.environment, "app.py"):
        wait_until("the app listens", lambda: listening(int(empty_topics.environment["APP_PORT"])))
        status, found = call(f"{url}/timeline.json")
        assert (status, len(found["others"])) == (200, 180)

        def overview() -> tuple[int, bool, set[str], set[str]]:
            status, found = call(f"{url}/dashboard.json")
            with_page, with_state = (
                {process["name"] for process in found["processes"] if process[what]} for what in ("page", "state")
            )
            return status, found["supervised"], with_page, with_state

        # Where the app is slow to give its own page, an overview is without it.
        wait_until("the page of the app", lambda: overview() == (200, False, {"app"}, {"kafka_1"}))
