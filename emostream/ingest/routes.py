"""What Flask answers in the app: metrics, the description of the app, and the blueprints of pages and dashboard."""

from __future__ import annotations

from pathlib import Path

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from emostream.http.access import Operators
from emostream.http.messages import JSON, refusal
from emostream.http.wsgi import ThreadedApp, behind_proxies, from_wsgi
from emostream.ingest import refusals
from emostream.ingest.api import MAY_SEND, IngestApi
from emostream.metrics.page import CONTENT_TYPE, MetricsPage
from emostream.operate.dashboard import routes as dashboard
from emostream.settings import Settings

OPENAPI = (Path(__file__).parent / "openapi.json").read_bytes()
FLASK_THREADS = 8


def threaded(app: Flask, settings: Settings) -> ThreadedApp:
    """Return what the API calls for other paths than its own. The dashboard's data is for operators only."""
    operators = Operators(settings, dashboard.is_for_operators, dashboard.SIGN_IN)
    return ThreadedApp(from_wsgi(behind_proxies(app, settings.trusted_networks)), operators, FLASK_THREADS)


def create_app(api: IngestApi, page: MetricsPage) -> Flask:
    """Return the Flask app. Every refusal is JSON that says what was expected and what came."""
    app = Flask("emostream.ingest.routes", static_folder=None)
    app.url_map.merge_slashes = False  # a path with two slashes is a different path: do not redirect it
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(page.text(), content_type=CONTENT_TYPE)

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(OPENAPI, mimetype=JSON)

    @app.after_request
    def allow_pages(response: Response) -> Response:
        if request.blueprint == dashboard.NAME:
            return response  # where clients are, and what the system does, is not for other people's pages
        headers = api.cors.headers(request.headers.get("Origin"), "Retry-After" in response.headers)
        if request.method == "OPTIONS":
            headers += api.cors.preflight(request.headers.get, response.headers.get("Allow", ""), MAY_SEND)
        response.headers.extend(headers)
        return response

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        if error.code == 404:
            answer = refusals.unknown_path(request.method, request.path)
        elif error.code == 405:
            answer = refusals.wrong_method(sorted(getattr(error, "valid_methods", None) or []), request.method)
        else:
            answer = refusal(error.code or 500, error.description or "")
        api.count_refusal(answer)
        return Response(answer.body, answer.status, answer.headers)

    return app
