"""GET /dashboard.json, GET /timeline.json, GET /timeline.csv: what the operator's page asks the app for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec
from flask import Blueprint, Response, request
from werkzeug.exceptions import BadRequest

from emostream.discovery import Directory
from emostream.operate.dashboard.scrape import Scraper
from emostream.operate.dashboard.timeline import (
    MAX_MINUTES,
    MAX_ROWS,
    WINDOW_MINUTES,
    Away,
    Timeline,
    TooManyRows,
    to_csv,
)
from emostream.settings import Settings

NAME = "dashboard"
JSON = "application/json"
CSV = "text/csv; charset=utf-8; header=present"
RETRY_AFTER_SECONDS = 2


def blueprint(settings: Settings, directory: Directory, own_page: Callable[[], bytes]) -> Blueprint:
    """The three calls. `own_page` is the app's own GET /metrics."""
    scraper = Scraper(settings, directory, own_page)
    timeline = Timeline(settings)
    one_csv = threading.Lock()  # at a time: each holds up to MAX_ROWS rows
    calls = Blueprint(NAME, __name__)

    @calls.get("/dashboard.json")
    def show_overview() -> Response:
        """What every process says of itself now."""
        return answer(scraper.now(), JSON)

    @calls.get("/timeline.json")
    def show_timeline() -> Response:
        """The last 30 minutes of the most frequent emojis; 503 while the topic cannot be read."""
        try:
            return answer(msgspec.json.encode(timeline.now()), JSON)
        except Away as error:
            return refusal(503, f"try again: {error}")

    @calls.get("/timeline.csv")
    def show_csv() -> Response:
        """Every count of the last `minutes`; 400, 413, or 503 while the topic cannot be read."""
        minutes = asked_minutes()
        if not one_csv.acquire(blocking=False):
            return refusal(503, "try again: somebody else is being given a timeline.csv")
        try:
            made = answer(to_csv(settings, minutes, round(time.time() * 1000)), CSV)
        except TooManyRows:
            return refusal(413, f"expected minutes with at most {MAX_ROWS} counts in them, got more in {minutes}")
        except Away as error:
            return refusal(503, f"try again: {error}")
        finally:
            one_csv.release()
        made.headers["Content-Disposition"] = 'attachment; filename="emostream-timeline.csv"'
        return made

    return calls


def asked_minutes() -> int:
    """The query's `minutes`. Raises BadRequest."""
    given = request.args.getlist("minutes") or [str(WINDOW_MINUTES)]
    text = given[0]
    if len(given) == 1 and text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_MINUTES:
        return int(text)
    raise BadRequest(f"minutes: expected one number from 1 to {MAX_MINUTES}, got {', '.join(given)[:40]!r}")


def answer(body: bytes, mimetype: str) -> Response:
    """200, for this moment only."""
    return Response(
        body, content_type=mimetype, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    )


def refusal(status: int, error: str) -> Response:
    """What was expected and what came; as long as it may be otherwise soon, with when."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
    return Response(msgspec.json.encode({"error": error}), status, headers, content_type=JSON)
