"""GET /status, POST /register and POST /deregister: how clients register with a subscriber. Every answer is JSON."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from flask import Flask, Response, jsonify, redirect, request
from kafka.errors import KafkaError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from emostream.deliver.registry import Full, NotYours
from emostream.deliver.stream.server import PATH
from emostream.http.client import PushError, Target
from emostream.http.cors import Cors
from emostream.metrics.page import CONTENT_TYPE
from emostream.process import StepTimeout
from emostream.records import InvalidRecord
from emostream.settings import REGISTRY_TOPIC

MAX_BODY_BYTES = 8 * 1024
MAX_URL_CHARACTERS = 2048


class SubscriberCalls(Protocol):
    """What the routes call."""

    def register(self, client_url: str, token: str) -> bool:
        """Give a client a slot; False when it had one.

        Raises Full, NotYours, KafkaError when the registration cannot be saved, PushError or OSError when no push may
        go to the client's address or the client does not echo the challenge, and StepTimeout.
        """

    def deregister(self, client_url: str, token: str) -> bool:
        """Free a client's slot; False when it had none. Raises NotYours."""

    def status(self) -> dict[str, object]:
        """The body of GET /status."""

    def metrics(self) -> bytes:
        """The body of GET /metrics."""


class RegistrationRequest(msgspec.Struct):
    """The body of POST /register and POST /deregister."""

    client_url: str
    token: str = ""


def create_app(subscriber: SubscriberCalls, stream_port: int, cors: Cors) -> Flask:
    """The app with these routes, and GET /stream, which redirects to the port of the event streams."""
    app = Flask("emostream.deliver.subscriber")
    app.url_map.merge_slashes = False  # a path with two slashes inside is another one, and no redirect
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.get("/status")
    def status() -> Response:
        return jsonify(subscriber.status())

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(subscriber.metrics(), content_type=CONTENT_TYPE)

    @app.post("/register")
    def register() -> tuple[Response, int]:
        asked = _registration(request.get_data())
        try:
            added = subscriber.register(asked.client_url, asked.token)
        except Full as error:
            return jsonify(error=f"no slot is free: {error}"), 503
        except KafkaError as error:
            return jsonify(error=f"the broker did not take the registration into {REGISTRY_TOPIC} ({error})"), 503
        except (PushError, OSError, StepTimeout) as error:
            return jsonify(error=f"client_url: {error}"), 400
        return jsonify(status="registered" if added else "already_registered", client_url=asked.client_url), 200

    @app.post("/deregister")
    def deregister() -> tuple[Response, int]:
        asked = _registration(request.get_data())
        found = subscriber.deregister(asked.client_url, asked.token)
        status = "deregistered" if found else "not_found"
        return jsonify(status=status, client_url=asked.client_url), 200 if found else 404

    @app.get(PATH)
    def stream() -> WerkzeugResponse:
        parts = urlsplit(request.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return redirect(parts._replace(netloc=f"{host}:{stream_port}").geturl(), code=307)

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
    def refuse_http(error: HTTPException) -> tuple[Response, int]:
        return jsonify(error=error.description), error.code or 500

    return app


def _registration(body: bytes) -> RegistrationRequest:
    """What a request body asks for, with a client_url that can be one. Raises InvalidRecord."""
    try:
        found = msgspec.json.decode(body, type=RegistrationRequest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRecord(f'expected {{"client_url": "http://host:port/"}}, got something else ({error})') from None
    url = found.client_url
    if len(url) > MAX_URL_CHARACTERS or not url.isprintable() or " " in url:
        raise InvalidRecord(f"client_url: expected http://host:port/, got {url[:80]!r}")
    try:
        Target.parse(url)
    except ValueError as error:
        raise InvalidRecord(f"client_url: expected http://host:port/, got {url[:80]!r} ({error})") from None
    return found
