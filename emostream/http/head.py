"""The head of a request → a refusal, if it breaks a rule of RFC 9110 or RFC 9112 that the parser does not check."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import TypeAlias

import httptools

from emostream.http.messages import NOT_HTTP, Answer, refusal

# The value of a Host header → a refusal, or None if the host is allowed.
HostCheck: TypeAlias = Callable[[bytes], "Answer | None"]

_host = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)(?:%[\w.~%-]+)?\]|[\w.~%!$&'()*+;=-]+)(?::([0-9]{0,5}))?", re.ASCII)
_absolute_form = re.compile(rb"https?://([^/?#@]*)(/[^#]*|\?[^#]*|)", re.IGNORECASE)
_request_line = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) +[^ ]+ +HTTP/([0-9]\.[0-9])")
# The first bytes of other protocols.
OTHER_PROTOCOLS = {
    b"\x16\x03": refusal(400, "expected plain HTTP, got TLS; this port speaks no TLS: use http:// instead of https://"),
    b"PRI * HTTP/2": refusal(400, "expected HTTP/1.1, got HTTP/2; this port speaks HTTP/1.1 only"),
    b"PROXY ": refusal(400, "expected an HTTP/1.1 request, got the PROXY protocol; switch it off in your proxy"),
    b"\r\n\r\n\0\r\nQUIT\n": refusal(400, "expected an HTTP/1.1 request, got the PROXY protocol; switch it off"),
}
NO_HOST = refusal(400, "expected a Host header, got none")
BAD_HOST = refusal(400, "expected one Host header such as example.org:5000, got several or something else")
BAD_TARGET = refusal(400, "expected a target such as /path?query, percent-encoded, got something else")
ALLOW = ("allow", "GET, HEAD, OPTIONS, POST")
OPTIONS_OF_SERVER = Answer(204, b"", (ALLOW,))
PROXY_WANTED = refusal(405, "expected a request for this server, got CONNECT; this is no proxy", ALLOW)
UNKNOWN_CODING = refusal(400, "expected Transfer-Encoding: chunked, got another coding")
OLD_CHUNKS = refusal(400, "expected Content-Length with HTTP/1.0, got Transfer-Encoding")
COMPRESSED = refusal(
    415, "expected a body without Content-Encoding, got a compressed one; send it as it is",
    ("accept-encoding", "identity"),
)  # fmt: skip


def any_host(host: bytes) -> Answer | None:
    """Refuse a value that cannot be a host."""
    found = _host.fullmatch(host)
    if not found or int(found[2] or 0) > 65_535:
        return BAD_HOST
    try:
        if found[1]:
            ipaddress.IPv6Address(found[1].decode())
    except ValueError:
        return BAD_HOST
    return None


def check_head(version: str, target: bytes, headers: dict[bytes, bytes], check_host: HostCheck) -> Answer | None:
    """Return why a head is refused; None if it is good."""
    host = headers.get(b"host")
    if host is not None:
        if refused := check_host(host):
            return refused
    elif version != "1.0":
        return NO_HOST
    if version not in ("1.1", "1.0"):
        return refusal(400, f"expected HTTP/1.1, got HTTP/{version}")
    if b"#" in target:
        return BAD_TARGET
    if b"transfer-encoding" in headers:
        if headers[b"transfer-encoding"].strip().lower() != b"chunked":
            return UNKNOWN_CODING
        if version == "1.0":
            return OLD_CHUNKS
    if b"content-encoding" in headers and headers[b"content-encoding"].strip().lower() not in (b"", b"identity"):
        return COMPRESSED
    return None


def origin_form(method: bytes, target: bytes, headers: dict[bytes, bytes]) -> tuple[bytes, Answer | None]:
    """Rewrite a target that does not begin with a slash (RFC 9112 3.2). A host in it replaces the Host header.

    Return it, and an answer if no app can: OPTIONS * is about the whole server, other targets are wrong.
    """
    if target == b"*" and method == b"OPTIONS":
        return target, OPTIONS_OF_SERVER
    found = _absolute_form.fullmatch(target)
    if not found:
        return target, BAD_TARGET
    host, rest = found.groups()
    if b"host" in headers:
        if refused := any_host(headers[b"host"]):
            return target, refused
        headers[b"host"] = host
    return rest if rest[:1] == b"/" else b"/" + rest, None


def explain(data: bytes, error: httptools.HttpParserError) -> Answer:
    """Say what came instead of HTTP/1.1. `data` begins with the request that the parser refused."""
    for beginning, answer in OTHER_PROTOCOLS.items():
        if data.startswith(beginning):
            return answer
    if isinstance(error, httptools.HttpParserInvalidURLError):
        return BAD_TARGET
    found = _request_line.fullmatch(data.lstrip(b"\r\n").partition(b"\r\n")[0])
    if found and found[2] not in (b"1.0", b"1.1"):
        return refusal(400, f"expected HTTP/1.1, got HTTP/{found[2].decode()}")
    if found and isinstance(error, httptools.HttpParserInvalidMethodError):
        method = found[1][:40].decode()
        return refusal(405, f"expected a method such as GET or POST, in upper case, got {method}", ALLOW)
    return NOT_HTTP
