"""emostream.deliver.push.allowed_networks: to which addresses a push may go, in whatever form they are written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emostream.deliver.push.allowed_networks import NEVER, AllowedNetworks, Forbidden, embedded, resolve
from emostream.settings import networks
from testkit.settings import settings_with

DEFAULT = AllowedNetworks(networks("CLIENT_NETWORKS", settings_with().client_networks))
EVERYWHERE = AllowedNetworks(networks("CLIENT_NETWORKS", "0.0.0.0/0,::/0"))

# As in the table of stripe/smokescreen, and more: address, by default, where CLIENT_NETWORKS is everything.
TABLE = [
    ("127.0.0.1", True, True),
    ("127.255.255.254", True, True),
    ("10.0.0.1", True, True),
    ("172.16.0.1", True, True),
    ("172.31.255.255", True, True),
    ("192.168.0.1", True, True),
    ("::1", True, True),
    ("fc00::1", True, True),
    ("fd12:3456::1", True, True),
    ("::ffff:127.0.0.1", True, True),
    ("::ffff:10.0.0.1", True, True),
    ("172.15.255.255", False, True),
    ("172.32.0.0", False, True),
    ("192.167.255.255", False, True),
    ("11.0.0.0", False, True),
    ("8.8.8.8", False, True),
    ("93.184.216.34", False, True),
    ("100.64.0.1", False, True),
    ("198.18.0.1", False, True),
    ("2001:4860:4860::8888", False, True),
    ("::ffff:8.8.8.8", False, True),
    ("64:ff9b::8.8.8.8", False, True),
    # Never: this host by another name, link-local and metadata, multicast, reserved.
    ("0.0.0.0", False, False),
    ("0.1.2.3", False, False),
    ("169.254.169.254", False, False),
    ("169.254.0.1", False, False),
    ("100.100.100.200", False, False),
    ("168.63.129.16", False, False),
    ("192.0.0.192", False, False),
    ("224.0.0.1", False, False),
    ("239.255.255.255", False, False),
    ("240.0.0.1", False, False),
    ("255.255.255.255", False, False),
    ("::", False, False),
    ("fe80::1", False, False),
    ("fe80::1%eth0", False, False),
    ("fec0::1", False, False),
    ("ff02::1", False, False),
    ("fd00:ec2::254", False, False),
    ("fd20:ce::254", False, False),
    # And the same within IPv6.
    ("::ffff:169.254.169.254", False, False),
    ("::ffff:a9fe:a9fe", False, False),
    ("::ffff:0.0.0.0", False, False),
    ("::169.254.169.254", False, False),
    ("64:ff9b::169.254.169.254", False, False),
    ("64:ff9b:1::169.254.169.254", False, False),
    ("2002:a9fe:a9fe::1", False, False),
    ("2001:0:a9fe:a9fe::1", False, False),
    ("2001:0:4136:e378:8000:63bf:5601:5601", False, False),
    ("fd00::5efe:169.254.169.254", False, False),
    ("not an address", False, False),
    ("", False, False),
]


@pytest.mark.parametrize(("address", "by_default", "where_everything_is_allowed"), TABLE)
def test_an_address_is_allowed_or_not(address: str, by_default: bool, where_everything_is_allowed: bool) -> None:
    assert DEFAULT.allows(address) == by_default
    assert EVERYWHERE.allows(address) == where_everything_is_allowed


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2852039166", "169.254.169.254"),
        ("0xA9FEA9FE", "169.254.169.254"),
        ("0251.0376.0251.0376", "169.254.169.254"),
        ("169.254.43518", "169.254.169.254"),
        ("0", "0.0.0.0"),
        ("::ffff:a9fe:a9fe", "::ffff:169.254.169.254"),
    ],
)
def test_an_address_written_in_another_way_is_the_same_address(written: str, address: str) -> None:
    [found] = resolve(written, 80)
    assert ipaddress.ip_address(found) == ipaddress.ip_address(address)
    assert DEFAULT.allows(found) == DEFAULT.allows(address)


forms = st.sampled_from(
    [("::ffff:0:0", 0), ("64:ff9b::", 0), ("64:ff9b:1::", 0), ("fd00::5efe:0:0", 0), ("2002::", 80)]
)


@given(st.ip_addresses(v=4), forms)
def test_no_form_of_an_address_is_allowed_where_the_plain_one_is_not(
    v4: ipaddress.IPv4Address, form: tuple[str, int]
) -> None:
    number = int(ipaddress.IPv6Address(form[0])) | int(v4) << form[1]
    for allowed in (DEFAULT, EVERYWHERE):
        assert allowed.allows(str(v4)) or not allowed.allows(str(ipaddress.IPv6Address(number)))


@given(st.sampled_from(NEVER), st.integers(0, 2**128))
def test_an_address_in_never_is_refused_although_its_network_is_allowed(
    network: ipaddress.IPv4Network, at: int
) -> None:
    address = network[at % network.num_addresses]
    assert not AllowedNetworks([network, network.supernet()]).allows(str(address))


def test_only_the_allowed_addresses_of_a_host_are_used() -> None:
    assert DEFAULT.check("h", ["8.8.8.8", "127.0.0.1", "169.254.169.254"]) == ["127.0.0.1"]
    with pytest.raises(Forbidden, match=r"h is 8\.8\.8\.8, expected an address in 127.*CLIENT_NETWORKS"):
        DEFAULT.check("h", ["8.8.8.8"])


def test_an_invalid_host_name_is_an_os_error() -> None:
    for host in ("a" * 64, "a..b", "nobody.invalid"):
        with pytest.raises(OSError):  # noqa: PT011 - the system says it in words of its own
            resolve(host, 80)


def test_plain_ipv4_holds_nothing_else() -> None:
    assert list(embedded(ipaddress.ip_address("10.0.0.1"))) == []
