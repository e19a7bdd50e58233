"""Headers and address of a request → where it comes from, and what it may do here."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

from emostream.settings import Network

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


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


def client_address(peer: str, forwarded_for: str | None, proxies: Sequence[Network]) -> Address | None:
    """Where a request comes from: the last hop that is no trusted proxy. None if the peer has no IP address."""
    hops = [hop.strip() for hop in (forwarded_for or "").split(",") if hop.strip()]
    found = parse_address(peer)
    while hops and found is not None and is_in(found, proxies):
        said = parse_address(hops.pop())
        if said is None:
            break  # not an address: the proxy that wrote it is the last hop that is known
        found = said
    return found
