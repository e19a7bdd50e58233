"""Flask's routes: a request in Flask's terms → the API's answer in Flask's terms; and the pages that only Flask has."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from emostream.http.messages import JSON, Answer, Request, refusal
from emostream.ingest import refusals
from emostream.ingest.api import IngestApi
from emostream.metrics.page import CONTENT_TYPE, MetricsPage
from emostream.operate.dashboard import routes as dashboard
from emostream.records import MAX_BATCH_BODY_BYTES

OPENAPI = (Path(__file__).parent / "openapi.json").read_bytes()


def create_app(api: IngestApi, page: MetricsPage) -> Flask:
    """The HTTP interface of the app. Every refusal is JSON that says what was expected and what came."""
    app = Flask("emostream.ingest.routes", static_folder=None)
    app.url_map.merge_slashes = False  # a path with two slashes inside is another one, and no redirect
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.post("/send-emoji")
    @app.post("/send-emojis")
    @app.get("/livez")
    @app.get("/readyz")
    def call() -> Response:
        """Have the API answer."""
        answer = cast("Answer | Coroutine[Any, Any, Answer]", api.decide(_request()))  # it knows all of these calls
        return _response(answer if isinstance(answer, Answer) else asyncio.run(answer))

    @app.get("/metrics")
    def metrics() -> Response:
        """The counts of all workers and the state of the supervised processes, as Prometheus reads them."""
        return Response(page.text(), content_type=CONTENT_TYPE)

    @app.get("/openapi.json")
    def openapi() -> Response:
        """The calls of the app, described in OpenAPI 3.1."""
        return Response(OPENAPI, mimetype=JSON)

    @app.after_request
    def allow_pages(response: Response) -> Response:
        if request.blueprint == dashboard.NAME:
            return response  # where clients are, and what the system does, is not for other people's pages
        cors, origin = api.cors, request.headers.get("Origin")
        # An answer of the API has these already.
        response.headers.update(cors.headers(origin, "Retry-After" in response.headers))
        if request.method == "OPTIONS":
            allowed = response.headers.get("Allow", "")
            may_send = "Authorization, Content-Type, X-API-Key"
            response.headers.update(cors.preflight(request.headers.get, allowed, may_send))
        return response

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        """Say in JSON what Flask refuses."""
        if error.code == 404:
            answer = refusals.unknown_path(request.method, request.path)
        elif error.code == 405:
            answer = refusals.wrong_method(sorted(getattr(error, "valid_methods", None) or []), request.method)
        else:
            answer = refusal(error.code or 500, error.description or "")
        api.count_refusal(answer)
        response = _response(answer)
        response.headers.extend([header for header in error.get_headers() if header[0] == "Allow"])
        return response

    return app


def _request() -> Request:
    """The request that Flask is answering, as the API takes it. Flask makes the answer to a HEAD of that to a GET."""
    headers = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in request.headers}
    method = "GET" if request.method == "HEAD" else request.method
    body = request.stream.read(MAX_BATCH_BODY_BYTES + 1)  # a byte more than any may have shows that it is too long
    return Request(headers, request.remote_addr or "", method.encode(), request.path.encode(), body)


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers)
