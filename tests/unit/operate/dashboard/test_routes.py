"""emostream.operate.dashboard.routes: what the operator's page and the CSV download are answered."""

from __future__ import annotations

import threading
import time
from typing import cast

import pytest
from flask import Flask
from flask.testing import FlaskClient

from emostream.ingest.api import IngestApi
from emostream.ingest.producer import BoundedProducer
from emostream.ingest.routes import create_app
from emostream.metrics.catalogue import INGEST
from emostream.metrics.counters import Metrics
from emostream.metrics.page import MetricsPage
from emostream.operate.dashboard import routes, timeline
from emostream.process import Log
from testkit.doubles import FakeDirectory, FakeProducer
from testkit.settings import settings_with
from tests.unit.operate.dashboard.conftest import NOW_MS, unreadable


def client() -> FlaskClient:
    app = Flask("test")
    app.register_blueprint(routes.blueprint(settings_with(), FakeDirectory(), lambda: b""))
    return app.test_client()


@pytest.mark.usefixtures("topic")
def test_a_csv_with_too_many_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_CSV_ROWS", 3)
    monkeypatch.setattr(routes, "round", lambda _: NOW_MS, raising=False)
    answer = client().get("/timeline.csv?minutes=60")
    assert answer.status_code == 413
    assert "60" in answer.json["error"]  # type: ignore[index]


@pytest.mark.usefixtures("topic")
@pytest.mark.parametrize("minutes", ["1", "30", "360"])
def test_the_csv_is_a_download_that_is_not_cached(minutes: str) -> None:
    answer = client().get(f"/timeline.csv?minutes={minutes}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="emostream-timeline.csv"'
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.usefixtures("topic")
@pytest.mark.parametrize("query", ["0", "361", "-1", "1.5", "", "x", "٣", "1&minutes=2", "99999999999999999999"])
def test_invalid_minutes_are_refused(query: str) -> None:
    answer = client().get(f"/timeline.csv?minutes={query}")
    assert answer.status_code == 400
    assert "minutes: expected one number from 1 to 360" in answer.text


@pytest.mark.usefixtures("topic")
def test_a_room_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "round", lambda _: NOW_MS, raising=False)
    monkeypatch.setattr(time, "time", lambda: NOW_MS / 1000 + 3.6)
    app = client()
    lines = {query: app.get(f"/timeline.csv{query}").text.count("\n") for query in ("", "?room=", "?room=final")}
    assert lines == {"": 5, "?room=": 5, "?room=final": 2}
    emojis = {query: len(app.get(f"/timeline.json{query}").json["emojis"]) for query in ("", "?room=final")}  # type: ignore[index]
    assert emojis == {"": 4, "?room=final": 1}
    assert app.get("/rooms").json["rooms"][0] == {"room": "final", "events": 4500}  # type: ignore[index]
    for number in range(9):
        assert app.get(f"/timeline.json?room=made-up-{number}").status_code == 200
    for path in ("/timeline.json", "/timeline.csv"):
        assert "expected 1 to 64 characters" in app.get(f"{path}?room=a%20b").text
        assert app.get(f"{path}?room=a&room=b").status_code == 400


def test_only_operators_may_list_the_rooms() -> None:
    assert routes.is_for_operators("/rooms")


def test_one_csv_is_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> bytes:
        begun.set()
        go_on.wait(10)
        return b""

    monkeypatch.setattr(routes, "to_csv", slow)
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
def test_without_a_broker_the_answer_says_so(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "read_counts", unreadable)
    answer = client().get(path)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json == {"error": "try again: main-pub-topic cannot be read from localhost:9092 (no connection)"}


@pytest.mark.usefixtures("topic")
def test_no_page_of_another_site_may_read_what_operators_see() -> None:
    settings = settings_with(CORS_ORIGINS="*", SUBSCRIBER_BASE_PORT=1, METRICS_BASE_PORT=1)
    counters = Metrics(Log("test"), INGEST)
    app = create_app(IngestApi(settings, cast(BoundedProducer, FakeProducer()), counters), MetricsPage(counters))
    app.register_blueprint(routes.blueprint(settings, FakeDirectory(), lambda: b""))
    for path in ("/dashboard.json", "/timeline.json", "/timeline.csv", "/timeline.csv?minutes=0"):
        answer = app.test_client().get(path, headers={"Origin": "http://elsewhere.example"})
        assert answer.status_code in (200, 400)
        assert "Access-Control-Allow-Origin" not in answer.headers
    answer = app.test_client().get("/openapi.json", headers={"Origin": "http://elsewhere.example"})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
