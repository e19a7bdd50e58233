"""emostream.deliver.routes around a registry of fakes: the answers of the contract, and no 5xx for junk."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import example, given
from hypothesis import strategies as st
from kafka.errors import KafkaError

from emostream.deliver.registry import Full, InAnotherRoom, NotYours, Registry
from emostream.deliver.routes import MAX_CALL_BYTES, create_app
from emostream.http.client import PushError
from emostream.http.cors import Cors
from emostream.http.messages import FAILED
from emostream.process import StepTimeout
from testkit.strategies import json_values

URL = "http://127.0.0.1:8001/"


class FakeClient:
    def __init__(self, token: str) -> None:
        self.token = token

    def close(self) -> None:
        pass


class FakeClients:
    """The registered clients of a subscriber without Kafka behind them."""

    def __init__(self, capacity: int) -> None:
        self._registry: Registry[FakeClient] = Registry(capacity)

    def register(self, client_url: str, token: str, room: str) -> bool:
        if room == "another":
            raise InAnotherRoom
        self._check(client_url, token)
        return self._registry.add(client_url, lambda: FakeClient(token)) is not None

    def deregister(self, client_url: str, token: str) -> bool:
        self._check(client_url, token)
        return self._registry.remove(client_url)

    def _check(self, client_url: str, token: str) -> None:
        client = self._registry.get(client_url)
        if client and client.token not in ("", token):
            raise NotYours

    def status(self) -> dict[str, object]:
        return {"available_slots": self._registry.free_slots()}

    def text(self) -> bytes:
        return b"a page"


def http(capacity: int = 2, problem: str | None = None) -> FlaskClient:
    fake: Any = FakeClients(capacity)
    return create_app(fake, fake.status, lambda: problem, fake, 7101, Cors("*")).test_client()


def ask(client: FlaskClient, call: str, url: str = URL) -> tuple[int, Any]:
    answer = client.post(call, json={"client_url": url})
    return answer.status_code, answer.json


def test_a_client_registers_and_deregisters_once_with_the_answers_of_the_contract() -> None:
    client = http()
    assert ask(client, "/register") == (200, {"status": "registered", "client_url": URL})
    assert ask(client, "/register") == (200, {"status": "already_registered", "client_url": URL})
    assert client.get("/status").json == {"available_slots": 1}
    assert ask(client, "/deregister") == (200, {"status": "deregistered", "client_url": URL})
    assert ask(client, "/deregister") == (404, {"status": "not_found", "client_url": URL})
    assert client.get("/status").json == {"available_slots": 2}


def test_a_registration_with_a_token_ends_only_with_it() -> None:
    client = http()
    ours, theirs = ({"client_url": URL, "token": token} for token in ("ours", "theirs"))
    assert client.post("/register", json=ours).status_code == 200
    for call, body in (("/register", theirs), ("/deregister", theirs), ("/deregister", {"client_url": URL})):
        answer = client.post(call, json=body)
        assert (answer.status_code, list(answer.json or {})) == (403, ["error"])
    assert client.post("/deregister", json=ours).json == {"status": "deregistered", "client_url": URL}


def test_a_client_that_has_a_slot_in_another_room_is_told_to_deregister_first() -> None:
    answer = http().post("/register", json={"client_url": URL, "room": "another"})
    assert (answer.status_code, answer.json) == (
        409, {"error": "room: expected the room of this client_url, got another; deregister it first"}
    )  # fmt: skip


@pytest.mark.parametrize("room", ["a/b", " ", "x" * 65, None, 5])
def test_what_is_no_room_is_refused(room: object) -> None:
    answer = http().post("/register", json={"client_url": URL, "room": room})
    assert (answer.status_code, "room" in (answer.json or {})["error"]) == (400, True)


def test_a_full_subscriber_answers_503() -> None:
    status, answer = ask(http(capacity=0), "/register")
    assert (status, list(answer)) == (503, ["error"])


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://h/", "http://", "http:///x", "http://h:99999/", "http://h:0/", "http://h:x/", "http://[/", "//h/",
     "http://h/ x", "http://h/\x1b[31m", "http://h/\n", "http://h/" + "x" * 2048, "file:///etc/passwd",
     "http://user@h/", "http://user:secret@h/", "http://" + "a" * 64 + "/", "http://a..b/"],
)  # fmt: skip
def test_an_invalid_client_url_is_a_400_that_says_what_was_expected(url: str) -> None:
    status, answer = ask(http(), "/register", url)
    assert (status, "http://host:port/" in answer["error"]) == (400, True)
    assert answer["error"].isprintable()


near_bodies = st.fixed_dictionaries({"client_url": st.text() | st.text().map(lambda text: "http://" + text)})


@given(
    st.sampled_from(["/register", "/deregister"]),
    st.binary() | (near_bodies | json_values).map(lambda value: json.dumps(value).encode()),
)
@example("/register", b'{"client_url": "http://h/", "x": ' + b"[" * 8000)
def test_no_body_makes_a_5xx(call: str, data: bytes) -> None:
    answer = http().post(call, data=data)
    assert answer.status_code < 500
    assert answer.json is not None


def test_readyz_says_whether_the_subscriber_can_do_its_work_and_why_not() -> None:
    ready, away = http().get("/readyz"), http(problem="the topic cannot be read").get("/readyz")
    assert (ready.status_code, ready.json) == (200, {"status": "ready"})
    assert (away.status_code, away.json) == (503, {"error": "not ready: the topic cannot be read"})


def test_the_page_of_metrics_is_text_for_prometheus() -> None:
    answer = http().get("/metrics")
    assert (answer.data, answer.content_type) == (b"a page", "text/plain; version=0.0.4; charset=utf-8")


def test_get_stream_redirects_to_the_stream_port_of_the_same_host() -> None:
    answer = http().get("/stream?last_event_id=1-2-3", base_url="http://live.example:7001")
    assert (answer.status_code, answer.location) == (307, "http://live.example:7101/stream?last_event_id=1-2-3")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert http().get("/stream", base_url="http://[::1]:7001").location == "http://[::1]:7101/stream"


def test_get_stream_redirects_to_where_streams_are_advertised() -> None:
    fake: Any = FakeClients(2)
    advertised = "https://fans.example.org/s/1-1/stream"
    app = create_app(fake, fake.status, lambda: None, fake, 7101, Cors("*"), advertised).test_client()
    assert app.get("/stream?room=final").location == f"{advertised}?room=final"
    assert app.get("/stream").location == advertised


LARGE = b"x" * (MAX_CALL_BYTES + 1)
TEXT = {"Content-Type": "text/plain"}


@pytest.mark.parametrize(
    ("status", "method", "path", "data", "headers", "got"),
    [
        (404, "GET", "/x", b"", {}, "got GET /x"),
        (404, "POST", "/", b"", {}, "got POST /"),
        (405, "GET", "/register", b"", {}, "got GET /register"),
        (405, "PUT", "/status", b"", {}, "got PUT /status"),
        (405, "DELETE", "/stream", b"", {}, "got DELETE /stream"),
        (413, "POST", "/register", LARGE, {}, f"at most {MAX_CALL_BYTES} bytes, got a larger one"),
        (413, "POST", "/deregister", LARGE, {}, f"at most {MAX_CALL_BYTES} bytes, got a larger one"),
        (415, "POST", "/register", b"{}", TEXT, "application/json, got 'text/plain'"),
        (403, "POST", "/register", b"{}", {"Origin": "http://x"}, "no Origin header, got one"),
        (400, "POST", "/register", b"", {}, "got something else"),
        (400, "POST", "/register", b'{"client_url": 1}', {}, "got something else"),
        (400, "POST", "/register", b'{"client_url": "\xff"}', {}, "got bytes that are not UTF-8"),
        (400, "POST", "/register", b'{"client_url": "x"}', {}, "got 'x'"),
    ],
)
def test_a_refusal_is_json_that_says_what_was_expected_and_what_came(
    status: int, method: str, path: str, data: bytes, headers: dict[str, str], got: str
) -> None:
    answer = http().open(path, method=method, data=data, headers=headers)
    assert (answer.status_code, answer.content_type) == (status, "application/json")
    assert list(answer.json or {}) == ["error"]
    assert (answer.json or {})["error"].startswith(("expected ", "client_url: expected "))
    assert got in (answer.json or {})["error"]
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Full("all 2 slots are taken"), 503), (KafkaError("away"), 503), (NotYours(), 403),
        (PushError("it is not there"), 400), (OSError("no such host"), 400), (StepTimeout("too slow"), 400),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_registration_that_fails_is_refused_with_what_was_expected(error: Exception, status: int) -> None:
    def register(*_: object) -> bool:
        raise error

    fake: Any = FakeClients(2)
    fake.register = register
    app = create_app(fake, fake.status, lambda: None, fake, 7101, Cors("*"))
    answered, answer = ask(app.test_client(), "/register")
    assert (answered, list(answer)) == (status, ["error"])
    assert answer["error"].startswith(("expected ", "client_url: expected "))
    assert ", got " in answer["error"]
    assert str(error) in answer["error"]


def test_an_error_of_ours_is_a_500_that_shows_nothing_of_it() -> None:
    fake: Any = FakeClients(2)
    client = create_app(fake, lambda: {"x": 1 // 0}, lambda: None, fake, 7101, Cors("*")).test_client()
    answer = client.get("/status")
    assert (answer.status_code, answer.json) == (500, {"error": FAILED.error})
