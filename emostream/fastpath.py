"""HTTP requests as granian hands them over (RSGI) → answers: a tap's in some 30 µs, everything else's from Flask.

Flask's dispatch costs more than all else that a tap needs. What is ordinary is answered here, byte for byte as the
Flask route would; whatever is not goes there. Here, too, is what no single route can see: how many requests there
are, and how slowly one comes in.
"""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from flask import Flask
from granian.rsgi import Headers, HTTPProtocol, ProtocolClosed, Scope  # type: ignore[attr-defined]
from werkzeug.wrappers import Response

from emostream.intake import (
    ACK_SECONDS,
    BODY_SECONDS,
    BUSY,
    CUT_OFF,
    FAILED,
    JSON,
    LIVE,
    NDJSON,
    TAKEN,
    TOO_SLOW,
    UNACKNOWLEDGED,
    Answer,
    Intake,
)
from emostream.records import MAX_BATCH_BODY_BYTES, MAX_BODY_BYTES
from emostream.runtime import Log

FLASK_THREADS = 8
WATCHED = ("/livez", "/readyz", "/metrics")
MAX_BYTES = {"/send-emoji": MAX_BODY_BYTES, "/send-emojis": MAX_BATCH_BODY_BYTES}


class Refused(Exception):
    """A request whose body did not come; carries the answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class FastPath:
    """The app as granian calls it, all in the one event loop of its worker."""

    def __init__(
        self, intake: Intake, flask: Flask, max_requests: int, log: Log, body_seconds: float = BODY_SECONDS
    ) -> None:
        self._intake = intake
        self._gate = intake.gate
        self._flask = flask
        self._max_requests = max_requests
        self._log = log
        self._body_seconds = body_seconds
        self._requests = 0
        # Those whose body has not come yet, the longest waiting first. One look at them now and then costs less
        # than a timer for each.
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._threads = ThreadPoolExecutor(FLASK_THREADS, "flask")
        self._taken_headers = self._headers(TAKEN, "")

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        return self._requests

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Granian calls this once, before the first request."""
        self._end_slow(loop)

    def _end_slow(self, loop: asyncio.AbstractEventLoop) -> None:
        for task, began in list(self._reading.items()):
            if loop.time() - began < self._body_seconds:
                break
            task.cancel()
        loop.call_later(self._body_seconds / 10, self._end_slow, loop)

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Answer one request."""
        path = scope.path  # asked for once, as the headers are: granian makes them anew each time
        # Whoever watches over this process asks when it is busy, too; and it must not be ended for that.
        if path in WATCHED and scope.method == "GET":
            return await self._watched(scope, protocol, path)
        if self._requests >= self._max_requests:
            self._intake.counters.add("refused_busy")
            return self._send(scope, protocol, BUSY)
        self._requests += 1
        try:
            await self._answer(scope, protocol, path)
        except Refused as refused:
            self._intake.counters.add("refused_http")
            self._send(scope, protocol, refused.answer)
        except ProtocolClosed:
            self._intake.counters.add("gone")  # nobody is there any more to be answered
        except Exception as error:  # noqa: BLE001 - not swallowed: granian would answer 500 and tell nobody
            self._log.error("a request could not be answered; please report this", error=repr(error))
            self._send(scope, protocol, FAILED)
        finally:
            self._requests -= 1
        return None

    async def _watched(self, scope: Scope, protocol: HTTPProtocol, path: str) -> None:
        if path == "/metrics":
            await self._by_flask(scope, protocol, b"")
        else:
            self._send(scope, protocol, LIVE if path == "/livez" else self._intake.ready())

    async def _answer(self, scope: Scope, protocol: HTTPProtocol, path: str) -> None:
        headers = scope.headers
        body = await self._body(headers, protocol, path)
        if (
            path in MAX_BYTES
            and scope.method == "POST"
            and body is not None
            and len(body) <= MAX_BYTES[path]
            and (not self._gate.locked or self._gate.admits(_all(scope, "authorization"), _all(scope, "x-api-key")))
        ):
            media = headers.get("content-type")
            if media == JSON or (media == NDJSON and path == "/send-emojis"):
                address = self._address(scope) if self._gate.limited else ""
                if path == "/send-emoji":
                    answer, done = self._intake.tap(body, address)
                else:
                    answer, done = self._intake.batch(body, media == NDJSON, address)
                return self._send(scope, protocol, answer if done is None else await self._settled(answer, done))
        return await self._by_flask(scope, protocol, body)

    async def _body(self, headers: Headers, protocol: HTTPProtocol, path: str) -> bytes | None:
        """The request's body; None where it says that it is too large. Raises Refused, ProtocolClosed."""
        length = headers.get("content-length")
        if length is None and "transfer-encoding" not in headers:
            return b""
        most = MAX_BYTES.get(path, MAX_BODY_BYTES)
        if length is not None and int(length) > most:
            return None
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - granian runs each request in one
        self._reading[task] = asyncio.get_running_loop().time()
        try:
            if length is not None:
                return await protocol()
            body = bytearray()
            async for chunk in protocol:
                body += chunk
                if len(body) > most:
                    break  # as much as shows Flask that it is too large
            return bytes(body)
        except asyncio.CancelledError:
            raise Refused(TOO_SLOW) from None
        except ProtocolClosed:
            raise Refused(CUT_OFF) from None  # by a chunk that is none; or by the client, who then does not hear this
        finally:
            del self._reading[task]

    async def _settled(self, answer: Answer, done: Future[None]) -> Answer:
        try:
            await asyncio.wait_for(asyncio.wrap_future(done), ACK_SECONDS)
        except asyncio.TimeoutError:
            self._intake.counters.add("not_acknowledged")
            return UNACKNOWLEDGED
        return answer

    def _address(self, scope: Scope) -> str:
        return self._gate.address(_peer(scope), _all(scope, "x-forwarded-for"))

    def _headers(self, answer: Answer, origin: str) -> list[tuple[str, str]]:
        return [("content-type", JSON), *answer.headers, *self._gate.cors.headers(origin)]

    def _send(self, scope: Scope, protocol: HTTPProtocol, answer: Answer) -> None:
        if answer is TAKEN and not self._gate.cors.asks_origin:
            headers = self._taken_headers
        else:
            headers = self._headers(answer, _all(scope, "origin"))
        protocol.response_bytes(answer.status, headers, answer.body)

    async def _by_flask(self, scope: Scope, protocol: HTTPProtocol, body: bytes | None) -> None:
        environ = _environ(scope, body)
        loop = asyncio.get_running_loop()
        # In a thread, because a route there may wait.
        response = await loop.run_in_executor(self._threads, Response.from_app, self._flask, environ, True)
        # The server says the length by itself, unless the body is left out.
        kept = [
            (name.lower(), value)
            for name, value in response.headers
            if name.lower() != "content-length" or scope.method == "HEAD"
        ]
        protocol.response_bytes(response.status_code, kept, response.data)


def _peer(scope: Scope) -> str:
    return scope.client.rpartition(":")[0].strip("[]")


def _all(scope: Scope, name: str) -> str:
    """A header that may come several times, as one."""
    return ",".join(scope.headers.get_all(name))  # type: ignore[attr-defined]


def _environ(scope: Scope, body: bytes | None) -> dict[str, Any]:
    """A request as WSGI (PEP 3333) has it. Without a body it keeps the length that it claimed."""
    host, _, port = scope.server.rpartition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": _native(scope.path),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": _peer(scope),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": io.BytesIO(body or b""),
        "wsgi.errors": io.StringIO(),  # Flask logs by itself
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name in scope.headers.keys():  # noqa: SIM118 - no mapping
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        # Granian has no value for bytes that are no text.
        value = (scope.headers.get(name) or "") if key == "CONTENT_TYPE" else _all(scope, name)
        environ[key] = _native(value)
    if body is not None:
        environ["CONTENT_LENGTH"] = str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)  # it was in chunks; here it is whole
    return environ


def _native(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
