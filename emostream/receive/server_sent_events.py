"""The bytes of a stream → Server-Sent Events, as the HTML standard defines them (section 9.2.6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_LINE_BYTES = 4 * 1024 * 1024


class LineTooLong(Exception):
    """A line of more than MAX_LINE_BYTES."""


@dataclass(frozen=True)
class ServerSentEvent:
    """One event. `last_event_id` is the newest id so far, from this event or an earlier one.

    An event without data only brings an id: the position from which to resume before there is a first event.
    """

    type: str
    data: str
    last_event_id: str


def parse_events(lines: Iterable[bytes], last_event_id: str = "") -> Iterator[ServerSentEvent]:
    """Yield the events in these lines. An event without its closing empty line is dropped.

    `last_event_id` is the newest id of the connection before. It holds until an event brings another.
    """
    event_type, data = "", list[str]()
    for line in lines:
        if not line:
            if data or last_event_id:
                yield ServerSentEvent(event_type or "message", "\n".join(data), last_event_id)
            event_type, data = "", []
            continue
        name, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            event_type = value
        elif name == "id" and "\0" not in value:
            last_event_id = value


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each line as soon as it is complete. Raises LineTooLong."""
    rest = b""
    for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in complete)
        if len(rest) > MAX_LINE_BYTES:
            raise LineTooLong
