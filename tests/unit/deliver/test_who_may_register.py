"""Who may register: a page that somebody visits cannot (it needs no preflight for these requests), a client can."""

from __future__ import annotations

import json

import pytest

from tests.unit.deliver.test_routes import URL, http

EVIL = {"Origin": "http://evil.example"}
JSON_TYPES = [
    "application/json", "application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8",
    'application/json; charset="utf-8"', "APPLICATION/json ;  q=1", "application/json;", "application/vnd.api+json",
    "application/json; charset=utf-8; odata=verbose", " application/json",
]  # fmt: skip
# All that the Fetch standard lets a page send without asking first, and near misses of JSON.
OTHER_TYPES = [
    "text/plain", "text/plain;charset=UTF-8", "text/plain; application/json", "text/plain, application/json",
    "application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=UTF-8",
    "multipart/form-data; boundary=x", "application/json, text/plain", "application/jsonx", "application/x-json+xml",
    "json", "", ";", "text/plain+json", "application/octet-stream", "image/png", "\u00ff",
]  # fmt: skip
BODY = json.dumps({"client_url": URL}).encode()


@pytest.mark.parametrize("media_type", JSON_TYPES)
@pytest.mark.parametrize("call", ["/register", "/deregister"])
def test_json_is_taken_however_its_media_type_is_spelled(call: str, media_type: str) -> None:
    answer = http().post(call, data=BODY, headers={"Content-Type": media_type})
    assert (answer.status_code, (answer.json or {})["client_url"]) == (200 if call == "/register" else 404, URL)


@pytest.mark.parametrize("headers", [{}, EVIL], ids=["no Origin", "Origin"])
@pytest.mark.parametrize("media_type", OTHER_TYPES)
@pytest.mark.parametrize("call", ["/register", "/deregister"])
def test_any_other_media_type_is_refused_with_what_to_send(call: str, media_type: str, headers: dict[str, str]) -> None:
    client = http()
    assert client.post("/register", json={"client_url": URL}).status_code == 200
    answer = client.post(call, data=BODY, headers=headers | {"Content-Type": media_type})
    assert answer.status_code == 415
    assert "expected Content-Type: application/json" in (answer.json or {})["error"]
    assert client.get("/status").json == {"available_slots": 1}


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:7001", "https://a.example", "file://"]
)
@pytest.mark.parametrize("content_type", [None, "application/json"], ids=["no Content-Type", "JSON"])
@pytest.mark.parametrize("call", ["/register", "/deregister"])
def test_a_request_of_a_page_is_refused(call: str, content_type: str | None, origin: str) -> None:
    client = http()
    assert client.post("/register", json={"client_url": URL}).status_code == 200
    given = {"Origin": origin} | ({"Content-Type": content_type} if content_type else {})
    answer = client.post(call, data=BODY, headers=given)
    assert (answer.status_code, "page" in (answer.json or {})["error"]) == (403, True)
    assert client.get("/status").json == {"available_slots": 1}


def test_a_client_that_names_no_media_type_is_served() -> None:
    """No page can send such a request without an Origin, and a small device may have no name for it."""
    assert http().post("/register", data=BODY).json == {"status": "registered", "client_url": URL}


@pytest.mark.parametrize("call", ["/register", "/deregister"])
def test_a_preflight_does_not_let_a_page_register(call: str) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    answer = http().options(call, headers=EVIL | asked)
    assert answer.status_code < 300
    assert "Access-Control-Allow-Headers" not in answer.headers
    assert "Access-Control-Allow-Methods" not in answer.headers


@pytest.mark.parametrize("path", ["/status", "/stream", "/readyz", "/metrics"])
def test_a_preflight_lets_a_page_read_with_the_headers_that_it_asks_for(path: str) -> None:
    asked = "sentry-trace, baggage, traceparent, last-event-id"
    headers = EVIL | {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": asked}
    answer = http().options(path, headers=headers)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Headers"].endswith(asked)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "GET" in answer.headers["Access-Control-Allow-Methods"]
