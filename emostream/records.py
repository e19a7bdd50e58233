"""Bytes on the wire → checked Event or Count → bytes.

request   {"user_id", "emoji_type", "timestamp"}              POST /send-emoji; with "count" in POST /send-emojis
event     {"user_id", "emoji", "timestamp"}                   EMOJI_TOPIC; with "count" if it is more than one tap
count     {"emoji", "count", "events", "batch_id", ...}       MAIN_TOPIC and the cluster topics, clients
batch     {"batch_id", "counts": [{"emoji", "count", ...}]}   GET /stream of a subscriber

Requests, events and counts of a named room have its name in "room". Those of the default room do not have the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timezone
from typing import TypeVar

import ciso8601
import msgspec

# An event is valid if its user and its emoji are not blank, have at most MAX_TEXT_BYTES in UTF-8 and no control
# character, if its time is ISO 8601, and if it stands for 1 to MAX_MERGED_TAPS taps. The app checks that here. Spark's
# expressions (aggregate/counting.py) use the same constants. tests/event_cases.py has the cases for both.
MAX_TEXT_BYTES = 64
MAX_MERGED_TAPS = 1_000
ROOM_NAME = r"[A-Za-z0-9._~-]{1,64}"
_room_name = re.compile(ROOM_NAME)
_room_key = re.compile(rf"({ROOM_NAME})/".encode())
# C0, DEL and C1 control terminals, line separators break lines, and bidirectional overrides reorder the text around
# them. Zero-width joiners and tags are allowed, because 👩‍🚀 and 🏴󠁧󠁢󠁥󠁮󠁧󠁿 are made of them.
CONTROL_CHARACTERS = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_control = re.compile(f"[{CONTROL_CHARACTERS}]")
MAX_BODY_BYTES = 64 * 1024
MAX_BATCH_EVENTS = 1_000
MAX_BATCH_BODY_BYTES = 512 * 1024
# Variation selectors (text or picture) and the five skin tones.
_LOOKS = dict.fromkeys([0xFE0E, 0xFE0F, *range(0x1F3FB, 0x1F400)])


class InvalidRecord(ValueError):
    """The bytes are not the expected record. The text says what was expected and what came."""


class TapRequest(msgspec.Struct, gc=False):
    """The body of POST /send-emoji. Decoding it checks the types of its fields, not yet their contents."""

    user_id: str
    emoji_type: str
    timestamp: str
    room: str = ""


class MergedTapRequest(TapRequest, gc=False):
    """One event of POST /send-emojis. A phone may have merged `count` taps in it."""

    count: int = 1


class Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One tap, or `count` of them. `timestamp` is ISO 8601 in UTC. The default room is ""."""

    user_id: str
    emoji: str
    timestamp: str
    room: str = ""
    count: int = 1


class Count(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One emoji's number in one room and one micro-batch. The default room is "".

    `events` is exact; `count` is made from it by EVENTS_PER_EMOJI and ROUNDING. The times are Unix milliseconds: when
    the emoji's oldest and newest event of the micro-batch were accepted, and when they were counted. `batch_emojis` is
    how many counts the micro-batch has for this room, so that a reader knows when it has all of them. Only `emoji` and
    `count` are promised; the other keys may be missing.
    """

    emoji: str
    count: int
    events: int | None = None
    batch_id: int | None = None
    batch_emojis: int | None = None
    first_accepted_ms: int | None = None
    last_accepted_ms: int | None = None
    batched_ms: int | None = None
    room: str = ""


class _Challenge(msgspec.Struct, gc=False):  # a subscriber with VERIFY_CLIENTS=1 expects its challenge back
    challenge: str


class _PlainCount(msgspec.Struct, gc=False):  # the promised keys of a count
    emoji: str
    count: int
    room: str = ""


class _PlainBatch(msgspec.Struct, gc=False):  # the part of a stream's event that a viewer needs
    counts: list[_PlainCount]


T = TypeVar("T")


def parse_request(body: bytes, room: str = "") -> Event:
    """Return the event in a request body; `room` is its room if it names none. Raises InvalidRecord."""
    return _event(_decode(TapRequest, body), room)


def parse_merged_request(data: bytes, room: str = "") -> Event:
    """Return one event of a batch, with its `count`; `room` is its room if it names none. Raises InvalidRecord."""
    request = _decode(MergedTapRequest, data)
    if not 1 <= request.count <= MAX_MERGED_TAPS:
        raise InvalidRecord(f"count: expected 1 to {MAX_MERGED_TAPS}, got {request.count}")
    return _event(request, room, request.count)


def split_batch(body: bytes, lines: bool) -> list[bytes]:
    """Split the body of POST /send-emojis into its events, without parsing them.

    The body is a JSON array, or with `lines` one JSON object per line. Raises InvalidRecord if it is something else, or
    does not have 1 to MAX_BATCH_EVENTS events.
    """
    expected = f"{'JSON objects, one per line,' if lines else 'a JSON array'} of 1 to {MAX_BATCH_EVENTS} events"
    if lines:
        parts = [line for line in body.split(b"\n") if line.strip()]
    else:
        parts = [bytes(part) for part in _decode(list[msgspec.Raw], body, expected)]
    if not 1 <= len(parts) <= MAX_BATCH_EVENTS:
        raise InvalidRecord(f"expected {expected}, got {len(parts)}")
    return parts


def normalised(emoji: str) -> str:
    """Return the emoji without variation selectors and skin tones: 👍 for 👍🏽, ❤ for ❤️."""
    return emoji.translate(_LOOKS)


def parse_count(value: bytes | None) -> Count:
    """The count in a record on MAIN_TOPIC or a cluster topic. Raises InvalidRecord.

    If an optional key has a wrong value, the count is taken all the same, with None for all optional keys.
    """
    try:
        count = _decode(Count, value or b"")
    except InvalidRecord:
        plain = _decode(_PlainCount, value or b"")
        count = Count(plain.emoji, plain.count, room=plain.room)
    _check_count(count)
    return count


def parse_batch(data: bytes) -> list[tuple[str, int]]:
    """`(emoji, count)` of each emoji in an event of a stream. Raises InvalidRecord."""
    counts = _decode(_PlainBatch, data).counts
    for count in counts:
        _check_count(count)
    return [(count.emoji, count.count) for count in counts]


def parse_challenge(body: bytes) -> str | None:
    """The challenge in the body of a POST to a client; None if there is none."""
    try:
        return _decode(_Challenge, body).challenge
    except InvalidRecord:
        return None


def record_key(emoji: str, room: str) -> bytes:
    """Return the key of a count's record: the emoji, or `<room>/<emoji>`."""
    return f"{room}/{emoji}".encode() if room else emoji.encode()


def room_of(key: bytes | None, value: bytes) -> str:
    """Return the room of a count's record; "" is the default room. If the key names it, no JSON is parsed.

    Raises InvalidRecord.
    """
    # In JSON a quote inside a string is escaped, so no emoji looks like the key "room".
    if b'"room"' not in value:
        return ""
    named = _room_key.match(key or b"")
    return named[1].decode() if named else parse_count(value).room


def encode(record: Event | Count | Mapping[str, object]) -> bytes:
    """A record as UTF-8 JSON."""
    return msgspec.json.encode(record)


def _decode(type_: type[T], data: bytes, expected: str = "a JSON object") -> T:
    try:
        data.decode()  # msgspec does not check the strings that it skips; other readers of the topics do
        return msgspec.json.decode(data, type=type_)
    except UnicodeDecodeError as error:
        raise InvalidRecord(f"expected {expected} in UTF-8, got an invalid byte at position {error.start}") from None
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InvalidRecord(_plain(str(error), expected)) from None
    except RecursionError:
        raise InvalidRecord(f"expected {expected}, got JSON that is nested too deeply") from None


def _plain(error: str, expected: str) -> str:
    """Rewrite an error of msgspec with the field in front: "emoji_type: expected str, got int"."""
    what, _, path = error.replace("`", "").partition(" - at ")
    if not what.startswith(("Expected", "Object missing")):
        return f"expected {expected}, got something else ({error})"
    if path:
        return f"{path.removeprefix('$.')}: {what.replace('Expected', 'expected')}"
    if what.startswith("Object missing"):
        return f"expected the field {what.split()[-1]}, got an object without it"
    return f"expected {expected}, got {what.rpartition('got ')[2]}"


def _check_count(count: Count | _PlainCount) -> None:
    _check_text("emoji", count.emoji)
    check_room(count.room)
    if count.count < 1:
        raise InvalidRecord(f"count: expected at least 1, got {count.count}")


def check_room(name: str) -> None:
    """Raise InvalidRecord if this is not the name of a room. The default room is ""."""
    if name and not _room_name.fullmatch(name):
        raise InvalidRecord(f"room: expected 1 to 64 characters of A-Z a-z 0-9 . _ ~ -, got {name[:70]!r}")


def _event(request: TapRequest, room: str, count: int = 1) -> Event:
    _check_text("user_id", request.user_id)
    _check_text("emoji_type", request.emoji_type)
    check_room(request.room)
    return Event(request.user_id, request.emoji_type, _utc(request.timestamp), request.room or room, count)


def _check_text(name: str, text: str) -> None:
    """Raise InvalidRecord if `text` is blank, is too long, or has a control character."""
    if not text.strip():
        raise InvalidRecord(f"{name}: expected a text that is not blank, got {text[:10]!r}")
    size = len(text.encode())
    if size > MAX_TEXT_BYTES:
        raise InvalidRecord(f"{name}: expected 1 to {MAX_TEXT_BYTES} bytes, got {size}")
    control = _control.search(text)
    if control:
        raise InvalidRecord(f"{name}: expected no control characters, got U+{ord(control[0]):04X}")


def _utc(timestamp: str) -> str:
    """Return an ISO 8601 time in UTC; without a zone it is UTC already. Raises InvalidRecord."""
    try:
        parsed = ciso8601.parse_datetime(timestamp)
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=timezone.utc)
        return parsed.astimezone(timezone.utc).isoformat()
    except (ValueError, OverflowError):
        shown = timestamp[:40].encode("ascii", "backslashreplace").decode()
        raise InvalidRecord(f"timestamp: expected ISO 8601, for example 2026-01-31T20:15:00Z, got {shown!r}") from None
