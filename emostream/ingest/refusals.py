"""Why a request to ingest is refused → the answer.

Two kinds of text are elsewhere: what is wrong inside a tap (emostream/records.py, which checks it), and what is wrong
with HTTP itself (emostream/http/).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

from emostream.http.messages import Answer, json_answer, refusal, retry

# With ACK=broker a sender waits for the broker for this long at most.
ACK_SECONDS = 10.0
SHOWN_ROOMS = 20  # a batch may have 1,000 refusals

NO_API_KEY = refusal(
    401, "expected the API key as Authorization: Bearer KEY or X-API-Key: KEY, got another or none",
    ("www-authenticate", "Bearer"),
)  # fmt: skip
NOT_READY = retry(503, "not ready: the broker takes no events")
NOT_ACKNOWLEDGED = retry(
    503, f"unknown whether it counts: the broker has not acknowledged the event within {ACK_SECONDS:g} s"
)


def too_many_taps(limit: str, retry_after_seconds: int) -> Answer:
    """More taps than RATE_LIMIT_USER or RATE_LIMIT_ADDRESS allows."""
    return retry(429, f"expected at most {limit}, got more", retry_after_seconds)


def too_many_merged(most: int, limit: str, count: int) -> Answer:
    """More taps in one event than a rate limit allows in all."""
    return refusal(400, f"count: expected at most {most}, because {limit} are allowed, got {count}")


def buffer_full(reason: object) -> Answer:
    """The producer's buffer is full; ingest/producer.py says why."""
    return retry(503, f"try again: {reason}")


def emoji_not_allowed(allowed: Sequence[str], emoji: str) -> str:
    """The tap's emoji is not in EMOJIS."""
    return f"emoji_type: expected one of {' '.join(allowed)}, got {emoji}"


def room_not_open(rooms: Collection[str], room: str) -> Answer:
    """The tap's room is not in ROOMS."""
    more = len(rooms) - SHOWN_ROOMS
    and_more = f" and {more} more" if more > 0 else ""
    return refusal(404, f"room: expected none, or one of {' '.join(islice(rooms, SHOWN_ROOMS))}{and_more}, got {room}")


def no_good_event(refused: Sequence[tuple[int, Answer]]) -> Answer:
    """No event of a batch was good. The status is the highest of all events: 503 or 429 if a retry may help."""
    worst = max((answer for _, answer in refused), key=lambda answer: answer.status)
    error = f"expected at least one good event, got {len(refused)} bad"
    kept = [header for header in worst.headers if header[0] == "retry-after"]
    return json_answer(worst.status, {"error": error, "rejected": rejected(refused)}, *kept)


def rejected(refused: Sequence[tuple[int, Answer]]) -> list[dict[str, object]]:
    """List the refused events of a batch by their index, which counts from 0."""
    return [{"index": index, "error": answer.error} for index, answer in refused]


def wrong_media_type(expected: Sequence[str], got: str) -> Answer:
    """The call does not take this Content-Type."""
    return refusal(415, f"expected Content-Type: {' or '.join(expected)}, got {got or 'none'}")


def unknown_path(method: str, path: str) -> Answer:
    """The app does not have this path."""
    return refusal(404, f"expected POST /send-emoji or another call that /openapi.json lists, got {method} {path}")


def wrong_method(allowed: Sequence[str], method: str) -> Answer:
    """The path does not have this method."""
    return refusal(405, f"expected {' or '.join(allowed)}, got {method}", ("allow", ", ".join(allowed)))
