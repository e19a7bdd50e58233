"""Host name of a client → the addresses that a push may go to, so that nobody can aim pushes at an internal service.

A name is resolved once per connection. Its addresses are checked, and the connection goes to one of these addresses. So
the form in which an address was written (decimal, octal, IPv4 within IPv6) makes no difference.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence

from emostream.http.access import IPAddress, is_in
from emostream.settings import Network

# Forbidden whatever CLIENT_NETWORKS says. No client is there, but the credentials of a cloud machine may be.
NEVER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host, by another name
        "169.254.0.0/16",  # link-local, with the metadata of most clouds at 169.254.169.254
        "100.100.100.200/32",  # metadata of Alibaba Cloud
        "168.63.129.16/32",  # metadata of Azure
        "192.0.0.192/32",  # metadata of Oracle Cloud
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "::/128",
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local, deprecated
        "fd00:ec2::/32",  # metadata of AWS
        "fd20:ce::254/128",  # metadata of Google Cloud
        "ff00::/8",  # multicast
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)


class Forbidden(OSError):
    """No address of a host is allowed. The text names one of them, and the allowed networks."""


class AllowedNetworks:
    """The networks of CLIENT_NETWORKS, without those in NEVER."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks

    def allows(self, text: str) -> bool:
        """Whether a push may go to an IP address, written as the system writes it."""
        try:
            parsed = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
            parsed = parsed.ipv4_mapped  # the same address: the system sends IPv4
        found = (parsed, *embedded(parsed))
        return all(is_in(address, self._networks) and not is_in(address, NEVER) for address in found)

    def check(self, host: str, addresses: Sequence[str]) -> list[str]:
        """Those addresses of a host that are allowed. Raises Forbidden when there are none."""
        allowed = [address for address in addresses if self.allows(address)]
        if not allowed:
            named = ",".join(map(str, self._networks))
            raise Forbidden(f"{host} is {addresses[0]}, expected an address in {named} (CLIENT_NETWORKS)")
        return allowed


def embedded(address: IPAddress) -> Iterator[IPAddress]:
    """The IPv4 addresses that packets to an IPv6 address may end up at."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    number = int(address)
    if address in _NAT64 or address in _NAT64_LOCAL or (address in _COMPATIBLE and number > 1):
        yield ipaddress.IPv4Address(number & 0xFFFFFFFF)
    if number >> 32 & 0xFFFFFFFF in _ISATAP:
        yield ipaddress.IPv4Address(number & 0xFFFFFFFF)
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host, the system's first choice first. Blocks. Raises OSError when there are none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label is too long, or empty
        raise OSError(f"{host} is not a host name ({error})") from None
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
