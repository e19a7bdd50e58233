"""emostream.http.wsgi: a WSGI app behind our server, over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import requests
from flask import Flask, Response, request

from emostream.http.access import Operators
from emostream.http.messages import Answer, Request
from emostream.http.wsgi import MAX_CONNECTIONS, THREADS, ThreadedApp, environ, from_wsgi, serve_wsgi
from emostream.process import Log, bound_socket
from testkit.settings import settings_with

app = Flask("test")
entered, release = threading.Semaphore(0), threading.Event()


@app.post("/echo")
def echo() -> Response:
    body = request.get_data() + request.headers["X-Word"].encode() + request.args["q"].encode()
    return Response(body, 201, {"X-Peer": request.remote_addr or ""})


@app.get("/nothing")
def nothing() -> Response:
    return Response(status=204)


@app.get("/page")
def page() -> str:
    return "a page"


@app.get("/wait")
def wait() -> str:
    entered.release()
    release.wait(30)
    return "waited"


@app.get("/fail")
def fail() -> str:
    raise RuntimeError("secret")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    listener = bound_socket("127.0.0.1", 0, setting="test")
    thread = serve_wsgi(app, listener, Log("test"), settings_with(ALLOWED_HOSTS="x"))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    assert thread.is_alive()


def test_an_app_gets_the_request_and_its_answer_goes_back(url: str) -> None:
    with requests.Session() as session:
        for word in ("a", "b"):
            answer = session.post(f"{url}/echo?q=%21", b"body-", headers={"X-Word": word}, timeout=60)
            assert (answer.status_code, answer.text) == (201, f"body-{word}!")
            assert answer.headers["X-Peer"] == "127.0.0.1"
        assert session.get(f"{url}/nothing", timeout=60).status_code == 204
        assert session.head(f"{url}/page", timeout=60).headers["Content-Length"] == "6"


def test_an_app_that_fails_is_a_500_that_tells_nothing_of_the_cause(url: str) -> None:
    answer = requests.get(f"{url}/fail", timeout=60)
    assert (answer.status_code, "secret" in answer.text) == (500, False)


def test_while_all_threads_but_one_wait_another_request_is_answered(url: str) -> None:
    with ExitStack() as stack:
        for _ in range(THREADS - 1):
            connection = stack.enter_context(socket.create_connection(url_port(url), timeout=60))
            connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
            assert entered.acquire(timeout=60)
        assert requests.get(f"{url}/nothing", timeout=60).status_code == 204
        release.set()


@pytest.mark.parametrize("idle", [MAX_CONNECTIONS + 10, 5 * MAX_CONNECTIONS])
def test_idle_connections_do_not_silence_a_server_however_many_there_are(url: str, idle: int) -> None:
    with ExitStack() as stack:
        for _ in range(idle):
            stack.enter_context(socket.create_connection(url_port(url), timeout=60))
        assert requests.get(f"{url}/nothing", timeout=5).status_code == 204


def url_port(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.rpartition(":")[2])


def test_a_header_with_an_underscore_and_the_framing_of_the_body_do_not_reach_the_app() -> None:
    headers = {b"x_a": b"1", b"x-b": b"2", b"content-length": b"9", b"transfer-encoding": b"chunked"}
    found = environ(Request(headers, "192.0.2.1", b"POST", b"/a%20b?c=d", b"hi"))
    assert {name for name in found if name.startswith("HTTP_")} == {"HTTP_X_B"}
    assert (found["PATH_INFO"], found["QUERY_STRING"], found["CONTENT_LENGTH"]) == ("/a b", "c=d", "2")


def test_a_request_is_refused_when_too_many_wait_already() -> None:
    answer = ThreadedApp(from_wsgi(app), Operators(settings_with())).answer(Request({}, "", b"GET", b"/"), busy=True)
    assert isinstance(answer, Answer)
    assert (answer.status, ("retry-after", "1") in answer.headers) == (503, True)
