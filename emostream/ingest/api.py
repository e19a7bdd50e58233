"""An HTTP request to ingest → its answer. Every rule of POST /send-emoji, POST /send-emojis and the health checks.

These calls are answered in a few µs; Flask's dispatch alone costs more than all else that a tap needs. Flask answers
everything else, and has its routes for these calls ask here, so that both ways give one answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

from werkzeug.http import parse_options_header

from emostream.http.cors import Cors
from emostream.http.messages import BUSY, FAILED, JSON, Answer, Request, json_answer, too_large
from emostream.http.wsgi import WsgiApp
from emostream.ingest import refusals
from emostream.ingest.admission import Admission
from emostream.ingest.producer import BoundedProducer
from emostream.ingest.taps import ACCEPTED, TapHandler
from emostream.metrics.counters import Metrics
from emostream.records import MAX_BATCH_BODY_BYTES, MAX_BODY_BYTES
from emostream.settings import Settings

NDJSON = "application/x-ndjson"
LIVE = json_answer(200, {"status": "live"})
READY = json_answer(200, {"status": "ready"})
JSON_BYTES = JSON.encode()
BATCH = b"/send-emojis"
# Path → the most bytes that a body may have, and its media types.
POSTS = {b"/send-emoji": (MAX_BODY_BYTES, (JSON,)), BATCH: (MAX_BATCH_BODY_BYTES, (JSON, NDJSON))}


class IngestApi:
    """Answers the calls to one worker."""

    flask: WsgiApp  # set before the first request

    def __init__(self, settings: Settings, producer: BoundedProducer, counters: Metrics) -> None:
        self.counters = counters
        self.cors = Cors(settings.cors_origins)
        self.broker_away = False
        self._admission = Admission(settings)
        self.taps = TapHandler(settings, producer, self._admission, counters)
        # If all pages may read the same answer, it is one object, whose bytes the server makes only once.
        self._accepted_by_all = None if self.cors.asks_origin else self.headed(ACCEPTED, Request({}, ""))

    # What the server calls.

    def max_body_bytes(self, target: bytes) -> int:
        """How long a body the server reads. An unknown target may have the longest."""
        return POSTS.get(target, POSTS[BATCH])[0]

    def answer(self, request: Request, busy: bool) -> Answer | Coroutine[Any, Any, Answer]:
        """Return an Answer, or a coroutine if it must wait. When `busy`, refuse what would have to wait."""
        answer = self.decide(request, busy)
        if answer is not None:
            return answer
        # The metrics must be readable even when the server is busy.
        if busy and not (request.target == b"/metrics" and request.method == b"GET" and not request.body):
            return self.refusal(request, BUSY)
        return self.flask.call(request)

    def refusal(self, request: Request, answer: Answer) -> Answer:
        """Refuse a request as a whole."""
        self.count_refusal(answer)
        return self.headed(answer, request)

    def gone(self, requests: int) -> None:
        """Count requests whose client left before the answer."""
        self.counters.add("gone", requests)

    # What Flask's routes call.

    def decide(self, request: Request, busy: bool = False) -> Answer | Coroutine[Any, Any, Answer] | None:
        """Return an Answer, or a coroutine if it must wait for the broker; None for a call that only Flask knows."""
        headers, path = request.headers, request.target
        if b"?" in path:
            path = path.partition(b"?")[0]
        if request.method != b"POST" or path not in POSTS:
            return self._health(request, path)
        max_body_bytes, media_types = POSTS[path]
        content_type = headers.get(b"content-type")
        media_type = JSON if content_type == JSON_BYTES else _media_type(content_type)
        if self._admission.needs_key and not self._shows_key(request):
            return self.refusal(request, refusals.NO_API_KEY)
        if media_type not in media_types:
            return self.refusal(request, refusals.wrong_media_type(media_types, media_type))
        if len(request.body) > max_body_bytes:
            return self.refusal(request, too_large(max_body_bytes))
        if busy and self.taps.waits:
            return self.refusal(request, BUSY)
        address = self._address(request) if self._admission.limited else ""
        if path == BATCH:
            answer, acknowledged = self.taps.batch(request.body, media_type == NDJSON, address)
        else:
            answer, acknowledged = self.taps.one(request.body, address)
        if acknowledged is not None:
            return self._when_acknowledged(request, answer, acknowledged)
        if answer is ACCEPTED and self._accepted_by_all:
            return self._accepted_by_all
        return self.headed(answer, request)

    def count_refusal(self, answer: Answer) -> None:
        """Count a refusal of a request, as opposed to one of a tap."""
        if answer is not FAILED:
            self.counters.add("refused_busy" if answer is BUSY else "refused_http")

    def headed(self, answer: Answer, request: Request) -> Answer:
        """An answer with the headers that let the pages of CORS_ORIGINS read it."""
        return self.cors.headed(answer, request)

    def _health(self, request: Request, path: bytes) -> Answer | None:
        if request.method == b"GET" and path == b"/livez":
            return self.headed(LIVE, request)
        if request.method == b"GET" and path == b"/readyz":
            return self.headed(refusals.NOT_READY if self.broker_away else READY, request)
        return None

    def _address(self, request: Request) -> str:
        return self._admission.address(request.peer, request.header("x-forwarded-for"))

    def _shows_key(self, request: Request) -> bool:
        return self._admission.has_key(request.header("authorization"), request.header("x-api-key"))

    async def _when_acknowledged(self, request: Request, answer: Answer, acknowledged: Future[None]) -> Answer:
        try:
            await asyncio.wait_for(asyncio.wrap_future(acknowledged), refusals.ACK_SECONDS)
        except asyncio.TimeoutError:
            self.counters.add("not_acknowledged")
            answer = refusals.NOT_ACKNOWLEDGED
        return self.headed(answer, request)


@lru_cache(maxsize=256)  # senders write it in a few ways only
def _media_type(content_type: bytes | None) -> str:
    """The media type without its parameters, in lower case."""
    return parse_options_header((content_type or b"").decode("latin-1"))[0].lower()
