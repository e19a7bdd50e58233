"""Requests → answers from a WSGI app, such as Flask's, or from a plain function. Both are called in threads."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import run_wsgi_app

from emostream.http.access import AllowedHosts, Operators, is_in, parse_address
from emostream.http.messages import BUSY, Answer, App, Request, path_of
from emostream.http.server import HttpServer
from emostream.process import Log
from emostream.records import MAX_BODY_BYTES
from emostream.settings import Network, Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

THREADS = 4
MAX_CONNECTIONS = 100


def serve_wsgi(app: WSGIApplication, listener: socket.socket, log: Log, settings: Settings) -> threading.Thread:
    """Serve a WSGI app on a bound socket. Return the thread that does it."""
    return serve(ThreadedApp(from_wsgi(app), Operators(settings)), listener, log, settings)


def serve(app: App, listener: socket.socket, log: Log, settings: Settings) -> threading.Thread:
    """Serve an app on a bound socket, in an event loop of its own. Return the thread that does it."""
    listener.listen()  # at once, so that a client that connects before the thread runs is not refused

    async def run() -> None:
        check_host = AllowedHosts(settings).check
        server = HttpServer(app, log, MAX_CONNECTIONS, max_requests=MAX_CONNECTIONS, check_host=check_host)
        await server.listen(listener)
        await asyncio.Event().wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="http", daemon=True)
    thread.start()
    return thread


class ThreadedApp:
    """Calls a function in threads, because it may wait. Lets only operators make operators' calls."""

    def __init__(self, function: Callable[[Request], Answer], operators: Operators, threads: int = THREADS) -> None:
        self._function = function
        self._operators = operators
        self._threads = ThreadPoolExecutor(threads, "wsgi")

    async def call(self, request: Request) -> Answer:
        """Return the function's answer, unless this is an operators' call and the caller is no operator."""
        path = path_of(request.target).decode("latin-1")
        if path == self._operators.sign_in_path:
            return self._operators.sign_in(request)
        for_operators = self._operators.needed_for(path)
        if for_operators and (refused := self._operators.refusal(request)):
            return refused
        answer = await asyncio.get_running_loop().run_in_executor(self._threads, self._function, request)
        if for_operators:  # no page of another site may read it, whatever CORS_ORIGINS says
            kept = tuple(header for header in answer.headers if not header[0].startswith("access-control-"))
            answer = replace(answer, headers=kept)
        return answer

    # The server calls the methods below.

    def max_body_bytes(self, target: bytes) -> int:
        """Bound the memory. The function may accept less."""
        return MAX_BODY_BYTES

    def answer(self, request: Request, busy: bool) -> Answer | Awaitable[Answer]:
        """Call the function, unless too many requests wait for it already."""
        return BUSY if busy else self.call(request)

    def refusal(self, request: Request, answer: Answer) -> Answer:
        """Add nothing, and count nothing."""
        return answer

    def gone(self, requests: int) -> None:
        """Count nothing."""


def from_wsgi(app: WSGIApplication) -> Callable[[Request], Answer]:
    """Return a function that calls a WSGI app."""

    def call(request: Request) -> Answer:
        parts, status, headers = run_wsgi_app(app, environ(request), buffered=True)
        # The server adds these. Only the app knows the length that the answer to a HEAD would have.
        left_out = ("date",) if request.method == b"HEAD" else ("date", "content-length")
        kept = tuple((name.lower(), value) for name, value in headers if name.lower() not in left_out)
        return Answer(int(status[:3]), b"".join(parts), kept)

    return call


def behind_proxies(app: WSGIApplication, proxies: Sequence[Network]) -> WSGIApplication:
    """Return an app that believes X-Forwarded-Proto, -Host and -Prefix of these proxies, and of nobody else."""
    believing = ProxyFix(app, x_for=0, x_proto=1, x_host=1, x_prefix=1)

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        trusted = is_in(parse_address(environ["REMOTE_ADDR"]), proxies)
        return believing(environ, start_response) if trusted else app(environ, start_response)

    return call


def environ(request: Request) -> dict[str, Any]:
    """Return the WSGI environ (PEP 3333) of a request."""
    found: dict[str, Any] = {
        "REQUEST_METHOD": request.method.decode("latin-1"),
        "SCRIPT_NAME": "",
        "PATH_INFO": path_of(request.target).decode("latin-1"),
        "QUERY_STRING": request.target.partition(b"?")[2].decode("latin-1"),
        "SERVER_NAME": "localhost",  # apps read the Host header instead
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.peer,
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": io.StringIO(),  # Flask logs by itself
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.items():
        # WSGI turns hyphens into underscores: a client could write X_Forwarded_For over the header of a proxy.
        # CONTENT_LENGTH is set above, and a body that came in chunks is whole here.
        if b"_" in name or name in (b"content-length", b"transfer-encoding"):
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        found[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value.decode("latin-1")
    return found
