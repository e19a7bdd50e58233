"""What each kind of setting may be. Each description says what was expected, for the sentence that refuses a value."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any

from msgspec import Meta, inspect

MAX_PORT = 65_535
WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")
YES_OR_NO = {"true": "1", "yes": "1", "on": "1", "false": "0", "no": "0", "off": "0"}


def _meta(pattern: str, expected: str) -> Meta:
    return Meta(pattern=rf"^({pattern})\Z", description=expected)


def _list(item: str) -> str:
    return f"{item}(,{item})*"


TopicName = Annotated[str, _meta("[A-Za-z0-9._-]{1,249}", "1 to 249 of A-Z a-z 0-9 . _ -, for example emoji-topic")]
HostPorts = Annotated[
    str,
    _meta(
        _list(r"(\[[0-9A-Fa-f:.]+(%\w+)?\]|[^\s:,/\[\]]+):[0-9]{1,5}"),
        f"host:port, comma-separated, with ports to {MAX_PORT}, for example localhost:9092 or [::1]:9092",
    ),
]
RateLimit = Annotated[str, _meta("|[1-9][0-9]{0,8}/(second|minute|hour)", "nothing, or for example 10/second")]
NumberOrNone = Annotated[str, _meta("|[1-9][0-9]{0,8}", "nothing, or a whole number, for example 20")]
Origins = Annotated[
    str,
    _meta(
        r"|\*|" + _list(r"https?://[^\s,/*?#@]+"),
        "* or web origins without a path, comma-separated, for example https://example.org",
    ),
]
HostNames = Annotated[
    str,
    _meta(
        "|" + _list(r"[A-Za-z0-9._*-]+"),
        "host names, comma-separated, for example fans.example.org,*.example.net",
    ),
]
# 1 to 64 characters each, without control characters; records.py checks the same of every emoji that comes.
Emojis = Annotated[
    str,
    _meta(
        "|" + _list(r"[^\x00-\x1f\x7f-\x9f,]{1,64}"),
        "emojis of at most 64 characters, comma-separated, for example 😊,😂",
    ),
]
_ROOM_NAME = "[A-Za-z0-9._~-]{1,64}"  # the same as ROOM_NAME in records.py
Rooms = Annotated[
    str,
    _meta(
        "|" + _list(_ROOM_NAME),
        "names of rooms, comma-separated, each 1 to 64 of A-Z a-z 0-9 . _ ~ -, for example final,semi-final",
    ),
]
RoomName = Annotated[str, _meta(f"|{_ROOM_NAME}", "nothing, or 1 to 64 characters of A-Z a-z 0-9 . _ ~ -")]
# Without ?, #, quotes, ; and blanks: policies and headers hold what is made of it.
_URL_PART = r"([A-Za-z0-9._~-]|\{cluster\}|\{subscriber\})+"
_WEB_ADDRESS = rf"https?://({_URL_PART}|\[[0-9A-Fa-f:.]+\])(:[0-9]{{1,5}})?(/{_URL_PART})*/?"
WebAddress = Annotated[
    str,
    _meta(f"|{_WEB_ADDRESS}", "nothing, or an address such as http://192.0.2.7:7001 or https://example.org/{subscriber}"),
]
WebAddressOrPath = Annotated[
    str,
    _meta(
        rf"|{_WEB_ADDRESS}|(/{_URL_PART})+/?",
        "nothing, an address such as https://example.org/s/{cluster}-{subscriber}, or a path such as "
        "/s/{cluster}-{subscriber}",
    ),
]
DirectoryPath = Annotated[str, _meta(r"[^\x00-\x1f\x7f]+", "a path without line breaks, for example .data")]
Text = Annotated[str, _meta(r"[^\x00-\x1f\x7f]+", "a text of at least one character")]
FilePath = Annotated[str, _meta(r"[^\x00-\x1f\x7f]*", "a path without line breaks")]
Secret = Annotated[str, _meta(r"[^\x00-\x1f\x7f]*", "a text without control characters")]
TcpPort = Annotated[int, Meta(ge=1, le=MAX_PORT)]
PortOrNone = Annotated[int, Meta(ge=0, le=MAX_PORT)]
BasePort = Annotated[int, Meta(ge=1, le=65_500)]


def as_written(value: str, field: Any) -> str:
    """Return the text of a value as msgspec reads it: a choice in its own case, a number without zeros in front."""
    kind = inspect.type_info(field)
    if isinstance(kind, inspect.LiteralType):
        if kind.values == (0, 1):
            value = YES_OR_NO.get(value.lower(), value)
        return {str(choice).lower(): str(choice) for choice in kind.values}.get(value.lower(), value)
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        pattern = WHOLE_NUMBER if isinstance(kind, inspect.IntType) else NUMBER
        return re.sub("^0+(?=[0-9])", "", value) if pattern.fullmatch(value) else ""
    return value


def expectation(field: Any) -> str:
    """Return what a value of this type must be, in words."""
    kind = inspect.type_info(field)
    if isinstance(kind, inspect.LiteralType):
        return f"one of {', '.join(str(value) for value in kind.values if value != '')}"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        what = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
        least = f"{kind.ge} or more" if kind.ge is not None else f"more than {kind.gt}"
        return f"{what} in decimal digits, {least}" + (f", at most {kind.le}" if kind.le else "")
    return str((getattr(kind, "extra_json_schema", None) or {}).get("description", "a text in UTF-8"))


def webhook_key(secret: str) -> bytes:
    """Return the key in `whsec_<base64>`, as Standard Webhooks writes it; empty if that is not what it is."""
    name, _, text = secret.partition("whsec_")
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        return b""
    return key if not name and 24 <= len(key) <= 64 else b""
