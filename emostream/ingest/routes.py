"""POST /send-emoji, POST /send-emojis and what else the app is asked for, as Flask answers it."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from flask import Flask, Response, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, Unauthorized, UnsupportedMediaType

from emostream.http.messages import JSON, Answer, refusal, too_large
from emostream.ingest.admission import preflight
from emostream.ingest.taps import ACK_SECONDS, LIVE, NDJSON, OPENAPI, UNACKNOWLEDGED, Intake
from emostream.metrics.page import CONTENT_TYPE, MetricsPage
from emostream.operate.dashboard import routes as dashboard
from emostream.records import MAX_BATCH_BODY_BYTES, MAX_BODY_BYTES


def create_app(intake: Intake, page: MetricsPage) -> Flask:
    """The HTTP interface; every answer is JSON, every refusal names what was expected and what came."""
    app = Flask("emostream.ingest.routes", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    gate = intake.gate

    @app.post("/send-emoji")
    def send_emoji() -> Response:
        """Accept one tap: 200, or 4xx for a bad request, or 503 when the broker does not take events."""
        return settled(*intake.tap(body(MAX_BODY_BYTES, JSON), sender()))

    @app.post("/send-emojis")
    def send_emojis() -> Response:
        """Accept the good ones of up to 1,000 events: 200, or 4xx or 503 when none was taken."""
        data = body(MAX_BATCH_BODY_BYTES, JSON, NDJSON)
        return settled(*intake.batch(data, request.mimetype == NDJSON, sender()))

    @app.get("/livez")
    def livez() -> Response:
        """200 as long as there is no need to end this process."""
        return response(LIVE)

    @app.get("/readyz")
    def readyz() -> Response:
        """200 when events can be taken, 503 while the broker is away."""
        return response(intake.ready())

    @app.get("/metrics")
    def metrics() -> Response:
        """What all workers have counted, and how the processes of ./start.sh are, as Prometheus reads it."""
        return Response(page.text(), content_type=CONTENT_TYPE)

    @app.get("/openapi.json")
    def openapi() -> Response:
        """The calls here, as OpenAPI 3.1 describes it."""
        return Response(OPENAPI, mimetype=JSON)

    def body(max_bytes: int, *media: str) -> bytes:
        """The body of a request that may send, and says that it sends this. Raises HTTPException."""
        if not gate.admits(request.headers.get("Authorization"), request.headers.get("X-API-Key")):
            raise Unauthorized(
                "expected the API key as Authorization: Bearer KEY or X-API-Key: KEY, got another or none",
                www_authenticate=WWWAuthenticate("bearer"),
            )
        if request.mimetype not in media:
            came = request.mimetype or "none"
            raise UnsupportedMediaType(f"expected Content-Type: {' or '.join(media)}, got {came}")
        # Flask refuses a longer Content-Length, but cuts off a chunked body, which has none; the byte more shows that.
        request.max_content_length = max_bytes + 1
        try:
            data = request.get_data()
        except RequestEntityTooLarge:
            data = None
        if data is None or len(data) > max_bytes:
            raise RequestEntityTooLarge(too_large(max_bytes).error)
        return data

    def sender() -> str:
        return gate.address(request.remote_addr or "", request.headers.get("X-Forwarded-For"))

    def settled(answer: Answer, done: Future[None] | None) -> Response:
        try:
            if done:
                done.result(ACK_SECONDS)
        except FutureTimeout:
            intake.counters.add("not_acknowledged")
            return response(UNACKNOWLEDGED)
        return response(answer)

    def response(answer: Answer) -> Response:
        return Response(answer.body, answer.status, dict(answer.headers), mimetype=JSON)

    @app.after_request
    def allow_origins(answer: Response) -> Response:
        if request.blueprint == dashboard.NAME:
            return answer  # where clients are, and what the system does, is not for other people's pages
        answer.headers.extend(gate.cors.headers(request.headers.get("Origin")))
        if request.method == "OPTIONS":
            answer.headers.extend(preflight(answer.headers.get("Allow", "")))
        return answer

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        intake.counters.add("refused_http")
        what = {
            404: f"expected POST /send-emoji or what else /openapi.json names, got {request.method} {request.path}",
            405: f"expected {' or '.join(sorted(getattr(error, 'valid_methods', None) or []))}, got {request.method}",
        }.get(error.code or 0, error.description or "")
        answer = response(refusal(error.code or 500, what))
        kept = [header for header in error.get_headers() if header[0] in ("Allow", "WWW-Authenticate")]
        answer.headers.extend(kept)
        return answer

    return app
