"""Requests → answers: a tap's in a few µs, everything else's from Flask.

Flask's dispatch costs more than all else that a tap needs. What is ordinary is answered here, byte for byte as the
Flask route would; whatever is not goes there.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote_to_bytes

from flask import Flask
from werkzeug.wrappers import Response

from emostream.http.messages import BUSY, FAILED, JSON, Answer, Request
from emostream.ingest.taps import ACK_SECONDS, LIVE, NDJSON, TAKEN, UNACKNOWLEDGED, Intake
from emostream.records import MAX_BATCH_BODY_BYTES, MAX_BODY_BYTES

FLASK_THREADS = 8
BATCH = b"/send-emojis"
MAX_BYTES = {b"/send-emoji": MAX_BODY_BYTES, BATCH: MAX_BATCH_BODY_BYTES}
LIVEZ, READYZ, METRICS = b"/livez", b"/readyz", b"/metrics"
JSON_BYTES, NDJSON_BYTES = JSON.encode(), NDJSON.encode()


class FastPath:
    """The app, for the connections of one worker."""

    def __init__(self, intake: Intake, flask: Flask) -> None:
        self._intake = intake
        self._gate = intake.gate
        self._flask = flask
        self._threads = ThreadPoolExecutor(FLASK_THREADS, "flask")
        # What is said to nearly everybody is the same object each time, so that it need not be written anew.
        self._taken = self._headed(TAKEN, b"")
        self._same_for_all = not self._gate.cors.asks_origin
        self._open = not self._gate.locked

    def max_body_bytes(self, target: bytes) -> int:
        """How long the body of a request may be; what only Flask knows may be the longest."""
        return MAX_BYTES.get(target, MAX_BATCH_BODY_BYTES)

    def refusal(self, request: Request, answer: Answer) -> Answer:
        """What a request is told that cannot be answered."""
        if answer is not FAILED:
            self._intake.counters.add("refused_busy" if answer is BUSY else "refused_http")
        return self._headed(answer, request.headers.get(b"origin"))

    def answer(self, request: Request, busy: bool) -> Answer | Coroutine[Any, Any, Answer]:
        """The answer, or what becomes one where somebody has to wait; for that there is no room where it is `busy`."""
        headers, path, body = request.headers, request.target, request.body
        if b"?" in path:
            path = path.partition(b"?")[0]
        if request.method == b"POST" and len(body) <= MAX_BYTES.get(path, -1):
            media = headers.get(b"content-type")
            if (media == JSON_BYTES or (media == NDJSON_BYTES and path == BATCH)) and (
                self._open or self._admits(headers)
            ):
                if busy and self._intake.waits:
                    return self.refusal(request, BUSY)
                address = self._address(request) if self._gate.limited else ""
                if path == BATCH:
                    answer, done = self._intake.batch(body, media == NDJSON_BYTES, address)
                else:
                    answer, done = self._intake.tap(body, address)
                if done is not None:
                    return self._settled(request, answer, done)
                if answer is TAKEN and self._same_for_all:
                    return self._taken
                return self._headed(answer, headers.get(b"origin"))
        # Whoever watches over this process asks when it is busy, too; and it must not be ended for that.
        elif request.method == b"GET" and path in (LIVEZ, READYZ):
            return self._headed(LIVE if path == LIVEZ else self._intake.ready(), headers.get(b"origin"))
        if busy and not (path == METRICS and request.method == b"GET" and not body):
            return self.refusal(request, BUSY)
        return self.by_flask(request)

    def _admits(self, headers: dict[bytes, bytes]) -> bool:
        return self._gate.admits(_text(headers.get(b"authorization")), _text(headers.get(b"x-api-key")))

    def _address(self, request: Request) -> str:
        return self._gate.address(request.peer, _text(request.headers.get(b"x-forwarded-for")))

    def _headed(self, answer: Answer, origin: bytes | None) -> Answer:
        headers = (("content-type", JSON), *answer.headers, *self._gate.cors.headers(_text(origin)))
        return Answer(answer.status, answer.body, headers)

    async def _settled(self, request: Request, answer: Answer, done: Future[None]) -> Answer:
        try:
            await asyncio.wait_for(asyncio.wrap_future(done), ACK_SECONDS)
        except asyncio.TimeoutError:
            self._intake.counters.add("not_acknowledged")
            answer = UNACKNOWLEDGED
        return self._headed(answer, request.headers.get(b"origin"))

    async def by_flask(self, request: Request) -> Answer:
        """The answer of Flask's route, whatever it is."""
        loop = asyncio.get_running_loop()
        # In a thread, because a route there may wait.
        environ = _environ(request)
        response = await loop.run_in_executor(self._threads, Response.from_app, self._flask, environ, True)
        # The connection says the length by itself, unless the body is left out.
        kept = tuple(
            (name.lower(), value)
            for name, value in response.headers
            if name.lower() != "content-length" or request.method == b"HEAD"
        )
        return Answer(response.status_code, response.data, kept)


def _text(value: bytes | None) -> str | None:
    """A header as WSGI has it."""
    return value if value is None else value.decode("latin-1")


def _environ(request: Request) -> dict[str, Any]:
    """A request as WSGI (PEP 3333) has it."""
    target = request.target
    if not target.startswith((b"/", b"*")):  # http://host/path, as to a proxy
        target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
    path, _, query = target.partition(b"?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method.decode("latin-1"),
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        "SERVER_NAME": "localhost",  # the Host header says more
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.peer,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": io.StringIO(),  # Flask logs by itself
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "CONTENT_LENGTH": str(len(request.body)),
    }
    for name, value in request.headers.items():
        # One with an underscore would pass for the one with hyphens, which a proxy may have written. And a body that
        # came in chunks is whole here.
        if b"_" in name or name in (b"content-length", b"transfer-encoding"):
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value.decode("latin-1")
    return environ
