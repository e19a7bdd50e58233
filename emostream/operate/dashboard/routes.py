"""GET /dashboard.json, /timeline.json, /timeline.csv, /rooms → the numbers of the operator's page, by the app."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

import msgspec
from flask import Blueprint, Response, abort, request

from emostream.discovery import Directory
from emostream.http.messages import JSON, Answer, refusal, retry
from emostream.operate.dashboard.counts_reader import TopicUnreadable
from emostream.operate.dashboard.scrape import Scraper
from emostream.operate.dashboard.timeline import (
    MAX_CSV_MINUTES,
    MAX_CSV_ROWS,
    WINDOW_MINUTES,
    Timeline,
    TooManyRows,
    to_csv,
)
from emostream.records import InvalidRecord, check_room
from emostream.settings import Settings

NAME = "dashboard"
SIGN_IN = "/dashboard/key"  # answered before Flask, by http/access.py
CSV = "text/csv; charset=utf-8; header=present"
TRY_AGAIN_SECONDS = 2
MAX_ROOM_TIMELINES = 4  # each is up to WINDOW_MINUTES of a room


def blueprint(settings: Settings, directory: Directory, own_page: Callable[[], bytes]) -> Blueprint:
    """Return the four routes. `own_page` returns the app's own GET /metrics."""
    scraper = Scraper(settings, directory, own_page)
    timeline = Timeline(settings)
    of_rooms: dict[str, Timeline] = {}  # the ones that were asked for last
    making_csv = threading.Lock()  # One at a time, because each holds up to MAX_CSV_ROWS rows in memory.
    calls = Blueprint(NAME, __name__)

    @calls.errorhandler(TopicUnreadable)
    def try_again(error: TopicUnreadable) -> Response:
        return _response(retry(503, f"try again: {error}", TRY_AGAIN_SECONDS))

    @calls.get("/dashboard.json")
    def show_overview() -> Response:
        return _current(scraper.now(), JSON)

    @calls.get("/timeline.json")
    def show_timeline() -> Response:
        room = asked_room()
        found = timeline
        if room is not None:
            kept = of_rooms.pop(room, None)  # in one step, because another thread may take it, too
            found = kept or Timeline(settings, room)
            of_rooms[room] = found
            for oldest in list(of_rooms)[:-MAX_ROOM_TIMELINES]:
                of_rooms.pop(oldest, None)
        return _current(msgspec.json.encode(found.now()), JSON)

    @calls.get("/rooms")
    def show_rooms() -> Response:
        return _current(msgspec.json.encode(timeline.rooms()), JSON)

    @calls.get("/timeline.csv")
    def show_csv() -> Response:
        minutes, room = asked_minutes(), asked_room() or ""
        if not making_csv.acquire(blocking=False):
            return _response(retry(503, "try again: another timeline.csv is being made", TRY_AGAIN_SECONDS))
        try:
            found = _current(to_csv(settings, minutes, round(time.time() * 1000), room), CSV)
        except TooManyRows:
            error = f"minutes: expected at most {MAX_CSV_ROWS} counts, got more in {minutes} minutes"
            return _response(refusal(413, error))
        finally:
            making_csv.release()
        found.headers["Content-Disposition"] = 'attachment; filename="emostream-timeline.csv"'
        return found

    return calls


def is_for_operators(path: str) -> bool:
    """Whether only operators may ask for this path. The page itself is open, so that it can ask for their key."""
    return path.startswith(("/dashboard", "/timeline", "/rooms")) and path not in ("/dashboard", SIGN_IN)


def asked_minutes() -> int:
    """Return `minutes` from the query. Raises BadRequest."""
    given = request.args.getlist("minutes") or [str(WINDOW_MINUTES)]
    text = given[0]
    if len(given) > 1 or not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_CSV_MINUTES:
        abort(400, f"minutes: expected one number from 1 to {MAX_CSV_MINUTES}, got {', '.join(given)[:40]!r}")
    return int(text)


def asked_room() -> str | None:
    """Return `room` from the query; None if it is not there. Raises BadRequest."""
    given = request.args.getlist("room")
    if len(given) > 1:
        abort(400, f"room: expected one name, got {', '.join(given)[:80]!r}")
    try:
        check_room(given[0] if given else "")
    except InvalidRecord as error:
        abort(400, str(error))
    return given[0] if given else None


def _current(body: bytes, content_type: str) -> Response:
    """Return an answer that nobody may keep."""
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(body, headers=headers, content_type=content_type)


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers)
