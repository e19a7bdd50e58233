"""A request for a stream → the event to go on after, or a refusal; and the head of the answer."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qs

from emostream.http.cors import Headers, preflight
from emostream.http.head import HostCheck
from emostream.http.messages import Answer, Request, refusal, retry
from emostream.http.protocol import ServerProtocol, answer_bytes

PATH = "/stream"
FULL_RETRY_SECONDS = 5


class Refused(Exception):
    """A client gets this answer instead of a stream."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.error)
        self.answer = answer


def new_protocol(check_host: HostCheck) -> ServerProtocol:
    """Reads the request of one connection. No request that we serve has a body, and each connection has only one."""
    return ServerProtocol(peer="", max_body_bytes=lambda _target: 0, check_host=check_host, head_only=True)


def parse_last_event_id(request: Request, http_version: str) -> str | None:
    """The id of the event after which the stream goes on; None for a new stream. Raises Refused."""
    if request.refusal:
        raise Refused(request.refusal)
    if http_version not in ("1.0", "1.1"):
        raise Refused(refusal(400, f"expected GET {PATH} with HTTP/1.1, got HTTP/{http_version}"))
    path, _, query = request.target.partition(b"?")
    if path != PATH.encode():
        raise Refused(refusal(404, f"expected GET {PATH}, got another path"))
    if request.method == b"OPTIONS":
        raise Refused(Answer(204, b"", tuple(preflight("GET", "Last-Event-ID, Cache-Control"))))
    if request.method != b"GET":
        raise Refused(refusal(405, f"expected GET {PATH}, got {request.method.decode()}", ("allow", "GET, OPTIONS")))
    header = request.headers.get(b"last-event-id")
    if header is not None:
        return header.decode("latin-1")
    given = parse_qs(query.decode("latin-1")).get("last_event_id")
    return given[0] if given else None


def full(max_streams: int) -> Refused:
    """All streams are taken."""
    return Refused(
        retry(503, f"no stream is free: all {max_streams} are taken; try another subscriber", FULL_RETRY_SECONDS)
    )


def refusal_bytes(refused: Refused, cors: Headers) -> bytes:
    """A refusal as it goes over the wire."""
    answer = refused.answer
    return answer_bytes(replace(answer, headers=(*answer.headers, *cors)), connection="close")


def stream_head(cors: Headers) -> bytes:
    """The bytes before the events. The events end with the connection, which saves the framing of each."""
    lines = [
        "HTTP/1.1 200 OK",
        "Content-Type: text/event-stream; charset=utf-8",
        "Cache-Control: no-store, no-transform",
        "X-Accel-Buffering: no",
        *(f"{name.title()}: {value}" for name, value in cors),
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
