"""The timeline: what the dashboard and the CSV make of the counts on the main topic."""

from __future__ import annotations

import csv
import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import cast

import pytest
from confluent_kafka import Message
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given

from emostream.ingest.api import IngestApi
from emostream.ingest.producer import BoundedProducer
from emostream.ingest.routes import create_app
from emostream.metrics.catalogue import INGEST
from emostream.metrics.counters import Metrics
from emostream.metrics.page import Page
from emostream.operate.dashboard import routes as dashboard
from emostream.operate.dashboard import timeline
from emostream.operate.dashboard.timeline import BUCKETS, Away, Row, harmless, to_csv, view
from emostream.process import Log
from emostream.records import encode
from emostream.settings import Settings
from tests.unit.support import FakeDirectory, FakeProducer, any_text, settings_with

NOW_MS = 1_785_000_000_000
ROWS = [
    Row(NOW_MS - 2000, 8, "😊", 1, 1),
    Row(NOW_MS - 4000, 7, "🔥", 2, 1500),
    Row(NOW_MS - 4000, 7, "👏", 1, 3),
    Row(NOW_MS - 4000, None, "=HYPERLINK(\"http://x\",1)", 1, None),
    Row(NOW_MS - 40 * 60_000, 1, "🦕", 1, 1),
]  # fmt: skip


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """What there is to be read, instead of a topic."""
    rows = list(ROWS)

    def read(_settings: Settings, _since_ms: int, _offsets: dict[int, int], _timeout: float) -> Iterator[Row]:
        yield from rows

    monkeypatch.setattr(timeline, "read", read)
    return rows


def away(*_: object) -> Iterator[Row]:
    raise Away("main-pub-topic cannot be read from localhost:9092 (no connection)")
    yield


def client() -> FlaskClient:
    app = Flask("test")
    app.register_blueprint(dashboard.blueprint(settings_with(), FakeDirectory(), lambda: b""))
    return app.test_client()


# --- CSV ---


def test_the_csv_has_a_line_per_emoji_and_batch_the_oldest_and_of_a_batch_the_most_first(topic: list[Row]) -> None:
    assert to_csv(settings_with(), 30, NOW_MS).decode() == (
        "time,batch_id,emoji,count,events\r\n"
        '2026-07-25T17:19:56.000Z,,"\'=HYPERLINK(""http://x"",1)",1,\r\n'
        "2026-07-25T17:19:56.000Z,7,🔥,2,1500\r\n"
        "2026-07-25T17:19:56.000Z,7,👏,1,3\r\n"
        "2026-07-25T17:19:58.000Z,8,😊,1,1\r\n"
    )


@given(any_text)
def test_no_text_is_a_formula_to_a_spreadsheet_and_each_comes_back_as_it_was(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([harmless(text), 1])
    [[cell, _]] = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert cell.removeprefix("'") == text.removeprefix("'")
    assert cell.lstrip()[:1] not in set("=+-@＝＋－＠")


def test_more_rows_than_memory_allows_are_refused_in_words(topic: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_ROWS", 3)
    monkeypatch.setattr(dashboard, "round", lambda _: NOW_MS, raising=False)
    answer = client().get("/timeline.csv?minutes=60")
    assert answer.status_code == 413
    assert "60" in answer.json["error"]  # type: ignore[index]


@pytest.mark.parametrize("minutes", ["1", "30", "360"])
def test_the_csv_is_a_download_that_nobody_keeps(topic: list[Row], minutes: str) -> None:
    answer = client().get(f"/timeline.csv?minutes={minutes}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="emostream-timeline.csv"'
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("query", ["0", "361", "-1", "1.5", "", "x", "٣", "1&minutes=2", "99999999999999999999"])
def test_minutes_that_are_none_are_refused(topic: list[Row], query: str) -> None:
    answer = client().get(f"/timeline.csv?minutes={query}")
    assert answer.status_code == 400
    assert "minutes: expected one number from 1 to 360" in answer.text


def test_one_csv_is_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> bytes:
        begun.set()
        go_on.wait(10)
        return b""

    monkeypatch.setattr(dashboard, "to_csv", slow)
    app = client()
    first = threading.Thread(target=lambda: app.get("/timeline.csv"))
    first.start()
    begun.wait(10)
    answer = app.get("/timeline.csv")
    go_on.set()
    first.join(10)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert app.get("/timeline.csv").status_code == 200


@pytest.mark.parametrize("path", ["/timeline.csv", "/timeline.json"])
def test_without_a_broker_there_is_a_sentence(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "read", away)
    answer = client().get(path)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json == {"error": "try again: main-pub-topic cannot be read from localhost:9092 (no connection)"}


def test_no_page_of_another_site_may_read_what_operators_see(topic: list[Row]) -> None:
    settings = settings_with(CORS_ORIGINS="*", SUBSCRIBER_BASE_PORT=1, METRICS_BASE_PORT=1)
    counters = Metrics(Log("test"), INGEST)
    app = create_app(IngestApi(settings, cast(BoundedProducer, FakeProducer()), counters), Page(counters))
    app.register_blueprint(dashboard.blueprint(settings, FakeDirectory(), lambda: b""))
    for path in ("/dashboard.json", "/timeline.json", "/timeline.csv", "/timeline.csv?minutes=0"):
        answer = app.test_client().get(path, headers={"Origin": "http://elsewhere.example"})
        assert answer.status_code in (200, 400)
        assert "Access-Control-Allow-Origin" not in answer.headers
    answer = app.test_client().get("/livez", headers={"Origin": "http://elsewhere.example"})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


# --- the chart ---


def test_buckets_hold_the_most_frequent_emojis_and_all_others_together() -> None:
    emojis = "🔥😊😂👏😍🎉🦕🐳"
    buckets = {100: Counter({emoji: 80 - 10 * n for n, emoji in enumerate(emojis)}), 101: Counter({"😊": 1000})}
    found = view(buckets, 100 - BUCKETS + 2)
    assert [one.emoji for one in found.emojis] == list("😊🔥😂👏😍🎉")
    assert [one.events[-2:] for one in found.emojis[:2]] == [[70, 1000], [80, 0]]
    assert (found.others[-2:], found.other_emojis) == ([20 + 10, 0], 2)
    assert found.first_ms == (102 - BUCKETS) * 10_000
    assert all(len(one.events) == BUCKETS for one in found.emojis)


def test_a_bucket_is_shown_when_it_is_whole_and_counts_without_events_count_as_they_are(
    topic: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW_MS / 1000)
    found = timeline.Timeline(settings_with()).now()
    assert found.first_ms + BUCKETS * 10_000 == NOW_MS - 10_000  # the last one may still get counts
    assert found.emojis == []
    monkeypatch.setattr(time, "time", lambda: NOW_MS / 1000 + 3.6)
    found = timeline.Timeline(settings_with()).now()
    assert {one.emoji: one.events[-1] for one in found.emojis} == {
        "🔥": 1500, "👏": 3, "😊": 1, '=HYPERLINK("http://x",1)': 1,
    }  # fmt: skip


def test_who_looks_again_soon_reads_nothing(topic: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    one = timeline.Timeline(settings_with())
    first = one.now()
    monkeypatch.setattr(timeline, "read", away)
    assert one.now() is first


def test_who_looks_later_reads_again(topic: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "FRESH_SECONDS", 0.0)
    one = timeline.Timeline(settings_with())
    one.now()
    monkeypatch.setattr(timeline, "read", away)
    with pytest.raises(Away):
        one.now()


# --- records ---


class FakeMessage:
    def __init__(self, value: bytes | None, timestamp_ms: int) -> None:
        self._value, self._timestamp_ms = value, timestamp_ms

    def value(self) -> bytes | None:
        return self._value

    def timestamp(self) -> tuple[int, int]:
        return 1, self._timestamp_ms


@pytest.mark.parametrize(
    ("batched_ms", "expected"),
    [(NOW_MS - 5, NOW_MS - 5), (None, NOW_MS), (NOW_MS * 1000, NOW_MS), (-1, NOW_MS), (10**30, NOW_MS)],
)
def test_the_time_of_a_batch_is_the_publishers_as_far_as_it_is_believed(batched_ms: int | None, expected: int) -> None:
    value = encode({"emoji": "😊", "count": 1} | ({} if batched_ms is None else {"batched_ms": batched_ms}))
    row = timeline._row(cast(Message, FakeMessage(value, NOW_MS)))
    assert row is not None
    assert row.time_ms == expected


@pytest.mark.parametrize("value", [None, b"", b"{}", b"\xff", b'{"emoji": "\\u0000", "count": 1}'])
def test_what_is_no_count_is_left_out(value: bytes | None) -> None:
    assert timeline._row(cast(Message, FakeMessage(value, NOW_MS))) is None
