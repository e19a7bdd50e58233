"""What is an event and what is not, case by case: the app and Spark's expressions are tested against the same table.

The app reads requests, whose key is "emoji_type"; Spark reads records, whose key is "emoji". Otherwise the two are the
same. So each case is a record, and `request_of` makes a request of it.
"""

from __future__ import annotations

from dataclasses import dataclass

TIME = '"2026-01-31T20:15:00+00:00"'


@dataclass(frozen=True)
class EventCase:
    """A record of EMOJI_TOPIC, and what becomes of it."""

    name: str
    value: bytes | None
    emoji: str | None = None  # what Spark counts; None if it is not an event
    taps: int = 1
    room: str = ""
    refusal: str = ""  # a regex for the app's answer to the same request; "" if the app accepts it


def record(
    emoji: str | None = '"🔥"',
    user_id: str | None = '"u"',
    timestamp: str | None = TIME,
    room: str | None = None,
    count: str | None = None,
) -> bytes:
    """A record with these JSON values, and without those that are None."""
    fields = {"user_id": user_id, "emoji": emoji, "timestamp": timestamp, "room": room, "count": count}
    inner = ", ".join(f'"{key}": {value}' for key, value in fields.items() if value is not None)
    return f"{{{inner}}}".encode()


def request_of(value: bytes | None) -> bytes:
    """The same event as one part of a request to POST /send-emojis."""
    return (value or b"").replace(b'"emoji"', b'"emoji_type"').replace(b"'emoji'", b"'emoji_type'")


def compact(value: bytes | None) -> bytes | None:
    """The same record without spaces between its parts, as our app writes it."""
    return value and value.replace(b'": ', b'":').replace(b', "', b',"')


EVENTS = [
    EventCase("an emoji", record('"🔥"'), "🔥"),
    EventCase("an escaped emoji", record(r'"\ud83d\udd25"'), "🔥"),
    EventCase(
        "other keys, another order and spaces around",
        f' {{"timestamp": {TIME}, "later": {{"emoji": 5}}, "user_id": "u", "emoji": "👏"}} \n'.encode(),
        "👏",
    ),
    EventCase("a joiner", record('"👩‍🚀"'), "👩‍🚀"),
    EventCase("tags", record('"🏴󠁧󠁢󠁥󠁮󠁧󠁿"'), "🏴󠁧󠁢󠁥󠁮󠁧󠁿"),
    EventCase("a text that looks like a number", record('"5"'), "5"),
    EventCase("a text that looks like a boolean", record('"true"'), "true"),
    EventCase("a text that looks like an array", record('"[x]"'), "[x]"),
    EventCase("a text that looks like an object", record('"{x}"'), "{x}"),
    EventCase("quotes", record(r'"say \"hi\""'), 'say "hi"'),
    EventCase("a space in front", record('" x"'), " x"),
    EventCase("64 bytes", record(f'"{"6" * 64}"'), "6" * 64),
    EventCase("64 bytes of 16 emojis", record(f'"{"😊" * 16}"'), "😊" * 16),
    EventCase("the same key twice", record('"first", "emoji": "second"'), "second"),
    EventCase("one merged tap", record('"merged"', count="1"), "merged"),
    EventCase("as many merged taps as there may be", record('"merged"', count="1000"), "merged", 1000),
    EventCase("a room", record(room='"final"'), "🔥", room="final"),
    EventCase("every character of a room", record(room='"A-b_c.d~9"'), "🔥", room="A-b_c.d~9"),
    EventCase("a room of 64 characters", record(room=f'"{"r" * 64}"'), "🔥", room="r" * 64),
    EventCase("an escaped room", record(room=r'"\u0066inal"'), "🔥", room="final"),
    EventCase("an empty room", record(room='""'), "🔥"),
    EventCase("a room that looks like a number", record(room='"5"'), "🔥", room="5"),
    EventCase("a room that looks like a boolean", record(room='"true"'), "🔥", room="true"),
    EventCase("a room like a key", record('"room"', room='"room"'), "room", room="room"),
    EventCase("merged taps in a room", record('"merged"', room='"final"', count="5"), "merged", 5, "final"),
    EventCase("a room in front", b'{"room": "final", ' + record()[1:], "🔥", room="final"),
    EventCase("a room of something else", record()[:-1] + b', "later": {"room": "final"}}', "🔥"),
]
NO_EVENTS = [
    EventCase("no value", None, refusal="expected a JSON object"),
    EventCase("no bytes", b"", refusal="expected a JSON object"),
    EventCase("a space", b" ", refusal="expected a JSON object"),
    EventCase("no JSON", b"no JSON", refusal="expected a JSON object"),
    EventCase("no UTF-8", b"\xff\xfe", refusal="expected a JSON object in UTF-8"),
    EventCase("null", b"null", refusal="expected a JSON object, got null"),
    EventCase("a number", b"5", refusal="expected a JSON object, got int"),
    EventCase("a text", b'"text"', refusal="expected a JSON object, got str"),
    EventCase("an array", b"[]", refusal="expected a JSON object, got array"),
    EventCase("an event in an array", b"[" + record() + b"]", refusal="expected a JSON object, got array"),
    EventCase("an empty object", b"{}", refusal="expected the field"),
    EventCase("something after it", record() + b" garbage", refusal="expected a JSON object"),
    EventCase("a brace too many", record() + b"}", refusal="expected a JSON object"),
    EventCase("two events", record() + b", " + record(), refusal="expected a JSON object"),
    EventCase("cut off", record()[:-1], refusal="expected a JSON object"),
    EventCase("a byte order mark", b"\xef\xbb\xbf" + record(), refusal="expected a JSON object"),
    EventCase("no emoji", record(None), refusal="expected the field emoji_type"),
    EventCase("no user", record(user_id=None), refusal="expected the field user_id"),
    EventCase("no time", record(timestamp=None), refusal="expected the field timestamp"),
    EventCase("null as user", record(user_id="null"), refusal="user_id: expected str, got null"),
    EventCase("null as time", record(timestamp="null"), refusal="timestamp: expected str, got null"),
    EventCase("null as emoji", record("null"), refusal="emoji_type: expected str, got null"),
    EventCase("a number as emoji", record("5"), refusal="emoji_type: expected str, got int"),
    EventCase("a fraction as emoji", record("-1.5"), refusal="emoji_type: expected str, got float"),
    EventCase("a boolean as emoji", record("true"), refusal="emoji_type: expected str, got bool"),
    EventCase("an object as emoji", record('{"a": "b"}'), refusal="emoji_type: expected str, got object"),
    EventCase("an array as emoji", record('["x"]'), refusal="emoji_type: expected str, got array"),
    EventCase("an empty emoji", record('""'), refusal="emoji_type: expected a text that is not blank, got ''"),
    EventCase("spaces as emoji", record('"  "'), refusal="emoji_type: expected a text that is not blank, got '  '"),
    EventCase("other spaces", record('"\u00a0\u3000"'), refusal="emoji_type: expected a text that is not blank"),
    EventCase("65 bytes", record(f'"{"6" * 65}"'), refusal="emoji_type: expected 1 to 64 bytes, got 65"),
    EventCase("68 bytes of 17 emojis", record(f'"{"😊" * 17}"'), refusal="emoji_type: expected 1 to 64 bytes, got 68"),
    EventCase("an escape sequence", record(r'"\u001b[2J"'), refusal="no control characters, got U.001B"),
    EventCase("a newline", record(r'"x\n"'), refusal="no control characters, got U.000A"),
    EventCase("a newline that is not escaped", record('"x\n"'), refusal="expected a JSON object"),
    EventCase("DEL", record('"x\x7f"'), refusal="no control characters, got U.007F"),
    EventCase("a C1 character", record('"x\x85"'), refusal="no control characters, got U.0085"),
    EventCase("a line separator", record('"x\u2028"'), refusal="no control characters, got U.2028"),
    EventCase("right to left", record('"x\u202e"'), refusal="no control characters, got U.202E"),
    EventCase("a number as room", record(room="5"), refusal="room: expected str, got int"),
    EventCase("a boolean as room", record(room="true"), refusal="room: expected str, got bool"),
    EventCase("an array as room", record(room='["final"]'), refusal="room: expected str, got array"),
    EventCase("an object as room", record(room='{"a": "b"}'), refusal="room: expected str, got object"),
    EventCase("a room of 65 characters", record(room=f'"{"r" * 65}"'), refusal="room: expected 1 to 64 characters"),
    EventCase("a space in a room", record(room='"a b"'), refusal="room: expected 1 to 64 characters"),
    EventCase("a slash in a room", record(room='"a/b"'), refusal="room: expected 1 to 64 characters"),
    EventCase("an emoji as room", record(room='"🏟"'), refusal="room: expected 1 to 64 characters"),
    EventCase("a newline after a room", record(room=r'"final\n"'), refusal="room: expected 1 to 64 characters"),
    EventCase("a newline in a record", record(room='"final\n"'), refusal="expected a JSON object"),
    EventCase("two rooms", record(room='"final","room":"a b"'), refusal="room: expected 1 to 64 characters"),
    EventCase("no taps", record(count="0"), refusal="count: expected 1 to 1000, got 0"),
    EventCase("fewer than no taps", record(count="-5"), refusal="count: expected 1 to 1000, got -5"),
    EventCase("too many taps", record(count="1001"), refusal="count: expected 1 to 1000, got 1001"),
    EventCase("very many taps", record(count="9" * 30), refusal="count: expected"),
    EventCase("half a tap", record(count="1.5"), refusal="count: expected int, got float"),
    EventCase("a hundred taps as 1e2", record(count="1e2"), refusal="count: expected int, got float"),
    EventCase("a boolean as taps", record(count="true"), refusal="count: expected int, got bool"),
    EventCase("a word as taps", record(count='"some"'), refusal="count: expected int, got str"),
]
# Our app never writes these, and they do no harm on a screen. To exclude them, Spark would have to look closer at every
# record.
ONLY_SPARK_TAKES = [
    EventCase("an empty user", record(user_id='""'), "🔥", refusal="user_id: expected a text that is not blank"),
    EventCase("a number as user", record(user_id="5"), "🔥", refusal="user_id: expected str, got int"),
    EventCase("a user that is no UTF-8", record(user_id='"@"').replace(b"@", b"\xff"), "🔥", refusal="in UTF-8"),
    EventCase("a time that is none", record(timestamp='"t"'), "🔥", refusal="timestamp: expected ISO 8601"),
    EventCase("null as taps", record('"merged"', count="null"), "merged", refusal="count: expected int, got null"),
    EventCase("a text as taps", record('"merged"', count='"5"'), "merged", 5, refusal="count: expected int, got str"),
    EventCase("null as room", record(room="null"), "🔥", refusal="room: expected str, got null"),
    EventCase("single quotes", record().replace(b'"', b"'"), "🔥", refusal="expected a JSON object"),
    EventCase("half an emoji", record(r'"\ud83d"'), "?", refusal="expected a JSON object"),
    EventCase("an emoji in an object", record('{"emoji":"x"}'), '{"emoji":"x"}', refusal="expected str, got object"),
]
EVENT_CASES = EVENTS + NO_EVENTS + ONLY_SPARK_TAKES
