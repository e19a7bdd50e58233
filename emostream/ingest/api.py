"""An HTTP request to ingest → its answer. Every rule of POST /send-emoji, POST /send-emojis and the health checks.

These calls are answered in a few µs. Flask's dispatch alone costs more than that, so Flask has only the other calls.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from functools import lru_cache, partial
from urllib.parse import unquote_to_bytes

from werkzeug.http import parse_options_header

from emostream.http.cors import Cors
from emostream.http.messages import BUSY, FAILED, IS_LIVE, IS_READY, JSON, Answer, Request, path_of, refusal, too_large
from emostream.http.wsgi import ThreadedApp
from emostream.ingest import refusals
from emostream.ingest.admission import Admission
from emostream.ingest.producer import BoundedProducer
from emostream.ingest.taps import ACCEPTED, TapHandler
from emostream.metrics.counters import Metrics
from emostream.records import MAX_BATCH_BODY_BYTES, MAX_BODY_BYTES, InvalidRecord, check_room
from emostream.settings import Settings

NDJSON = "application/x-ndjson"
JSON_BYTES = JSON.encode()
BATCH = b"/send-emojis"
# Path → the limit for the body in bytes, and the media types that the body may have.
POSTS = {b"/send-emoji": (MAX_BODY_BYTES, (JSON,)), BATCH: (MAX_BATCH_BODY_BYTES, (JSON, NDJSON))}
HEALTHY = {b"/livez": IS_LIVE, b"/readyz": IS_READY}
_room_in_query = re.compile(rb"(?:^|&)room=([^&]*)")
MAY_SEND = "Authorization, Content-Type, X-API-Key"  # the headers that any page may send


class IngestApi:
    """Answers the requests to one worker."""

    flask: ThreadedApp  # set before the first request

    def __init__(self, settings: Settings, producer: BoundedProducer, counters: Metrics) -> None:
        self.counters = counters
        self.cors = Cors(settings.cors_origins)
        self.broker_away = False
        self._admission = Admission(settings)
        self.taps = TapHandler(settings, producer, self._admission, counters)
        # If the headers are the same for all pages, so is this object, and the server makes its bytes only once.
        self._accepted_by_all = None if self.cors.asks_origin else self.cors.headed(ACCEPTED, Request({}, ""))

    # The server calls the next four methods.

    def max_body_bytes(self, target: bytes) -> int:
        """The limit for the server. For an unknown target it is the highest that there is."""
        return POSTS.get(target, POSTS[BATCH])[0]

    def answer(self, request: Request, busy: bool) -> Answer | Awaitable[Answer]:
        """Return an Answer, or an awaitable one if it must wait. When `busy`, refuse what would have to wait."""
        path = request.target
        if path not in POSTS:
            path = path_of(path)
        if path in POSTS:
            if request.method == b"POST":
                return self._post(request, path, busy)
            return self._other_method(request, ("OPTIONS", "POST"))
        if path in HEALTHY:
            if request.method not in (b"GET", b"HEAD"):
                return self._other_method(request, ("GET", "HEAD", "OPTIONS"))
            away = self.broker_away and path == b"/readyz"
            return self.cors.headed(refusals.NOT_READY if away else HEALTHY[path], request)
        # The metrics must be readable even when the server is busy.
        if busy and not (path == b"/metrics" and request.method == b"GET" and not request.body):
            return self.refusal(request, BUSY)
        return self.flask.call(request)

    def refusal(self, request: Request, answer: Answer) -> Answer:
        """Refuse a whole request."""
        self.count_refusal(answer)
        return self.cors.headed(answer, request)

    def gone(self, requests: int) -> None:
        """Count requests whose client left before the answer."""
        self.counters.add("gone", requests)

    def count_refusal(self, answer: Answer) -> None:
        """Count the refusal of a whole request. The refusals of single taps are counted by TapHandler."""
        if answer is not FAILED:
            self.counters.add("refused_busy" if answer is BUSY else "refused_http")

    def _post(self, request: Request, path: bytes, busy: bool) -> Answer | Awaitable[Answer]:
        headers = request.headers
        max_body_bytes, media_types = POSTS[path]
        content_type = headers.get(b"content-type")
        media_type = JSON if content_type == JSON_BYTES else _media_type(content_type)
        if self._admission.needs_key and not self._admission.has_key(request):
            return self.refusal(request, refusals.NO_API_KEY)
        if media_type not in media_types:
            return self.refusal(request, refusals.wrong_media_type(media_types, media_type))
        if len(request.body) > max_body_bytes:
            return self.refusal(request, too_large(max_body_bytes))
        if busy and self.taps.receipts:
            return self.refusal(request, BUSY)
        try:
            room = _room_of(request.target) if b"?" in request.target else ""
        except InvalidRecord as error:
            return self.refusal(request, refusal(400, str(error)))
        address = self._admission.address(request) if self._admission.limited else ""
        if path == BATCH:
            answer, receipt = self.taps.batch(request.body, media_type == NDJSON, room, address)
        else:
            answer, receipt = self.taps.one(request.body, room, address)
        if answer is ACCEPTED and self._accepted_by_all:
            answer = self._accepted_by_all
        else:
            answer = self.cors.headed(answer, request)
        if receipt and self.taps.receipts:
            return self.taps.receipts.wait(receipt, answer, partial(self._too_late, request))
        return answer

    def _other_method(self, request: Request, allowed: Sequence[str]) -> Answer:
        """Answer OPTIONS, which browsers send before a call to ask whether they may. Refuse all other methods."""
        methods = ", ".join(allowed)
        if request.method != b"OPTIONS":
            return self.refusal(request, refusals.wrong_method(allowed, request.method.decode()))
        headers = self.cors.preflight(request.header, methods, MAY_SEND)
        return self.cors.headed(Answer(200, b"", (("allow", methods), *headers)), request)

    def _too_late(self, request: Request) -> Answer:
        self.counters.add("not_acknowledged")
        return self.cors.headed(refusals.NOT_ACKNOWLEDGED, request)


def _room_of(target: bytes) -> str:
    """The room in a target's query; "" if there is none. Raises InvalidRecord."""
    rooms = _room_in_query.findall(target.partition(b"?")[2])
    if len(rooms) > 1:
        raise InvalidRecord(f"room: expected one in the query, got {len(rooms)}")
    room = unquote_to_bytes(rooms[0]).decode("utf-8", "replace") if rooms else ""
    check_room(room)
    return room


@lru_cache(maxsize=256)  # there are only a few spellings
def _media_type(content_type: bytes | None) -> str:
    """The media type without its parameters, in lower case."""
    return parse_options_header((content_type or b"").decode("latin-1"))[0].lower()
