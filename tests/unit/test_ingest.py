"""emostream.ingest: every answer of POST /send-emoji, and when the producer is flushed."""

from __future__ import annotations

import io
import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder, TestResponse, run_wsgi_app

from emostream.broker import BoundedProducer, BufferFull, NotAcknowledged
from emostream.ingest import FLUSH_LEAD_SECONDS, SHORTEST_FLUSH_SECONDS, create_app, seconds_to_flush
from emostream.records import MAX_BODY_BYTES
from emostream.runtime import Counters, Log
from tests.unit.support import json_scalars, json_values

TAP = b'{"user_id": "u1", "emoji_type": "\xf0\x9f\x98\x8a", "timestamp": "2026-01-31T20:15:00Z"}'


class FakeProducer:
    """Takes records, or refuses all of them for one reason."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.sent: list[bytes] = []

    def send(self, value: bytes, wait_seconds: float = 0.0) -> None:
        if self.failure:
            raise self.failure
        self.sent.append(value)


class Ingest:
    """The app around a fake producer, and its counters."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.producer = FakeProducer(failure)
        self.counters = Counters(Log("test"))
        self.app = create_app(cast(BoundedProducer, self.producer), self.counters)
        self._client = self.app.test_client()

    def ask(self, method: str = "POST", path: str = "/send-emoji", data: bytes = TAP, **more: Any) -> TestResponse:
        return self._client.open(path, method=method, data=data, **({"content_type": "application/json"} | more))


def test_a_tap_is_answered_in_the_words_of_the_contract() -> None:
    answer = Ingest().ask()
    assert (answer.status_code, answer.json) == (200, {"status": "success", "message": "Emoji sent to Kafka"})


def test_a_tap_is_handed_to_the_producer_as_the_event_of_the_contract() -> None:
    ingest = Ingest()
    ingest.ask()
    expected = {"user_id": "u1", "emoji": "😊", "timestamp": "2026-01-31T20:15:00+00:00"}
    assert [json.loads(value) for value in ingest.producer.sent] == [expected]


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_a_content_type_may_have_parameters_and_any_case(content_type: str) -> None:
    assert Ingest().ask(content_type=content_type).status_code == 200


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (400, {"data": b"{}"}),
        (400, {"data": b""}),
        (404, {"path": "/"}),
        (404, {"path": "/send-emoji/"}),
        (405, {"method": "GET"}),
        (405, {"method": "PUT"}),
        (413, {"data": b" " * MAX_BODY_BYTES + TAP}),
        (415, {"content_type": "text/plain"}),
        (415, {"content_type": None}),
        (415, {"content_type": "application/x-www-form-urlencoded"}),
    ],
    ids=str,
)
def test_a_bad_request_is_a_4xx_that_says_what_was_expected(status: int, asked: dict[str, Any]) -> None:
    ingest = Ingest()
    answer = ingest.ask(**asked)
    assert (answer.status_code, answer.mimetype) == (status, "application/json")
    assert answer.json is not None
    assert list(answer.json) == ["error"]
    assert "expected" in answer.json["error"]
    assert ingest.producer.sent == []


def test_a_body_without_a_length_is_bounded_too() -> None:
    environ = EnvironBuilder("/send-emoji", method="POST", content_type="application/json").get_environ()
    environ |= {"wsgi.input": io.BytesIO(b" " * MAX_BODY_BYTES + TAP), "wsgi.input_terminated": True}
    environ.pop("CONTENT_LENGTH", None)
    _, status, _ = run_wsgi_app(Ingest().app, environ)
    assert status.startswith("413")


def test_a_refused_method_comes_with_those_that_are_allowed() -> None:
    assert "POST" in Ingest().ask("GET").headers["Allow"]


@pytest.mark.parametrize("failure", [BufferFull("3 events wait"), NotAcknowledged("no answer in 10 s")], ids=repr)
def test_a_producer_that_does_not_take_events_is_a_503_that_says_why_and_when_to_come_back(failure: Exception) -> None:
    answer = Ingest(failure).ask()
    assert (answer.status_code, int(answer.headers["Retry-After"]) >= 1) == (503, True)
    assert answer.json is not None
    assert str(failure) in answer.json["error"]


near_taps = st.fixed_dictionaries({name: json_scalars | st.just(value) for name, value in json.loads(TAP).items()})


@given(
    st.binary() | (json_values | near_taps).map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["application/json", "text/plain", "", "application/json; charset=utf-16"]) | st.text(),
)
def test_no_request_makes_a_5xx_and_only_a_200_reaches_the_producer(data: bytes, content_type: str) -> None:
    ingest = Ingest()
    answer = ingest.ask(data=data, environ_overrides={"CONTENT_TYPE": content_type.encode().decode("latin-1")})
    assert answer.status_code < 500
    assert answer.json is not None
    assert len(ingest.producer.sent) == (1 if answer.status_code == 200 else 0)


def test_every_request_is_counted_by_its_fate() -> None:
    ingest = Ingest()
    for asked in ({}, {}, {"data": b"{}"}, {"path": "/"}):
        ingest.ask(**asked)
    ingest.producer.failure = BufferFull()
    ingest.ask()
    assert ingest.counters.snapshot() == {"accepted": 2, "refused_invalid": 1, "refused_http": 1, "refused_full": 1}


@given(st.floats(1.7e9, 2e9), st.integers(0, 5000))
def test_a_flush_is_due_within_a_linger_just_before_a_multiple_of_it(now: float, linger_ms: int) -> None:
    linger_seconds = max(linger_ms / 1000, SHORTEST_FLUSH_SECONDS)
    wait_seconds = seconds_to_flush(now, linger_ms)
    assert 0 < wait_seconds <= linger_seconds
    turns = (now + wait_seconds + FLUSH_LEAD_SECONDS) / linger_seconds
    assert turns == pytest.approx(round(turns), rel=0, abs=1e-4)
