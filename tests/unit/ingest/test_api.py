"""emostream.ingest.api: its answers to every kind of request, and to every spelling of a target."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Hashable, Iterator, Sequence
from functools import cache
from typing import Any, cast
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emostream.http.messages import JSON, Answer, Request, path_of
from emostream.ingest.api import NDJSON, IngestApi
from emostream.ingest.producer import BoundedProducer, BufferFull
from emostream.ingest.routes import create_app, threaded
from emostream.metrics.catalogue import INGEST
from emostream.metrics.counters import Metrics
from emostream.metrics.page import MetricsPage
from emostream.process import Log
from emostream.records import MAX_BATCH_BODY_BYTES, MAX_BODY_BYTES
from testkit.doubles import FakeProducer
from testkit.settings import settings_with
from testkit.strategies import any_text, json_scalars, json_values
from testkit.waiting import wait_until

TAP = '{"user_id": "u1", "emoji_type": "😊", "timestamp": "2026-01-31T20:15:00Z"}'.encode()
Pairs = Sequence[tuple[str, str]]
cached_settings = cache(settings_with)  # many apps here have the same ones


class App:
    """The app of one worker around a fake producer."""

    def __init__(self, **values: Hashable) -> None:
        self.producer = FakeProducer()
        self.counters = Metrics(Log("test"), INGEST)
        settings = cached_settings(**values)
        self.api = IngestApi(settings, cast(BoundedProducer, self.producer), self.counters)
        self.flask = create_app(self.api, MetricsPage(self.counters))
        self.api.flask = threaded(self.flask, settings)

    async def ask(self, request: Request, busy: bool = False) -> Answer:
        answer = self.api.answer(request, busy)
        return answer if isinstance(answer, Answer) else await answer


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def asking(
    body: bytes = TAP, method: str = "POST", path: str = "/send-emoji", pairs: Pairs = (("content-type", JSON),)
) -> Request:
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        headers.setdefault(name.encode(), value.encode("latin-1"))
    return Request(headers, "192.0.2.1", method.encode(), quote(path, "/?").encode(), body)


def escapes(target: bytes) -> bytes:
    """The same target with every character of its path as an escape."""
    return b"/" + b"".join(b"%%%02x" % byte for byte in path_of(target)[1:]) + b"?" + target.partition(b"?")[2]


header_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
near_taps = st.fixed_dictionaries(
    {name: json_scalars | st.just(value) for name, value in json.loads(TAP).items()},
    optional={"count": st.integers(-1, 1002) | json_scalars},
)
taps = st.just(json.loads(TAP)) | st.builds(
    lambda emoji: json.loads(TAP) | {"emoji_type": emoji}, any_text | st.sampled_from(["❤", "❤️", "👍🏽", "🔥"])
)
objects = taps | near_taps | json_values


class TooLong(bytes):
    """Good but for its length; does not fill the screen when a test fails."""

    def __repr__(self) -> str:
        return f"TooLong({len(self)} bytes)"


bodies = (
    st.just(TAP)
    | st.binary(max_size=50)
    | st.sampled_from([TooLong(b" " * most + TAP) for most in (MAX_BODY_BYTES, MAX_BATCH_BODY_BYTES)])
    | objects.map(lambda value: json.dumps(value).encode())
    | st.lists(objects, max_size=4).map(lambda values: json.dumps(values).encode())
    | st.lists(objects, max_size=4).map(lambda values: b"\n".join(json.dumps(value).encode() for value in values))
)
media = st.sampled_from([JSON, NDJSON, f"{JSON}; charset=utf-8", "text/plain", ""]) | header_values
one_header = (
    st.tuples(st.just("content-type"), media)
    | st.tuples(st.just("origin"), st.sampled_from(["https://a.example", "https://b.example", "null"]) | header_values)
    | st.tuples(st.just("x-forwarded-for"), st.sampled_from(["198.51.100.7", "10.0.0.1, ::1"]) | header_values)
    | st.tuples(st.just("authorization"), st.sampled_from(["Bearer k", "bearer  k", "Basic k"]) | header_values)
    | st.tuples(st.just("x-api-key"), st.sampled_from(["k", ""]) | header_values)
    | st.tuples(st.just("accept"), header_values)
)
paths = (
    st.sampled_from(["/send-emoji", "/send-emojis"] * 4 + ["/livez", "/readyz", "/openapi.json", "/", "/é"]) | any_text
)
operators = st.fixed_dictionaries(
    {},
    optional={
        "API_KEY": st.just("k"),
        "EMOJIS": st.just("😊,❤️"),
        "RATE_LIMIT_USER": st.sampled_from(["1/hour", "2/hour"]),
        "RATE_LIMIT_ADDRESS": st.sampled_from(["1/hour", "3/hour"]),
        "TRUSTED_PROXIES": st.just("192.0.2.0/24"),
        "CORS_ORIGINS": st.sampled_from(["", "https://a.example", "*"]),
        "ACK": st.just("broker"),
    },
)
methods = st.sampled_from(["POST"] * 6 + ["GET", "HEAD", "OPTIONS", "PUT", "BREW"])


@settings(max_examples=400, deadline=None)
@given(
    operators,
    st.lists(
        st.tuples(
            bodies, methods, paths,
            st.lists(one_header, max_size=3).map(lambda more: [*more, ("content-type", JSON)]),
        ),
        min_size=1, max_size=4,
    ),
    st.sampled_from([None, None, "full", "away"]),
)  # fmt: skip
@example({}, [(TAP, "POST", "/send-emoji", [("content-type", JSON)])] * 2, None)
@example({"RATE_LIMIT_USER": "1/hour"}, [(TAP, "POST", "/send-emoji", [("content-type", JSON)])] * 2, None)
@example(
    {"RATE_LIMIT_ADDRESS": "1/hour", "TRUSTED_PROXIES": "192.0.2.0/24"},
    [
        (TAP, "POST", "/send-emoji", [("content-type", JSON), ("x-forwarded-for", f"198.51.100.{host}")])
        for host in (7, 8, 7)
    ],
    None,
)
@example({}, [(b"[" + TAP + b",1]", "POST", "/send-emojis", [("content-type", JSON)])], None)
@example({}, [(TAP + b"\n" + TAP, "POST", "/send-emojis", [("content-type", NDJSON)])], "full")
def test_every_request_gets_a_good_answer_and_the_same_one_however_its_target_is_written(
    loop: asyncio.AbstractEventLoop,
    operator: dict[str, Any],
    requests: list[tuple[bytes, str, str, Pairs]],
    trouble: str | None,
) -> None:
    plain, escaped = App(**operator), App(**operator)
    for app in (plain, escaped):
        app.producer.failure = BufferFull("3 events wait") if trouble == "full" else None
        app.api.broker_away = trouble == "away"
    for request in (asking(*parts) for parts in requests):
        one = loop.run_until_complete(plain.ask(request))
        other = loop.run_until_complete(escaped.ask(msgspec.structs.replace(request, target=escapes(request.target))))
        assert (one.status, sorted(one.headers), one.body) == (other.status, sorted(other.headers), other.body)
        assert one.status < 500 or trouble
    assert plain.producer.sent == escaped.producer.sent
    assert plain.counters.snapshot() == escaped.counters.snapshot()


def test_a_slow_route_of_flask_holds_up_no_tap(loop: asyncio.AbstractEventLoop) -> None:
    app = App()
    entered, release = threading.Event(), threading.Event()

    @app.flask.get("/slow")
    def slow() -> str:
        entered.set()
        release.wait(30)
        return "done"

    async def scenario() -> None:
        waiting = asyncio.create_task(app.ask(asking(method="GET", path="/slow")))
        await asyncio.to_thread(wait_until, "the slow route", entered.is_set)
        assert (await app.ask(asking())).status == 200
        assert not waiting.done()
        release.set()
        assert (await waiting).body == b"done"

    loop.run_until_complete(scenario())


def test_accepted_taps_get_the_same_answer_object(loop: asyncio.AbstractEventLoop) -> None:
    app = App()
    first, second = (loop.run_until_complete(app.ask(asking())) for _ in range(2))
    assert first is second


@pytest.mark.parametrize("header", [b"x_forwarded_for", b"content_length"])
def test_a_header_with_an_underscore_does_not_replace_the_one_with_hyphens(
    loop: asyncio.AbstractEventLoop, header: bytes
) -> None:
    app = App(RATE_LIMIT_ADDRESS="1/hour", TRUSTED_PROXIES="192.0.2.0/24")
    for number, status in ((7, 200), (8, 429)):
        request = asking(pairs=[("content-type", JSON), ("x-forwarded-for", "198.51.100.7")])
        request.headers[header] = b"198.51.100.%d" % number
        assert loop.run_until_complete(app.ask(request)).status == status


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/send-emoji?from=app", 200), (b"/send%2Demoji", 200), (b"/nothing", 404), (b"/%ff", 404),
    ],
)  # fmt: skip
def test_a_target_may_be_written_in_several_ways(loop: asyncio.AbstractEventLoop, target: bytes, status: int) -> None:
    assert loop.run_until_complete(App().ask(msgspec.structs.replace(asking(), target=target))).status == status


@pytest.mark.parametrize(
    ("acknowledged", "asked", "status"),
    [
        ("buffer", asking(), 200), ("broker", asking(), 503),
        ("buffer", asking(method="GET", path="/"), 503), ("buffer", asking(pairs=[]), 415),
        ("buffer", asking(method="POST", path="/metrics"), 503), ("buffer", asking(method="GET", path="/metrics"), 503),
        *(("broker", asking(b"", "GET", path), 200) for path in ("/livez", "/readyz")),
        ("broker", msgspec.structs.replace(asking(b"", "GET", "/metrics"), peer="127.0.0.1"), 200),
    ],
)  # fmt: skip
def test_a_busy_server_refuses_only_requests_that_would_have_to_wait(
    loop: asyncio.AbstractEventLoop, acknowledged: str, asked: Request, status: int
) -> None:
    app = App(ACK=acknowledged)
    answer = loop.run_until_complete(app.ask(asked, busy=True))
    assert answer.status == status
    assert (("retry-after", "1") in answer.headers) == (status == 503)
    assert app.counters.snapshot().get("refused_busy", 0) == (status == 503)
    assert len(app.producer.sent) == (asked.method == b"POST" and status == 200)


def test_a_request_whose_client_has_left_is_counted() -> None:
    app = App()
    app.api.gone(2)
    assert app.counters.snapshot() == {"gone": 2}
