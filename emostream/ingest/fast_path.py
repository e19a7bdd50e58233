"""The app of one worker: what the HTTP server reads → the API's answers in a few µs, everything else from Flask.

Flask's dispatch costs more than all else that a tap needs.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from flask import Flask

from emostream.http.messages import BUSY, Answer, Request
from emostream.http.wsgi import WsgiApp
from emostream.ingest.api import IngestApi

FLASK_THREADS = 8


class FastPath:
    """Asks the API first, then Flask."""

    def __init__(self, api: IngestApi, flask: Flask) -> None:
        self._api = api
        self.flask = WsgiApp(flask, FLASK_THREADS)

    def answer(self, request: Request, busy: bool) -> Answer | Coroutine[Any, Any, Answer]:
        """Return an Answer, or a coroutine if it must wait."""
        answer = self._api.answer(request, busy)
        if answer is not None:
            return answer
        # The metrics must be readable even when the server is busy.
        if busy and not (request.target == b"/metrics" and request.method == b"GET" and not request.body):
            return self.refusal(request, BUSY)
        return self.flask.call(request)

    def max_body_bytes(self, target: bytes) -> int:
        """As the API says."""
        return self._api.max_body_bytes(target)

    def refusal(self, request: Request, answer: Answer) -> Answer:
        """Refuse a request that the API has not seen."""
        return self._api.refused(answer, request)

    def gone(self, requests: int) -> None:
        """Count requests whose client left before the answer."""
        self._api.counters.add("gone", requests)
