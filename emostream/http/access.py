"""Headers and address of a request → where it comes from, and whether it may ask for this.

Names that are not ours are refused on every port, because a name that a stranger controls may lead here (DNS
rebinding). Operators' calls are refused to strangers. docs/security.md tells operators about both.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import msgspec

from emostream.http.head import any_host
from emostream.http.messages import JSON, Answer, Request, refusal, retry
from emostream.http.rate_limit import RateLimit
from emostream.settings import Network, Settings

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
OURS = tuple(
    map(ipaddress.ip_network, ("127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
)
# What a proxy adds to a request.
PROXY_HEADERS = (b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"forwarded", b"via")
WRONG_KEYS = "10/minute"  # from one address, in each process
COOKIE = "emostream_operator"
SIGN_IN = "/dashboard/key"
NO_OPERATOR_KEY = refusal(
    401, f"expected OPERATOR_KEY as Authorization: Bearer KEY, or the cookie of POST {SIGN_IN}, got another or none",
    ("www-authenticate", "Bearer"),
)  # fmt: skip
UNKNOWN_PROXY = refusal(
    403, "expected a caller whose address is known, got one behind a proxy; name the proxy in TRUSTED_PROXIES, and "
    "have it send X-Forwarded-For; or set OPERATOR_KEY, and show it",
)  # fmt: skip


def parse_address(text: str) -> Address | None:
    """The IP address in a peer's name or in one item of X-Forwarded-For, which may have a port; None without one."""
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


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of these networks has the address."""
    return any(address in network for network in networks)


def hops(forwarded_for: str | None) -> list[str]:
    """The items of X-Forwarded-For."""
    return [hop.strip() for hop in (forwarded_for or "").split(",") if hop.strip()]


def client_address(peer: str, forwarded_for: str | None, proxies: Sequence[Network]) -> Address | None:
    """Where a request comes from: the last hop that is no trusted proxy. None if the peer has no IP address."""
    left = hops(forwarded_for)
    found = parse_address(peer)
    while left and found is not None and is_in(found, proxies):
        said = parse_address(left.pop())
        if said is None:
            break  # not an address: the proxy that wrote it is the last hop that is known
        found = said
    return found


def name_of(address: Address | None, peer: str) -> str:
    """The name that limits count an address by. Of IPv6 it is the /64, which a provider gives to one customer."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return peer if address is None else str(address)


class AllowedHosts:
    """The host names by which requests may reach us: this machine's own, BIND_HOST, and those in ALLOWED_HOSTS.

    An IP address is always allowed: rebinding needs a name, and probes and clients on a network call us by address.
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
        """Refuse the value of a Host header that is no name of ours. Return None for the others."""
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
    """Who may make the operators' calls: /metrics, and the data behind the dashboard."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.operator_key.encode()
        self._proxies = settings.trusted_networks
        self._wrong = RateLimit(WRONG_KEYS)
        # The cookie cannot be turned back into the key, and guessing it is hopeless.
        self._cookie = hmac.new(self._key, b"EmoStream operator", hashlib.sha256).hexdigest().encode()

    @staticmethod
    def needed_for(path: str) -> bool:
        """Whether this is an operators' call. The dashboard's page itself is open, so that it can ask for the key."""
        return path == "/metrics" or path.startswith("/timeline") or (
            path.startswith("/dashboard") and path not in ("/dashboard", SIGN_IN)
        )  # fmt: skip

    def refusal(self, request: Request) -> Answer | None:
        """Return why a request may not make operators' calls; None if it may."""
        if not self._key:
            return self._refusal_by_address(request)
        scheme, _, token = request.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            return self._refusal_of_key(request, token.strip())
        return None if any(map(self._is_cookie, request.headers.get(b"cookie", b"").split(b";"))) else NO_OPERATOR_KEY

    def sign_in(self, request: Request) -> Answer:
        """Answer POST /dashboard/key: a cookie for the right key, which a page cannot read or lose."""
        if request.method != b"POST":
            return refusal(405, f"expected POST, got {request.method.decode()}", ("allow", "POST"))
        media_type = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if media_type != JSON.encode():  # the pages of others cannot send that without asking
            return refusal(415, f"expected Content-Type: {JSON}, got {media_type.decode('latin-1') or 'none'}")
        try:
            shown = msgspec.json.decode(request.body, type=dict[str, str])["key"].encode()
        except (msgspec.MsgspecError, KeyError, ValueError, RecursionError):
            return refusal(400, 'expected {"key": "<OPERATOR_KEY>"}, got something else')
        if not self._key:
            return refusal(404, "expected OPERATOR_KEY to be set, got a key without it; no key is needed here")
        if refused := self._refusal_of_key(request, shown):
            return refused
        by_tls = self._by_trusted_proxy(request) and request.header("x-forwarded-proto") == "https"
        cookie = f"{COOKIE}={self._cookie.decode()}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if by_tls else ''}"
        return Answer(204, b"", (("set-cookie", cookie), ("cache-control", "no-store")))

    def _is_cookie(self, pair: bytes) -> bool:
        name, _, value = pair.strip().partition(b"=")
        return name == COOKIE.encode() and hmac.compare_digest(value, self._cookie)

    def _refusal_of_key(self, request: Request, shown: bytes) -> Answer | None:
        found = client_address(request.peer, request.header("x-forwarded-for"), self._proxies)
        name = name_of(found, request.peer)
        wait_seconds = self._wrong.exceeded(name)
        if wait_seconds:
            return retry(429, f"expected at most {WRONG_KEYS} wrong keys from an address, got more", wait_seconds)
        if hmac.compare_digest(shown, self._key):
            return None
        self._wrong.take(name)
        return NO_OPERATOR_KEY

    def _by_trusted_proxy(self, request: Request) -> bool:
        peer = parse_address(request.peer)
        return peer is not None and is_in(peer, self._proxies)

    def _refusal_by_address(self, request: Request) -> Answer | None:
        """Without a key only loopback and private networks may ask. Behind a proxy, that goes for every hop."""
        callers = hops(request.header("x-forwarded-for"))
        if not any(name in request.headers for name in PROXY_HEADERS):
            callers = [request.peer]
        elif not callers or not self._by_trusted_proxy(request):
            return UNKNOWN_PROXY
        for caller in callers:
            address = parse_address(caller)
            if address is None or not is_in(address, OURS):
                return refusal(
                    403, f"expected a caller on this machine or in a private network, got {caller[:80]}; to call from "
                    "elsewhere, set OPERATOR_KEY, and show it",
                )  # fmt: skip
        return None
