"""POST / from a subscriber → the screen."""

from __future__ import annotations

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from emostream.http.messages import JSON, refusal
from emostream.receive.membership import Membership
from emostream.receive.screen import Screen
from emostream.records import MAX_BODY_BYTES, InvalidRecord, encode, parse_challenge, parse_count


def create_app(screen: Screen, membership: Membership) -> Flask:
    """POST / takes one record: 204, also for a repeat; 400 if it is no count. A challenge is sent back.

    A subscriber that this client has left, or that pushes another room's counts, gets 410, so that it stops.
    """
    app = Flask("emostream.receive.client")
    app.url_map.merge_slashes = False  # a path with two slashes is a different path: do not redirect it
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    @app.post("/")
    def receive() -> Response:
        if "Origin" in request.headers:  # a page that somebody visits could print here
            return _refuse(403, "expected no Origin header, got one: a web page cannot push")
        subscriber = request.headers.get("Subscriber")
        if subscriber and membership.subscriber_name and subscriber != membership.subscriber_name:
            return _refuse(410, f"expected a push of {membership.subscriber_name}, got one of {subscriber[:80]}")
        body = request.get_data()
        if challenge := parse_challenge(body):
            return Response(encode({"challenge": challenge}), content_type=JSON)
        try:
            counted = parse_count(body)
        except InvalidRecord as error:
            return _refuse(400, str(error))
        if counted.room != membership.room:  # of a registration that an earlier client on this port has left behind
            return _refuse(410, f"room: expected {membership.room!r}, got {counted.room!r}")
        key = request.headers.get("Idempotency-Key")
        # The body belongs to the key: after a topic is replaced, the same keys come again with other records.
        screen.show(None if key is None else f"{key}\0{body.decode()}", counted.emoji, counted.count)
        return Response(status=204)

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        sentence = error.description or ""
        if error.code in (404, 405):
            sentence = f"expected POST /, got {request.method} {request.path[:80]}"
        elif error.code == 413:
            sentence = f"expected at most {MAX_BODY_BYTES} bytes, got more"
        response = _refuse(error.code or 500, sentence)
        response.headers.extend([header for header in error.get_headers() if header[0] == "Allow"])
        return response

    return app


def _refuse(status: int, error: str) -> Response:
    answer = refusal(status, error)
    return Response(answer.body, answer.status, answer.headers)
