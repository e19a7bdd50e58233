"""How clients register with a subscriber, and how it is: GET /status, POST /register and so on, all in JSON."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from flask import Flask, Response, jsonify, redirect, request
from kafka.errors import KafkaError
from werkzeug.exceptions import Forbidden, HTTPException, UnsupportedMediaType
from werkzeug.wrappers import Response as WerkzeugResponse

from emostream.deliver.clients import RegisteredClients
from emostream.deliver.registry import Full, NotYours
from emostream.deliver.stream.server import PATH
from emostream.http.client import PushError, Target
from emostream.http.cors import Cors
from emostream.metrics.page import CONTENT_TYPE, MetricsPage
from emostream.process import StepTimeout
from emostream.records import InvalidRecord
from emostream.settings import REGISTRY_TOPIC

CALLS = ("/register", "/deregister")
MAX_CALL_BYTES = 8 * 1024
MAX_URL_CHARACTERS = 2048


class RegistrationRequest(msgspec.Struct):
    """The body of POST /register and POST /deregister."""

    client_url: str
    token: str = ""


def create_app(
    clients: RegisteredClients, status: Callable[[], dict[str, object]], not_ready: Callable[[], str | None],
    page: MetricsPage, stream_port: int, cors: Cors,
) -> Flask:  # fmt: skip
    """The app with these routes, GET /metrics, and GET /stream, which redirects to the port of the event streams.

    `not_ready` says why the subscriber cannot do its work; None when it can.
    """
    app = Flask("emostream.deliver.subscriber")
    app.url_map.merge_slashes = False  # a path with two slashes inside is another one, and no redirect
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
            added = clients.register(asked.client_url, asked.token)
        except Full as error:
            return jsonify(error=f"no slot is free: {error}"), 503
        except KafkaError as error:
            return jsonify(error=f"the broker did not take the registration into {REGISTRY_TOPIC} ({error})"), 503
        except (PushError, OSError, StepTimeout) as error:
            return jsonify(error=f"client_url: {error}"), 400
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
        return jsonify(error="expected the token that this client_url was registered with"), 403

    @app.errorhandler(InvalidRecord)
    def refuse(error: InvalidRecord) -> tuple[Response, int]:
        return jsonify(error=str(error)), 400

    @app.errorhandler(HTTPException)
    def refuse_http(error: HTTPException) -> WerkzeugResponse:
        told = error.description
        if error.code in (404, 405):
            told = f"expected GET /status, POST /register or another call, got {request.method} {request.path[:80]}"
        answer = error.get_response()  # with its headers: after 405, Allow is a must
        answer.data, answer.content_type = jsonify(error=told).data, "application/json"
        return answer

    return app


def _registration() -> RegistrationRequest:
    """What the request asks for, with a client_url that can be one. Raises InvalidRecord or HTTPException."""
    if not request.is_json and "Content-Type" in request.headers:
        got = request.headers["Content-Type"][:80]
        raise UnsupportedMediaType(f"expected Content-Type: application/json, got {got!r}; send that header")
    if "Origin" in request.headers:
        raise Forbidden("expected no Origin header, got one: a web page cannot register a client; a server can")
    body = request.get_data()
    try:
        found = msgspec.json.decode(body, type=RegistrationRequest)
    except UnicodeDecodeError as error:
        raise InvalidRecord(f"expected a JSON object in UTF-8, got an invalid byte at position {error.start}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRecord(f'expected {{"client_url": "http://host:port/"}}, got something else ({error})') from None
    url = found.client_url
    if len(url) > MAX_URL_CHARACTERS or not url.isprintable() or " " in url:
        raise InvalidRecord(f"client_url: expected http://host:port/, got {url[:80]!r}")
    try:
        Target.parse(url)
    except UnicodeError:  # of the codec for international names, in words of Python
        raise InvalidRecord(f"client_url: expected http://host:port/, got {url[:80]!r} (no host can have it)") from None
    except ValueError as error:
        raise InvalidRecord(f"client_url: expected http://host:port/, got {url[:80]!r} ({error})") from None
    return found
