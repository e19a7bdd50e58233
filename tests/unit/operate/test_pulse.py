"""emostream.operate.pulse: the last micro-batches of a room, the same for everybody."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from emostream.operate import pulse
from emostream.operate.dashboard.counts_reader import CountRow
from emostream.operate.pulse import PULSE_SECONDS, Pulse
from testkit.settings import settings_with
from tests.unit.operate.dashboard.conftest import NOW_MS, unreadable


class Topic:
    """A topic that a test writes, and a clock that it sets. Reading goes on where it ended, as on Kafka."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[CountRow] = []
        self.now_ms = NOW_MS
        monkeypatch.setattr(time, "time", lambda: self.now_ms / 1000)
        monkeypatch.setattr(time, "monotonic", lambda: self.now_ms / 1000)
        monkeypatch.setattr(pulse, "read_counts", self.read)

    def read(self, _settings: object, since_ms: int, next_offsets: dict[int, int], _timeout: float) -> list[CountRow]:
        first = next_offsets.get(0, 0)
        next_offsets[0] = len(self.rows)
        return [row for row in self.rows[first:] if row.time_ms >= since_ms]

    def publish(self, batch_id: int, emojis: str, room: str = "", ago_ms: int = 0) -> None:
        at = self.now_ms - ago_ms
        self.rows += [CountRow(at, batch_id, emoji, 1, 7, room, len(emojis)) for emoji in emojis]


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    return Topic(monkeypatch)


def client(**settings: object) -> FlaskClient:
    app = Flask("test")
    app.register_blueprint(pulse.blueprint(settings_with(**settings)))
    return app.test_client()


def ids(answer: Any) -> list[int]:
    return [batch["batch_id"] for batch in answer.json["batches"]]


def test_each_room_has_its_own_micro_batches_of_the_last_seconds_the_oldest_first(topic: Topic) -> None:
    topic.publish(3, "😊", ago_ms=PULSE_SECONDS * 1000 + 1)
    topic.publish(4, "🔥😊", ago_ms=4_000)
    topic.publish(5, "🔥", room="final", ago_ms=2_000)
    topic.publish(6, "😊", ago_ms=2_000)
    app = client()
    assert ids(app.get("/pulse.json")) == ids(app.get("/pulse.json?room=")) == [4, 6]
    assert app.get("/pulse.json?room=final").json == {
        "room": "final",
        "batch_seconds": 2,
        "batches": [
            {"batch_id": 5, "batched_ms": NOW_MS - 2_000, "counts": [{"emoji": "🔥", "count": 1, "events": 7}]}
        ],
    }


@pytest.mark.parametrize("emojis", ["", "😊"])
def test_any_cache_may_keep_it_for_a_second_also_while_nobody_taps(topic: Topic, emojis: str) -> None:
    app = client()
    topic.publish(1, emojis)
    found = app.get("/pulse.json", headers={"Cookie": "a=b", "User-Agent": "x"})
    assert ids(found) == [1] * len(emojis)
    # Without it, a cache would ask us for each viewer.
    assert found.headers["Cache-Control"] == "public, max-age=1"
    assert "Set-Cookie" not in found.headers
    again = app.get("/pulse.json", headers={"If-None-Match": found.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client().get("/pulse.json").data == found.data, "another worker has the same bytes"


def test_it_is_sent_compressed_to_those_who_take_that(topic: Topic) -> None:
    topic.publish(1, "🔥😊👏😂😍")
    plain = client().get("/pulse.json")
    found = client().get("/pulse.json", headers={"Accept-Encoding": "gzip, br"})
    assert (found.headers["Content-Encoding"], gzip.decompress(found.data)) == ("gzip", plain.data)
    assert "Content-Encoding" not in plain.headers
    assert plain.headers["Vary"] == found.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["ETag"] != found.headers["ETag"]
    assert client().get("/pulse.json", headers={"Accept-Encoding": "gzip"}).data == found.data


def test_what_is_old_goes_also_while_nobody_asks(topic: Topic) -> None:
    app = client()
    topic.publish(1, "😊")
    assert ids(app.get("/pulse.json")) == [1]
    topic.now_ms += PULSE_SECONDS * 1_000 + 1_000
    topic.publish(2, "😊")
    assert ids(app.get("/pulse.json")) == [2]


def test_a_count_without_a_batch_id_is_left_out_because_nobody_could_tell_whether_he_has_it(topic: Topic) -> None:
    topic.rows.append(CountRow(NOW_MS, None, "😊", 1, 1))
    assert ids(client().get("/pulse.json")) == []


@given(st.data())
def test_however_the_records_come_each_micro_batch_is_there_once_whole_and_in_order(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        topic, found, published = Topic(patch), Pulse(settings_with()), []
        rows = [
            CountRow(NOW_MS + batch_id, batch_id, emoji, 1, 7, room, 3)
            for batch_id in range(data.draw(st.integers(1, 4)))
            for room in ("", "final")
            for emoji in "🔥😊👏"
        ]
        order = data.draw(st.permutations(rows))  # as from several partitions
        while order:
            some = data.draw(st.integers(min(2, len(order)), len(order)))  # so that none grows too old meanwhile
            topic.rows += order[:some]
            published += order[:some]
            order = order[some:]
            topic.now_ms += 600
            for room in ("", "final"):
                assert seen(found.body(room)) == wanted(published, room)


def seen(answer: tuple[bytes, bytes]) -> list[tuple[int, set[str]]]:
    return [(one["batch_id"], {count["emoji"] for count in one["counts"]}) for one in json.loads(answer[0])["batches"]]


def wanted(rows: Iterable[CountRow], room: str) -> list[tuple[int, set[str]]]:
    by_batch: dict[int, set[str]] = {}
    for row in rows:
        if row.room == room:
            by_batch.setdefault(row.batch_id or 0, set()).add(row.emoji)
    return sorted((batch_id, emojis) for batch_id, emojis in by_batch.items() if len(emojis) == 3)


def test_a_room_that_cannot_be_or_is_not_open_is_refused(topic: Topic) -> None:
    app = client(ROOMS="final")
    assert app.get("/pulse.json?room=final").status_code == app.get("/pulse.json").status_code == 200
    other = app.get("/pulse.json?room=other")
    assert (other.status_code, other.headers["Cache-Control"]) == (404, "no-store")
    assert other.json == {"error": "room: expected one that is open, got other"}
    assert app.get("/pulse.json?room=final&room=final").status_code == 400
    assert app.get("/pulse.json?room=a%20b").status_code == 400


def test_while_the_topic_cannot_be_read_for_a_moment_it_is_what_was_read_before(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = client()
    topic.publish(1, "😊")
    assert ids(app.get("/pulse.json")) == [1]
    monkeypatch.setattr(pulse, "read_counts", unreadable)
    topic.now_ms += PULSE_SECONDS * 1_000
    answer = app.get("/pulse.json")
    assert (ids(answer), answer.headers["Cache-Control"]) == ([1], "public, max-age=1")
    topic.now_ms += 1_000
    assert app.get("/pulse.json").status_code == 503
    monkeypatch.setattr(pulse, "read_counts", topic.read)
    topic.publish(2, "😊")
    assert ids(app.get("/pulse.json")) == [2]


def test_while_the_topic_cannot_be_read_it_is_an_error_that_no_cache_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "read_counts", unreadable)
    answer = client().get("/pulse.json")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (503, "no-store")
    assert "main-pub-topic cannot be read" in answer.json["error"]  # type: ignore[index]
