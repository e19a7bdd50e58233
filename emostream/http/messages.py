"""What a server and its app exchange: Request, Answer, App; and the refusals that every port has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

import msgspec

JSON = "application/json"
RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True)
class Answer:
    """The answer to a request. `error` is the text in the JSON body of a refusal."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    error: str = ""


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request as it came. Header names are in lower case; the values of a repeated header are joined by commas.

    `target` begins with a slash. `peer` is the client's IP address. A request with a `refusal` gets that answer, and
    does not reach the app. `keep_alive`: it is an HTTP/1.0 request after which the connection stays open.
    """

    headers: dict[bytes, bytes]
    peer: str
    method: bytes = b""
    target: bytes = b""
    body: bytes = b""
    refusal: Answer | None = None
    keep_alive: bool = False

    def header(self, name: str) -> str | None:
        """The value of a header; its name is in lower case."""
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1")


class TakeOver(NamedTuple):
    """Returned instead of an answer: `take` gets the connection, and the server forgets it."""

    take: Callable[[asyncio.Transport], None]


class App(Protocol):
    """What answers the requests."""

    def max_body_bytes(self, target: bytes) -> int:
        """Return the limit for the body of a request for `target`: MAX_BODY_BYTES or more."""

    def answer(self, request: Request, busy: bool) -> Answer | TakeOver | Awaitable[Answer]:
        """Return an Answer or a TakeOver; an awaitable Answer if it must wait.

        When `busy`, refuse what would have to wait.
        """

    def refusal(self, request: Request, answer: Answer) -> Answer:
        """The server refuses a request. Count that, and return the answer, perhaps with more headers."""

    def gone(self, requests: int) -> None:
        """Count requests whose clients left before the answer."""


def path_of(target: bytes) -> bytes:
    """The path in a target, decoded, with one slash at its beginning. Flask finds the route of a request by it."""
    return b"/" + unquote_to_bytes(target.partition(b"?")[0]).lstrip(b"/")


def json_answer(status: int, value: object, *headers: tuple[str, str], error: str = "") -> Answer:
    """An answer whose body is `value` in JSON."""
    return Answer(status, msgspec.json.encode(value), (("content-type", JSON), *headers), error)


def refusal(status: int, error: str, *headers: tuple[str, str]) -> Answer:
    """An answer that says what was expected and what came."""
    return json_answer(status, {"error": error}, *headers, error=error)


def retry(status: int, error: str, seconds: int = RETRY_AFTER_SECONDS) -> Answer:
    """A refusal that tells the client to try again after `seconds`."""
    return refusal(status, error, ("retry-after", str(seconds)))


def too_large(max_bytes: int) -> Answer:
    """The refusal of a long body."""
    return refusal(413, f"expected a body of at most {max_bytes} bytes, got a larger one")


IS_LIVE = json_answer(200, {"status": "live"})
IS_READY = json_answer(200, {"status": "ready"})
NOT_HTTP = refusal(400, "expected an HTTP/1.1 request, got something else")
BUSY = retry(503, "expected fewer requests at a time, got more than this server can hold; try again later")
FAILED = refusal(500, "internal error; the log of this process says more")
