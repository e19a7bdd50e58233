"""emostream.roles: which processes a system has, and that each of them is started and stopped as the table says."""

from __future__ import annotations

from configparser import RawConfigParser
from pkgutil import resolve_name

import msgspec
import pytest

from emostream import __main__, roles
from emostream.operate.supervisor import configuration
from emostream.roles import STOP_ORDER
from emostream.settings import SettingError
from testkit.settings import settings_with

STAGES = [
    "app", "main_publisher", "cluster_publisher_1", "cluster_publisher_2", "cluster_publisher_3",
    *(f"subscriber_{cluster}_{number}" for cluster in (1, 2, 3) for number in (1, 2, 3)),
]  # fmt: skip


def test_a_system_has_its_brokers_and_then_its_stages_in_the_order_of_the_data() -> None:
    for brokers, names in ((0, []), (1, ["kafka_1"]), (3, ["kafka_1", "kafka_2", "kafka_3"])):
        assert [role.name for role in roles.roles(settings_with(BROKERS=brokers))] == names + STAGES


def test_clusters_and_subscribers_are_as_many_as_the_settings_say() -> None:
    table = roles.roles(settings_with(BROKERS=0, CLUSTERS=4, SUBSCRIBERS=1))
    publishers = [f"cluster_publisher_{cluster}" for cluster in (1, 2, 3, 4)]
    subscribers = [f"subscriber_{cluster}_1" for cluster in (1, 2, 3, 4)]
    assert [role.name for role in table] == ["app", "main_publisher", *publishers, *subscribers]


def test_a_subscriber_with_a_host_of_its_own_may_have_the_same_ports_as_any_other() -> None:
    own = settings_with(SUBSCRIBER_PORT=7000, STREAM_PORT=7100)
    for cluster, number in ((1, 1), (3, 12)):
        addresses = roles.subscriber(own, cluster, number).addresses
        assert [(at.setting, at.port) for at in addresses] == [("SUBSCRIBER_PORT", 7000), ("STREAM_PORT", 7100)]


def test_no_two_processes_share_a_name_or_a_port() -> None:
    table = roles.roles(settings_with(BROKERS=3))
    ports = [address.port for role in table for address in role.addresses]
    assert len(set(ports)) == len(ports)
    assert len({role.name for role in table}) == len(table)


def test_a_subscriber_is_told_which_one_it_is_and_finds_its_own_row() -> None:
    [given] = [role for role in roles.roles(settings_with()) if role.name == "subscriber_2_3"]
    arguments = dict(argument.split("=") for argument in given.arguments[1:])
    settings = settings_with(**arguments)
    assert roles.subscriber(settings, settings.cluster, settings.subscriber) == given
    assert [(at.setting, at.port) for at in given.addresses] == [
        ("SUBSCRIBER_BASE_PORT", 7013),
        ("STREAM_BASE_PORT", 7113),
    ]


def test_every_process_but_a_broker_can_be_run_by_the_command_emostream() -> None:
    for role in roles.roles(settings_with()):
        assert role.kind == "kafka" or callable(resolve_name(__main__.PROCESSES[role.arguments[0]]))


@pytest.mark.parametrize(
    ("settings", "url", "stream_url"),
    [
        ({}, "http://127.0.0.1:7012", "http://127.0.0.1:7112/stream"),
        ({"BIND_HOST": "0.0.0.0"}, "http://127.0.0.1:7012", "http://127.0.0.1:7112/stream"),
        ({"BIND_HOST": "::1"}, "http://[::1]:7012", "http://[::1]:7112/stream"),
        ({"BIND_HOST": "192.0.2.7", "SUBSCRIBER_PORT": 80}, "http://192.0.2.7:80", "http://192.0.2.7:7112/stream"),
        ({"ADVERTISED_URL": "http://[2001:db8::1]:9/", "ADVERTISED_STREAM_URL": "https://fans.example.org/s/1-2"},
         "http://[2001:db8::1]:9", "https://fans.example.org/s/1-2/stream"),
        ({"ADVERTISED_URL": "http://s{cluster}{subscriber}.example.org",
          "ADVERTISED_STREAM_URL": "/s/{cluster}-{subscriber}/"}, "http://s22.example.org", "/s/2-2/stream"),
    ],
)  # fmt: skip
def test_a_subscriber_is_where_it_is_advertised_or_else_where_it_listens(
    settings: dict[str, object], url: str, stream_url: str
) -> None:
    found = settings_with(**settings)
    place = roles.place(found, roles.subscriber(found, 2, 2))
    assert place == roles.Place(2, 2, url, stream_url)
    assert place.name == "subscriber_2_2"
    assert msgspec.json.decode(msgspec.json.encode(place), type=roles.Place) == place


def configured(**settings: object) -> RawConfigParser:
    """What supervisord reads."""
    parser = RawConfigParser()
    parser.read_string(configuration(settings_with(**settings)))
    return parser


def test_supervisor_stops_groups_in_the_order_of_the_data_and_the_brokers_last() -> None:
    found = configured()
    groups = {name.removeprefix("group:"): section for name, section in found.items() if name.startswith("group:")}
    assert sorted(groups, key=lambda name: -int(groups[name]["priority"])) == list(STOP_ORDER)
    assert groups["cluster_publisher"]["programs"] == "cluster_publisher_1,cluster_publisher_2,cluster_publisher_3"


def test_supervisor_has_no_group_of_brokers_where_none_runs_here() -> None:
    assert not [name for name in configured(BROKERS=0) if "kafka" in name]


def test_supervisor_waits_longer_for_a_process_than_that_may_drain() -> None:
    assert configured(DRAIN_SECONDS=100)["program:app"]["stopwaitsecs"] == "117"


def test_only_the_named_processes_are_chosen_and_a_cluster_stands_for_its_subscribers() -> None:
    settings = settings_with(BROKERS=0, SUBSCRIBERS=2)
    names = [role.name for role in roles.named(settings, "app, subscriber_2")]
    assert names == ["app", "subscriber_2_1", "subscriber_2_2"]
    with pytest.raises(SettingError, match="--only kafka: expected some of app"):
        roles.named(settings, "kafka")
