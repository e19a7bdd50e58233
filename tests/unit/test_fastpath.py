"""emostream.fastpath: the same answers as Flask's, to the byte; bounds on requests and on slow bodies."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emostream.bounded_producer import BoundedProducer, BufferFull
from emostream.fastpath import FastPath
from emostream.ingest import create_app
from emostream.intake import JSON, NDJSON, Intake
from emostream.meters import Metrics, Page
from emostream.metrics import INGEST
from emostream.records import MAX_BATCH_BODY_BYTES, MAX_BODY_BYTES
from emostream.runtime import Log
from tests.harness import wait_until
from tests.unit.support import FakeProducer, any_text, json_scalars, json_values, settings_with

TAP = '{"user_id": "u1", "emoji_type": "😊", "timestamp": "2026-01-31T20:15:00Z"}'.encode()
Pairs = list[tuple[str, str]]


class Headers:
    """RSGI's headers."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    def __contains__(self, name: str) -> bool:
        return name in self.keys()

    def keys(self) -> list[str]:
        return [name for name, _ in self._pairs]

    def get(self, name: str, default: str | None = None) -> str | None:
        return next((value for key, value in self._pairs if key == name), default)

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self._pairs if key == name]


@dataclass
class Scope:
    """RSGI's scope."""

    method: str = "POST"
    path: str = "/send-emoji"
    headers: Headers = field(default_factory=lambda: Headers([("content-type", JSON)]))
    query_string: str = ""
    client: str = "192.0.2.1:4711"
    server: str = "127.0.0.1:5000"
    scheme: str = "http"
    http_version: str = "1.1"


class Protocol:
    """RSGI's protocol: one request's body and answer."""

    def __init__(self, body: bytes = TAP, never: bool = False, closed: bool = False) -> None:
        self._body = body
        self._never = never
        self._closed = closed
        self.answered: tuple[int, Pairs, bytes] | None = None

    async def __call__(self) -> bytes:
        if self._never:
            await asyncio.Event().wait()
        if self._closed:
            raise ProtocolClosed
        return self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), 40_000):
            yield self._body[start : start + 40_000]

    def response_bytes(self, status: int, headers: Pairs, body: bytes) -> None:
        assert self.answered is None, "answered twice"
        self.answered = (status, headers, body)


class App:
    """A fast path around a fake producer."""

    def __init__(self, max_requests: int = 10, body_seconds: float = 10.0, **values: object) -> None:
        self.producer = FakeProducer()
        self.counters = Metrics(Log("test"), INGEST)
        self.intake = Intake(settings_with(**values), cast(BoundedProducer, self.producer), self.counters)
        self.flask = create_app(self.intake, Page(self.counters))
        self.fast = FastPath(self.intake, self.flask, max_requests, Log("test"), body_seconds)

    async def ask(self, scope: Any, protocol: Any) -> tuple[int, Pairs, bytes]:
        await self.fast.__rsgi__(scope, protocol)
        return cast(tuple[int, Pairs, bytes], protocol.answered)

    async def ask_flask(self, scope: Any, protocol: Any) -> tuple[int, Pairs, bytes]:
        """The same, by Flask alone."""
        body = await self.fast._body(scope.headers, protocol, scope.path)
        await self.fast._by_flask(scope, protocol, body)
        return cast(tuple[int, Pairs, bytes], protocol.answered)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def asking(length: bool, body: bytes, method: str, path: str, pairs: Pairs) -> tuple[Scope, Protocol]:
    framing = ("content-length", str(len(body))) if length else ("transfer-encoding", "chunked")
    return Scope(method, path, Headers([framing, *pairs])), Protocol(body)


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
            st.booleans(), bodies, methods, paths,
            st.lists(one_header, max_size=3).map(lambda more: [*more, ("content-type", JSON)]),
        ),
        min_size=1, max_size=4,
    ),
    st.sampled_from([None, None, "full", "away"]),
)  # fmt: skip
@example({}, [(True, TAP, "POST", "/send-emoji", [("content-type", JSON)])] * 2, None)
@example({"RATE_LIMIT_USER": "1/hour"}, [(True, TAP, "POST", "/send-emoji", [("content-type", JSON)])] * 2, None)
@example(
    {"RATE_LIMIT_ADDRESS": "1/hour", "TRUSTED_PROXIES": "192.0.2.0/24"},
    [
        (True, TAP, "POST", "/send-emoji", [("content-type", JSON), ("x-forwarded-for", f"198.51.100.{host}")])
        for host in (7, 8, 7)
    ],
    None,
)
@example({}, [(True, b"[" + TAP + b",1]", "POST", "/send-emojis", [("content-type", JSON)])], None)
@example({}, [(False, TAP + b"\n" + TAP, "POST", "/send-emojis", [("content-type", NDJSON)])], "full")
def test_every_request_is_answered_as_flask_answers_it_to_the_byte(
    loop: asyncio.AbstractEventLoop,
    operator: dict[str, Any],
    requests: list[tuple[bool, bytes, str, str, Pairs]],
    trouble: str | None,
) -> None:
    ours, reference = App(**operator), App(**operator)
    for app in (ours, reference):
        app.producer.failure = BufferFull("3 events wait") if trouble == "full" else None
        app.intake.broker_away = trouble == "away"
    for request in requests:
        status, headers, body = loop.run_until_complete(ours.ask(*asking(*request)))
        flask_status, flask_headers, flask_body = loop.run_until_complete(reference.ask_flask(*asking(*request)))
        assert (status, sorted(headers), body) == (flask_status, sorted(flask_headers), flask_body)
        assert status < 500 or trouble
    assert ours.producer.sent == reference.producer.sent
    assert ours.counters.snapshot() == reference.counters.snapshot()


async def fill(app: App, requests: int) -> list[asyncio.Task[Any]]:
    """So many requests whose bodies never come."""
    never = Scope(headers=Headers([("content-type", JSON), ("content-length", "80")]))
    waiting = [asyncio.create_task(app.ask(never, Protocol(never=True))) for _ in range(requests)]
    await asyncio.sleep(0)
    return waiting


def test_one_request_too_many_is_refused_at_once_and_taken_when_there_is_room(
    loop: asyncio.AbstractEventLoop,
) -> None:
    app = App(max_requests=3)
    scope = Scope(headers=Headers([("content-type", JSON), ("content-length", str(len(TAP)))]))

    async def scenario() -> None:
        waiting = await fill(app, 3)
        status, headers, body = await app.ask(scope, Protocol())
        assert (status, dict(headers)["retry-after"]) == (503, "1")
        assert b"expected fewer requests" in body
        for path, expected in (("/livez", 200), ("/readyz", 200), ("/metrics", 200)):
            assert (await app.ask(Scope("GET", path), Protocol()))[0] == expected
        waiting[0].cancel()
        await asyncio.wait([waiting[0]])
        assert (await app.ask(scope, Protocol()))[0] == 200
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    loop.run_until_complete(scenario())
    assert app.counters.snapshot()["refused_busy"] == 1


def test_a_body_that_does_not_come_is_given_up_with_408(loop: asyncio.AbstractEventLoop) -> None:
    app = App(body_seconds=0.05)

    async def scenario() -> None:
        app.fast.__rsgi_init__(asyncio.get_running_loop())
        waiting = await fill(app, 2)
        for status, headers, _ in await asyncio.wait_for(asyncio.gather(*waiting), 30):
            assert (status, dict(headers)["connection"]) == (408, "close")

    loop.run_until_complete(scenario())


def test_a_body_that_is_cut_off_is_a_400(loop: asyncio.AbstractEventLoop) -> None:
    app = App()
    scope = Scope(headers=Headers([("content-type", JSON), ("content-length", "80")]))
    status, _, body = loop.run_until_complete(app.ask(scope, Protocol(closed=True)))
    assert (status, b"cut off" in body) == (400, True)
    assert app.producer.sent == []


def test_a_slow_route_of_flask_holds_up_no_tap(loop: asyncio.AbstractEventLoop) -> None:
    app = App()
    entered, release = threading.Event(), threading.Event()

    @app.flask.get("/slow")
    def slow() -> str:
        entered.set()
        release.wait(30)
        return "done"

    async def scenario() -> None:
        waiting = asyncio.create_task(app.ask(Scope("GET", "/slow", Headers([])), Protocol()))
        await asyncio.to_thread(wait_until, "the slow route", entered.is_set)
        scope = Scope(headers=Headers([("content-type", JSON), ("content-length", str(len(TAP)))]))
        assert (await app.ask(scope, Protocol()))[0] == 200
        assert not waiting.done()
        release.set()
        assert (await waiting)[2] == b"done"

    loop.run_until_complete(scenario())


def test_what_nobody_foresaw_is_a_500_without_a_word_about_the_inside(loop: asyncio.AbstractEventLoop) -> None:
    app = App()
    app.producer.failure = RuntimeError("secret")
    scope = Scope(headers=Headers([("content-type", JSON), ("content-length", str(len(TAP)))]))
    status, _, body = loop.run_until_complete(app.ask(scope, Protocol()))
    assert status == 500
    assert b"secret" not in body
