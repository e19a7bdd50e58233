"""GET /status, POST /register, POST /deregister: how clients come to a subscriber and go. Every answer is JSON."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from flask import Flask, Response, jsonify, redirect, request
from kafka.errors import KafkaError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from emostream.records import InvalidRecord
from emostream.registry import Full
from emostream.settings import REGISTRY_TOPIC
from emostream.stream_http import PATH, Cors

MAX_BODY_BYTES = 8 * 1024
MAX_URL_CHARACTERS = 2048


class Subscriber(Protocol):
    """What the interface is to."""

    def register(self, client_url: str) -> bool:
        """Give a client a slot; False where it had one. Raises Full, or KafkaError where that cannot be kept."""

    def deregister(self, client_url: str) -> bool:
        """Free a client's slot; False where it had none."""

    def status(self) -> dict[str, object]:
        """The body of GET /status."""


class _ClientUrl(msgspec.Struct):
    client_url: str


def create_app(subscriber: Subscriber, stream_port: int, cors: Cors) -> Flask:
    """The calls above, and GET /stream, which leads to the listener of the event streams."""
    app = Flask("emostream.deliver")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.get("/status")
    def status() -> Response:
        return jsonify(subscriber.status())

    @app.post("/register")
    def register() -> tuple[Response, int]:
        client_url = _client_url(request.get_data())
        try:
            added = subscriber.register(client_url)
        except Full as error:
            return jsonify(error=f"no slot is free: {error}"), 503
        except KafkaError as error:
            return jsonify(error=f"the broker did not keep the registration in {REGISTRY_TOPIC} ({error})"), 503
        return jsonify(status="registered" if added else "already_registered", client_url=client_url), 200

    @app.post("/deregister")
    def deregister() -> tuple[Response, int]:
        client_url = _client_url(request.get_data())
        found = subscriber.deregister(client_url)
        return jsonify(status="deregistered" if found else "not_found", client_url=client_url), 200 if found else 404

    @app.get(PATH)
    def stream() -> WerkzeugResponse:
        parts = urlsplit(request.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return redirect(parts._replace(netloc=f"{host}:{stream_port}").geturl(), code=307)

    @app.after_request
    def allow_pages(answer: Response) -> Response:
        for header in cors.headers(request.headers.get("Origin", "")):
            answer.headers.add(*header.split(": ", 1))
        return answer

    @app.errorhandler(InvalidRecord)
    def refuse(error: InvalidRecord) -> tuple[Response, int]:
        return jsonify(error=str(error)), 400

    @app.errorhandler(HTTPException)
    def refuse_http(error: HTTPException) -> tuple[Response, int]:
        return jsonify(error=error.description), error.code or 500

    return app


def _client_url(body: bytes) -> str:
    """The client_url in a request body. Raises InvalidRecord."""
    try:
        url = msgspec.json.decode(body, type=_ClientUrl).client_url
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRecord(f'expected {{"client_url": "http://host:port/"}}, got something else ({error})') from None
    if not valid or len(url) > MAX_URL_CHARACTERS or not url.isprintable() or " " in url:
        raise InvalidRecord(f"client_url: expected http://host:port/, got {url[:80]!r}")
    return url
