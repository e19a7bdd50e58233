"""The calls of a subscriber: GET /status, POST /register and so on, all in JSON."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from flask import Flask, Response, jsonify, redirect, request
from kafka.errors import KafkaError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from emostream.deliver.clients import RegisteredClients
from emostream.deliver.registry import Full, InAnotherRoom, NotYours
from emostream.deliver.stream.server import PATH
from emostream.http.client import PushError, Target
from emostream.http.cors import Cors
from emostream.http.messages import FAILED, JSON, too_large
from emostream.metrics.page import CONTENT_TYPE, MetricsPage
from emostream.process import StepTimeout
from emostream.records import InvalidRecord, check_room
from emostream.settings import REGISTRY_TOPIC

CALLS = ("/register", "/deregister")
MAX_CALL_BYTES = 8 * 1024
MAX_URL_CHARACTERS = 2048


class Refused(Exception):
    """A request that gets this status and an error, which says what was expected and what came."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class RegistrationRequest(msgspec.Struct):
    """The body of POST /register and POST /deregister."""

    client_url: str
    token: str = ""
    room: str = ""


def create_app(
    clients: RegisteredClients, status: Callable[[], dict[str, object]], not_ready: Callable[[], str | None],
    page: MetricsPage, stream_port: int, cors: Cors, stream_url: str = "",
) -> Flask:  # fmt: skip
    """`not_ready` says why the subscriber cannot do its work; None when it can.

    Streams are at `stream_url`, or else on `stream_port` of the host that was asked.
    """
    app = Flask("emostream.deliver.subscriber")
    app.url_map.merge_slashes = False  # a path with two slashes is a different path: do not redirect it
    app.config["MAX_CONTENT_LENGTH"] = MAX_CALL_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.get("/status")
    def show_status() -> Response:
        return jsonify(status())

    @app.get("/readyz")
    def readyz() -> tuple[Response, int]:
        reason = not_ready()
        return (jsonify(status="ready"), 200) if reason is None else (jsonify(error=f"not ready: {reason}"), 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(page.text(), content_type=CONTENT_TYPE)

    @app.post("/register")
    def register() -> tuple[Response, int]:
        asked = _registration()
        try:
            added = clients.register(asked.client_url, asked.token, asked.room)
        except Full as error:
            raise Refused(503, f"expected a free slot, got none: {error}") from None
        except InAnotherRoom:
            raise Refused(409, "room: expected the room of this client_url, got another; deregister it first") from None
        except KafkaError as error:
            raise Refused(503, f"expected the broker to save this in {REGISTRY_TOPIC}, got {error}") from None
        except (PushError, OSError, StepTimeout) as error:
            expected = "client_url: expected a client that this subscriber can push to"
            raise Refused(400, f"{expected}, got {asked.client_url[:80]!r} ({error})") from None
        return jsonify(status="registered" if added else "already_registered", client_url=asked.client_url), 200

    @app.post("/deregister")
    def deregister() -> tuple[Response, int]:
        asked = _registration()
        found = clients.deregister(asked.client_url, asked.token)
        status = "deregistered" if found else "not_found"
        return jsonify(status=status, client_url=asked.client_url), 200 if found else 404

    @app.get(PATH)
    def stream() -> WerkzeugResponse:
        parts = urlsplit(request.url)
        if stream_url:
            return redirect(f"{stream_url}?{parts.query}" if parts.query else stream_url, code=307)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return redirect(parts._replace(netloc=f"{host}:{stream_port}").geturl(), code=307)

    @app.before_request
    def let_pages_read() -> Response | None:
        # Never for CALLS: a page that somebody visits must not fill the slots, or aim pushes at its visitor's network.
        if request.method != "OPTIONS" or request.path in CALLS:
            return None
        return Response(status=204, headers=cors.preflight(request.headers.get, "GET", "Cache-Control"))

    @app.after_request
    def allow_pages(answer: Response) -> Response:
        answer.headers.extend(cors.headers(request.headers.get("Origin"), "Retry-After" in answer.headers))
        return answer

    @app.errorhandler(NotYours)
    def refuse_token(_: NotYours) -> tuple[Response, int]:
        return jsonify(error="expected the token that this client_url was registered with, got another or none"), 403

    @app.errorhandler(Refused)
    def refuse(error: Refused) -> tuple[Response, int]:
        return jsonify(error=str(error)), error.status

    @app.errorhandler(HTTPException)
    def refuse_what_werkzeug_refuses(error: HTTPException) -> WerkzeugResponse:
        expected = "expected GET /status, POST /register or another call"
        told = {413: too_large(MAX_CALL_BYTES).error, 500: FAILED.error}
        answer = error.get_response()  # with its headers: a 405 must have Allow
        got = f"{request.method} {request.path[:80]}"
        answer.data = jsonify(error=told.get(answer.status_code, f"{expected}, got {got}")).data
        answer.content_type = JSON
        return answer

    return app


def _registration() -> RegistrationRequest:
    """What the request asks for. Raises Refused, or HTTPException if the body is too large."""
    if not request.is_json and "Content-Type" in request.headers:
        got = request.headers["Content-Type"][:80]
        raise Refused(415, f"expected Content-Type: {JSON}, got {got!r}; send that header")
    if "Origin" in request.headers:
        raise Refused(403, "expected no Origin header, got one: a web page cannot register a client; a server can")
    body = request.get_data()
    try:
        found = msgspec.json.decode(body, type=RegistrationRequest)
    except UnicodeDecodeError:
        raise Refused(400, "expected a JSON object in UTF-8, got bytes that are not UTF-8") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused(400, f'expected {{"client_url": "http://host:port/"}}, got something else ({error})') from None
    try:
        check_room(found.room)
    except InvalidRecord as error:
        raise Refused(400, str(error)) from None
    url = found.client_url
    expected = f"client_url: expected http://host:port/, got {url[:80]!r}"
    if len(url) > MAX_URL_CHARACTERS or not url.isprintable() or " " in url:
        raise Refused(400, expected)
    try:
        Target.parse(url)
    except UnicodeError:  # its text is about Python's codec for international names
        raise Refused(400, f"{expected} (no host can have it)") from None
    except ValueError as error:
        raise Refused(400, f"{expected} ({error})") from None
    return found
