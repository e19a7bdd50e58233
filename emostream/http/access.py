"""Headers and address of a request → where it comes from, and whether it may ask for this.

Every port refuses host names that are not ours: a stranger can make a name of his own lead here (DNS rebinding).
Operators' calls are refused to strangers. docs/security.md tells operators about both.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import msgspec

from emostream.http.head import any_host
from emostream.http.messages import JSON, Answer, Request, refusal, retry
from emostream.http.rate_limit import RateLimit
from emostream.settings import Network, Settings

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
PRIVATE_NETWORKS = tuple(
    map(ipaddress.ip_network, ("127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
)
PROXY_HEADERS = (b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"forwarded", b"via")
METRICS = "/metrics"
WRONG_KEYS = "10/minute"  # from one address, in each process
COOKIE = "emostream_operator"
NO_OPERATOR_KEY = refusal(
    401, "expected OPERATOR_KEY as Authorization: Bearer KEY, or the cookie that the app gives for it, got neither",
    ("www-authenticate", "Bearer"),
)  # fmt: skip
UNKNOWN_PROXY = refusal(
    403, "expected the address of the caller, got a request from an unknown proxy; name the proxy in TRUSTED_PROXIES "
    "and let it send X-Forwarded-For, or set OPERATOR_KEY and send it",
)  # fmt: skip


def parse_address(text: str) -> IPAddress | None:
    """Return the IP address in a peer's name or in one item of X-Forwarded-For, where a port may follow it."""
    host = text.strip()
    if host.startswith("["):  # [2001:db8::1]:443
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:  # 192.0.2.1:443
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_in(address: IPAddress | None, networks: Sequence[Network]) -> bool:
    """Whether one of these networks has the address."""
    return address is not None and any(address in network for network in networks)


def bearer_token(request: Request) -> bytes | None:
    """The token in `Authorization: Bearer TOKEN`; None if the request has no such header."""
    scheme, _, token = request.headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None


def hops(request: Request) -> list[str]:
    """The items of X-Forwarded-For."""
    return [hop.strip() for hop in (request.header("x-forwarded-for") or "").split(",") if hop.strip()]


def limited_name(request: Request, proxies: Sequence[Network]) -> str:
    """Return the name that rate limits count a request by: the address of the last hop that is no trusted proxy.

    An IPv6 address counts as its /64 network, because a provider gives that to one customer.
    """
    left = hops(request)
    found = parse_address(request.peer)
    while left and is_in(found, proxies):
        said = parse_address(left.pop())
        if said is None:
            break  # not an address: the proxy that wrote it is the last hop that is known
        found = said
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return request.peer if found is None else str(found)


class AllowedHosts:
    """The host names that a request may have: this machine's own, BIND_HOST, and those in ALLOWED_HOSTS.

    An IP address is always allowed: rebinding needs a name. Probes and clients on a network use addresses.
    """

    def __init__(self, settings: Settings) -> None:
        listed = {name.strip().lower().rstrip(".") for name in settings.allowed_hosts.split(",")} - {""}
        own = socket.gethostname().lower()
        self._any = "*" in listed
        self._names = listed | {"localhost", own, own.partition(".")[0], f"{own}.local", settings.bind_host.lower()}
        self._domains = (".localhost", *(name.lstrip("*") for name in listed if name.startswith((".", "*."))))
        self._names |= {name[1:] for name in listed if name.startswith(".")}
        # Nearly all requests have one of a few hosts.
        self.check = lru_cache(maxsize=1024)(self._check)

    def _check(self, host: bytes) -> Answer | None:
        """Return why this value of a Host header is refused; None if it is allowed."""
        refused = any_host(host)
        if refused or self._any:
            return refused
        text = host.decode().lower()
        name = text.rpartition(":")[0] if ":" in text and not text.endswith("]") else text
        name = name.removesuffix(".")
        if parse_address(name) or name in self._names or name.endswith(self._domains):
            return None
        return refusal(421, f"expected a host name of this server, got {name[:80]}; if it is, add it to ALLOWED_HOSTS")


class Operators:
    """Who may make the operators' calls of one port: /metrics, and those that the app of the port names."""

    def __init__(
        self, settings: Settings, also_needed_for: Callable[[str], bool] = lambda _path: False, sign_in_path: str = ""
    ) -> None:
        """`also_needed_for` says whether a path is an operators' call. A POST to `sign_in_path` gets the cookie."""
        self.sign_in_path = sign_in_path
        self._also_needed_for = also_needed_for
        self._key = settings.operator_key.encode()
        self._proxies = settings.trusted_networks
        self._wrong = RateLimit(WRONG_KEYS)
        # Nobody can compute the key from this, or guess it.
        self._cookie = hmac.new(self._key, b"EmoStream operator", hashlib.sha256).hexdigest().encode()

    def needed_for(self, path: str) -> bool:
        """Whether this is an operators' call."""
        return path == METRICS or self._also_needed_for(path)

    def refusal(self, request: Request) -> Answer | None:
        """Return why a request may not make operators' calls; None if it may."""
        if not self._key:
            return self._refusal_by_address(request)
        token = bearer_token(request)
        if token is not None:
            return self._refusal_of_key(request, token)
        for pair in request.headers.get(b"cookie", b"").split(b";"):
            name, _, value = pair.strip().partition(b"=")
            if name == COOKIE.encode() and hmac.compare_digest(value, self._cookie):
                return None
        return NO_OPERATOR_KEY

    def sign_in(self, request: Request) -> Answer:
        """Answer the right key with a cookie that no script can read."""
        if request.method != b"POST":
            return refusal(405, f"expected POST, got {request.method.decode()}", ("allow", "POST"))
        media_type = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if media_type != JSON.encode():  # a browser sends JSON for another site only if we allow it
            return refusal(415, f"expected Content-Type: {JSON}, got {media_type.decode('latin-1') or 'none'}")
        try:
            shown = msgspec.json.decode(request.body, type=dict[str, str])["key"].encode()
        except (msgspec.MsgspecError, KeyError, ValueError, RecursionError):
            return refusal(400, 'expected {"key": "<OPERATOR_KEY>"}, got something else')
        if not self._key:
            return refusal(404, "expected OPERATOR_KEY to be set, got a key without it; no key is needed here")
        if refused := self._refusal_of_key(request, shown):
            return refused
        by_tls = self._from_trusted_proxy(request) and request.header("x-forwarded-proto") == "https"
        cookie = f"{COOKIE}={self._cookie.decode()}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if by_tls else ''}"
        return Answer(204, b"", (("set-cookie", cookie), ("cache-control", "no-store")))

    def _refusal_of_key(self, request: Request, shown: bytes) -> Answer | None:
        name = limited_name(request, self._proxies)
        if wait_seconds := self._wrong.exceeded(name):
            return retry(429, f"expected at most {WRONG_KEYS} wrong keys from an address, got more", wait_seconds)
        if hmac.compare_digest(shown, self._key):
            return None
        self._wrong.take(name)
        return NO_OPERATOR_KEY

    def _from_trusted_proxy(self, request: Request) -> bool:
        return is_in(parse_address(request.peer), self._proxies)

    def _refusal_by_address(self, request: Request) -> Answer | None:
        """Without a key, only callers on this machine and in private networks may ask.

        The caller, and every proxy between us, must be there.
        """
        callers = [request.peer]
        if any(name in request.headers for name in PROXY_HEADERS):
            callers = hops(request)
            if not callers or not self._from_trusted_proxy(request):
                return UNKNOWN_PROXY
        for caller in callers:
            if not is_in(parse_address(caller), PRIVATE_NETWORKS):
                return refusal(
                    403, f"expected a caller on this machine or in a private network, got {caller[:80]}; to call from "
                    "elsewhere, set OPERATOR_KEY and send it",
                )  # fmt: skip
        return None
