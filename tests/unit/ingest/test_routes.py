"""emostream.ingest.api with Flask behind it: every answer to a tap. And when emostream.ingest.workers flushes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.wrappers import Response

from emostream.http.messages import Answer, Request
from emostream.ingest import refusals
from emostream.ingest.api import IngestApi
from emostream.ingest.producer import BoundedProducer, BufferFull
from emostream.ingest.routes import create_app, threaded
from emostream.ingest.workers import FLUSH_LEAD_SECONDS, SHORTEST_FLUSH_SECONDS, seconds_to_flush
from emostream.metrics.catalogue import INGEST
from emostream.metrics.counters import Metrics
from emostream.metrics.page import MetricsPage
from emostream.process import Log
from emostream.records import MAX_BATCH_BODY_BYTES, MAX_BODY_BYTES
from testkit.doubles import FakeProducer
from testkit.settings import settings_with
from testkit.strategies import json_scalars, json_values

TAP = b'{"user_id": "u1", "emoji_type": "\xf0\x9f\x98\x8a", "timestamp": "2026-01-31T20:15:00Z"}'


cached_settings = cache(settings_with)  # many apps here have the same ones


class Ingest:
    """The app around a fake producer, and its counters."""

    def __init__(self, failure: Exception | None = None, acknowledges: bool = True, **settings: Hashable) -> None:
        self.producer = FakeProducer(failure, acknowledges)
        self.counters = Metrics(Log("test"), INGEST)
        found = cached_settings(**settings)
        self.api = IngestApi(found, cast(BoundedProducer, self.producer), self.counters)
        self.api.flask = threaded(create_app(self.api, MetricsPage(self.counters)), found)

    def ask(
        self, method: str = "POST", path: str = "/send-emoji", data: bytes = TAP,
        content_type: str | None = "application/json", headers: Mapping[str, str] | None = None,
    ) -> Response:  # fmt: skip
        """Ask as a program on this machine does, and wait for the answer."""
        all_headers = {name.lower().encode(): value.encode() for name, value in (headers or {}).items()}
        if content_type is not None:
            all_headers[b"content-type"] = content_type.encode()
        request = Request(all_headers, "127.0.0.1", method.encode(), path.encode(), data)

        async def answered() -> Answer:
            answer = self.api.answer(request, busy=False)
            return answer if isinstance(answer, Answer) else await answer

        answer = asyncio.run(answered())
        return Response(answer.body, answer.status, answer.headers)


def test_a_tap_is_answered_as_the_contract_says() -> None:
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
    ids=lambda value: str(value)[:60],
)
def test_a_bad_request_is_a_4xx_that_says_what_was_expected(status: int, asked: dict[str, Any]) -> None:
    ingest = Ingest()
    answer = ingest.ask(**asked)
    assert (answer.status_code, answer.mimetype) == (status, "application/json")
    assert answer.json is not None
    assert list(answer.json) == ["error"]
    assert "expected" in answer.json["error"]
    assert ingest.producer.sent == []


def test_a_refused_method_is_told_the_allowed_ones() -> None:
    assert "POST" in Ingest().ask("GET").headers["Allow"]


def assert_to_be_tried_again(answer: Response, why: str) -> None:
    assert (answer.status_code, int(answer.headers["Retry-After"]) >= 1) == (503, True)
    assert answer.json is not None
    assert why in answer.json["error"]


def test_a_full_producer_is_a_503_that_says_why_and_when_to_try_again() -> None:
    assert_to_be_tried_again(Ingest(BufferFull("3 events wait")).ask(), "3 events wait")


def test_an_event_that_the_broker_does_not_acknowledge_is_a_503_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "ACK_SECONDS", 0.01)
    ingest = Ingest(acknowledges=False, ACK="broker")
    assert_to_be_tried_again(ingest.ask(), "unknown whether it counts")
    assert len(ingest.producer.sent) == 1


def test_an_event_that_the_broker_acknowledges_is_a_200() -> None:
    assert Ingest(ACK="broker").ask().status_code == 200


near_taps = st.fixed_dictionaries({name: json_scalars | st.just(value) for name, value in json.loads(TAP).items()})


@given(
    st.binary() | (json_values | near_taps).map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["application/json", "text/plain", "", "application/json; charset=utf-16"]) | st.text(),
)
def test_no_request_makes_a_5xx_and_only_a_200_reaches_the_producer(data: bytes, content_type: str) -> None:
    ingest = Ingest()
    answer = ingest.ask(data=data, content_type=content_type)
    assert answer.status_code < 500
    assert answer.json is not None
    assert len(ingest.producer.sent) == (1 if answer.status_code == 200 else 0)


def test_every_request_is_counted_as_accepted_or_by_the_reason_of_its_refusal() -> None:
    ingest = Ingest()
    for asked in ({}, {}, {"data": b"{}"}, {"path": "/"}):
        ingest.ask(**asked)
    ingest.producer.failure = BufferFull()
    ingest.ask()
    assert ingest.counters.snapshot() == {"accepted": 2, "refused_invalid": 1, "refused_http": 1, "refused_full": 1}
    assert ingest.api.taps.received() == 4  # a wrong path is no tap


def test_a_merged_event_counts_as_the_taps_that_it_stands_for() -> None:
    ingest = Ingest()
    ingest.ask(**batch(TAP, merged(5), merged(0)))
    assert ingest.counters.snapshot() == {"accepted": 6, "refused_invalid": 1}
    assert ingest.api.taps.received() == 7


def test_the_page_of_metrics_is_text_for_prometheus() -> None:
    ingest = Ingest()
    ingest.ask()
    page = ingest.ask("GET", "/metrics")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "\nemostream_ingest_accepted_total 1.0\n" in page.get_data(as_text=True)


def batch(*parts: bytes) -> dict[str, Any]:
    return {"path": "/send-emojis", "data": b"[" + b",".join(parts) + b"]"}


def merged(count: object) -> bytes:
    return json.dumps(json.loads(TAP) | {"count": count}).encode()


def lines(*parts: bytes) -> dict[str, Any]:
    return {"path": "/send-emojis", "data": b"\n".join(parts), "content_type": "application/x-ndjson"}


@pytest.mark.parametrize("written", [batch, lines])
def test_the_good_events_of_a_batch_are_accepted_and_the_others_listed(written: Callable[..., dict[str, Any]]) -> None:
    ingest = Ingest()
    answer = ingest.ask(**written(TAP, b"{}", TAP, merged(0)))
    assert answer.status_code == 200
    assert answer.json == {
        "status": "success",
        "accepted": 2,
        "rejected": [
            {"index": 1, "error": "expected the field user_id, got an object without it"},
            {"index": 3, "error": "count: expected 1 to 1000, got 0"},
        ],
    }
    assert len(ingest.producer.sent) == 2
    assert ingest.counters.snapshot() == {"accepted": 2, "refused_invalid": 2}


def test_a_count_is_in_the_record_only_where_it_is_more_than_one() -> None:
    ingest = Ingest()
    ingest.ask(**batch(merged(1), merged(1000)))
    assert [json.loads(value).get("count") for value in ingest.producer.sent] == [None, 1000]


def test_a_single_tap_counts_once_whatever_it_says() -> None:
    ingest = Ingest()
    assert ingest.ask(data=merged(7)).status_code == 200
    assert "count" not in json.loads(ingest.producer.sent[0])


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (400, batch()),
        (400, batch(b"{}", b"1")),
        (400, batch(merged(1001), merged(-1), merged("3"), merged(True), merged(1.5))),
        (400, batch(*[TAP] * 1001)),
        (400, batch(TAP) | {"data": TAP}),
        (400, batch(TAP) | {"data": b"[" * 100_000}),
        (400, batch(TAP, b'"\xff"')),
        (400, lines(b"", b" ")),
        (400, lines(*[TAP] * 1001)),
        (400, lines(b"\xff", b"[]")),
        (405, batch(TAP) | {"method": "GET"}),
        (413, batch(TAP) | {"data": b" " * MAX_BATCH_BODY_BYTES + TAP}),
        (415, batch(TAP) | {"content_type": "text/plain"}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_batch_without_a_good_event_is_a_4xx_that_says_what_was_expected(status: int, asked: dict[str, Any]) -> None:
    ingest = Ingest()
    answer = ingest.ask(**asked)
    assert answer.status_code == status
    assert answer.json is not None
    assert "expected" in answer.json["error"]
    assert ingest.producer.sent == []


def test_a_batch_with_room_for_only_a_part_is_told_which_events_were_refused() -> None:
    ingest = Ingest()
    ingest.producer.room = 2
    answer = ingest.ask(**batch(TAP, TAP, TAP))
    assert answer.json is not None
    assert (answer.status_code, answer.json["accepted"]) == (200, 2)
    assert [rejected["index"] for rejected in answer.json["rejected"]] == [2]
    assert_to_be_tried_again(ingest.ask(**batch(TAP, b"{}")), "expected at least one good event")


def test_a_live_process_is_ready_until_the_broker_is_away() -> None:
    ingest = Ingest()
    assert [ingest.ask("GET", path).status_code for path in ("/livez", "/readyz")] == [200, 200]
    ingest.api.broker_away = True
    assert [ingest.ask("GET", path).status_code for path in ("/livez", "/readyz")] == [200, 503]


def test_with_an_allow_list_other_emojis_are_refused_and_listed_ones_get_its_spelling() -> None:
    ingest = Ingest(EMOJIS="❤️, 👍")
    for emoji, status in {"❤": 200, "❤️": 200, "👍🏽": 200, "😊": 400}.items():
        body = json.dumps(json.loads(TAP) | {"emoji_type": emoji}).encode()
        answer = ingest.ask(data=body)
        assert answer.status_code == status
    assert answer.json == {"error": "emoji_type: expected one of ❤️ 👍, got 😊"}
    assert [json.loads(value)["emoji"] for value in ingest.producer.sent] == ["❤️", "❤️", "👍"]


def in_room(room: object) -> bytes:
    return json.dumps(json.loads(TAP) | {"room": room}).encode()


def rooms_sent(ingest: Ingest) -> list[str | None]:
    return [json.loads(value).get("room") for value in ingest.producer.sent]


def test_a_tap_stays_in_its_room_and_the_query_names_the_room_of_those_without_one() -> None:
    ingest = Ingest()
    for asked in ({"data": in_room("final")}, {"path": "/send-emoji?x=%20&room=sem%69"}, {"path": "/send-emoji?room="}):
        assert ingest.ask(**asked).status_code == 200
    asked = batch(TAP, in_room("final"), in_room("")) | {"path": "/send-emojis?room=semi"}
    assert ingest.ask(**asked).status_code == 200
    assert rooms_sent(ingest) == ["final", "semi", None, "semi", "final", "semi"]


@pytest.mark.parametrize("query", ["room=a%20b", "room=a+b", "room=%ff", "room=a&room=b", f"room={'r' * 65}", "room=🏟"])
@pytest.mark.parametrize("asked", [{}, batch(TAP)], ids=["one", "batch"])
def test_a_wrong_room_in_a_query_is_a_400_that_says_what_was_expected(asked: dict[str, Any], query: str) -> None:
    ingest = Ingest()
    answer = ingest.ask(**asked | {"path": f"{asked.get('path', '/send-emoji')}?{query}"})
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"][:14]) == (400, "room: expected")
    assert (ingest.producer.sent, ingest.counters.snapshot()) == ([], {"refused_http": 1})


def test_a_tap_for_a_room_that_is_not_open_is_a_404_that_lists_those_that_are() -> None:
    ingest = Ingest(ROOMS="final, semi")
    for room, status in {"final": 200, "": 200, "semi": 200, "fina": 404, "a b": 400}.items():
        assert ingest.ask(data=in_room(room)).status_code == status
    answer = ingest.ask(path="/send-emoji?room=other")
    closed = "room: expected none, or one of final semi, got other"
    assert (answer.status_code, answer.json) == (404, {"error": closed})

    answer = ingest.ask(**batch(in_room("final"), in_room("other")))
    assert answer.json == {"status": "success", "accepted": 1, "rejected": [{"index": 1, "error": closed}]}
    assert ingest.ask(**batch(in_room("other"), b"{}")).status_code == 404
    assert rooms_sent(ingest) == ["final", None, "semi", "final"]
    assert ingest.counters.snapshot() == {"accepted": 4, "refused_invalid": 6}


def test_of_many_open_rooms_the_refusal_names_only_the_first() -> None:
    names = [f"room{number:02}" for number in range(25)]
    answer = Ingest(ROOMS=",".join(names)).ask(data=in_room("other"))
    assert answer.json == {"error": f"room: expected none, or one of {' '.join(names[:20])} and 5 more, got other"}


@pytest.mark.parametrize("header", [{"Authorization": "Bearer s3cret"}, {"X-API-Key": "s3cret"}])
def test_a_request_with_the_api_key_is_accepted(header: dict[str, str]) -> None:
    assert Ingest(API_KEY="s3cret").ask(headers=header).status_code == 200


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer x"}, {"Authorization": "s3cret"}, {"X-API-Key": "é"}])
def test_a_request_without_the_api_key_is_refused_with_401(header: dict[str, str]) -> None:
    ingest = Ingest(API_KEY="s3cret")
    answer = ingest.ask(headers=header)
    assert (answer.status_code, "expected the API key" in answer.get_data(as_text=True)) == (401, True)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "s3cret" not in answer.get_data(as_text=True)
    assert ingest.producer.sent == []
    assert ingest.ask("GET", "/readyz").status_code == 200


def test_a_user_over_the_limit_gets_429_and_other_users_do_not() -> None:
    ingest = Ingest(RATE_LIMIT_USER="2/hour")
    answers = [ingest.ask() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 3600
    assert "expected at most 2/hour of a user" in answers[2].get_data(as_text=True)
    assert ingest.ask(data=TAP.replace(b"u1", b"u2")).status_code == 200


def test_a_merged_event_counts_for_the_limit_as_all_of_its_taps() -> None:
    ingest = Ingest(RATE_LIMIT_USER="10/hour")
    answer = ingest.ask(**batch(merged(8), merged(8), TAP))
    assert answer.json is not None
    assert [rejected["index"] for rejected in answer.json["rejected"]] == [1, 2]


@pytest.mark.parametrize("limit", ["RATE_LIMIT_USER", "RATE_LIMIT_ADDRESS"])
def test_an_event_with_more_taps_than_a_limit_is_told_that_it_can_never_pass_and_uses_up_nothing(limit: str) -> None:
    limits: dict[str, Any] = {"RATE_LIMIT_USER": "100/hour", "RATE_LIMIT_ADDRESS": "100/hour", limit: "10/hour"}
    ingest = Ingest(**limits)
    for _ in range(20):
        answer = ingest.ask(**batch(merged(11)))
        assert (answer.status_code, answer.headers.get("Retry-After")) == (400, None)
        assert answer.json is not None
        assert "count: expected at most 10, because 10/hour" in answer.json["rejected"][0]["error"]
    assert ingest.counters.snapshot() == {"refused_rate": 20}
    assert ingest.ask(**batch(merged(10))).status_code == 200


def test_an_address_over_the_limit_gets_429_whoever_the_user_is() -> None:
    ingest = Ingest(RATE_LIMIT_ADDRESS="2/hour", TRUSTED_PROXIES="127.0.0.1")

    def status(user: bytes, address: str) -> int:
        return ingest.ask(data=TAP.replace(b"u1", user), headers={"X-Forwarded-For": address}).status_code

    assert [status(user, "192.0.2.1") for user in (b"a", b"b", b"c")] == [200, 200, 429]
    assert status(b"c", "192.0.2.2") == 200


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ("*", "https://a.example", "*"),
        ("https://a.example,https://b.example", "https://b.example", "https://b.example"),
        ("https://a.example", "https://evil.example", None),
        ("", "https://a.example", None),
    ],
)
def test_a_browser_is_told_which_pages_may_read_an_answer(origins: str, origin: str, allowed: str | None) -> None:
    ingest = Ingest(CORS_ORIGINS=origins)
    for method in ("POST", "OPTIONS"):
        answer = ingest.ask(method, headers={"Origin": origin})
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed
        assert ("Vary" in answer.headers) == origins.startswith("http")
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in answer.headers["Access-Control-Allow-Headers"]


@given(st.floats(1.7e9, 2e9), st.integers(0, 5000))
def test_a_flush_is_due_within_a_linger_just_before_a_multiple_of_it(now: float, linger_ms: int) -> None:
    linger_seconds = max(linger_ms / 1000, SHORTEST_FLUSH_SECONDS)
    wait_seconds = seconds_to_flush(now, linger_ms)
    assert 0 < wait_seconds <= linger_seconds
    turns = (now + wait_seconds + FLUSH_LEAD_SECONDS) / linger_seconds
    assert turns == pytest.approx(round(turns), rel=0, abs=1e-4)
