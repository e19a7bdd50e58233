"""Settings → the name, the arguments and the ports of each process, in the order of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from emostream.setting_types import WebAddress, WebAddressOrPath
from emostream.settings import SettingError, Settings

# Processes of one kind stop together, in the order of the data. The brokers stop last because all others need them.
STOP_ORDER = ("app", "main_publisher", "cluster_publisher", "subscriber", "kafka")


class Address(NamedTuple):
    """Where a process listens, and the setting that moves it."""

    setting: str
    host: str
    port: int

    def __str__(self) -> str:
        """Return host:port, with IPv6 addresses in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Role:
    """One process of the system."""

    name: str  # in `status` and in the names of its log and its heartbeat
    kind: str  # one of STOP_ORDER
    arguments: tuple[str, ...]  # for the command `emostream`; none for a broker, which runs in Java
    addresses: tuple[Address, ...]
    cluster: int = 0  # clusters count from 1
    number: int = 0  # brokers, and the subscribers of a cluster, count from 1

    @property
    def port(self) -> int:
        """The first port. A broker listens on it for its clients; all other processes answer GET /metrics there."""
        return self.addresses[0].port


class Place(msgspec.Struct, frozen=True):
    """Where a subscriber is: this is what it announces. A `stream_url` without a host is below the app's address."""

    cluster: Annotated[int, Meta(ge=1)]
    subscriber: Annotated[int, Meta(ge=1)]
    url: WebAddress
    stream_url: WebAddressOrPath

    @property
    def name(self) -> str:
        """The name of the subscriber's role."""
        return f"subscriber_{self.cluster}_{self.subscriber}"


def broker(settings: Settings, number: int) -> Role:
    """Return a Kafka broker on this machine. The second port is its controller's."""
    host, first_port = settings.kafka_bootstrap_servers.split(",")[0].rsplit(":", 1)
    port = int(first_port) + 2 * (number - 1)
    addresses = tuple(Address("KAFKA_BOOTSTRAP_SERVERS", host.strip("[]"), at) for at in (port, port + 1))
    return Role(f"kafka_{number}", "kafka", (), addresses, number=number)


def app(settings: Settings) -> Role:
    """Return the process that ingests."""
    address = Address("APP_PORT", settings.bind_host, settings.app_port)
    return Role("app", "app", ("app",), (address,))


def main_publisher(settings: Settings) -> Role:
    """Return the process that aggregates."""
    address = Address("METRICS_BASE_PORT", settings.bind_host, settings.metrics_base_port)
    return Role("main_publisher", "main_publisher", ("main-publisher",), (address,))


def cluster_publisher(settings: Settings, cluster: int) -> Role:
    """Return the process that routes for one cluster."""
    arguments = ("cluster-publisher", f"CLUSTER_TOPIC={settings.cluster_topics[cluster - 1]}")
    address = Address("METRICS_BASE_PORT", settings.bind_host, settings.metrics_base_port + cluster)
    return Role(f"cluster_publisher_{cluster}", "cluster_publisher", arguments, (address,), cluster)


def subscriber(settings: Settings, cluster: int, number: int) -> Role:
    """Return a process that delivers for one cluster. Its event streams are on the second port."""
    arguments = ("subscriber", f"CLUSTER_TOPIC={settings.cluster_topics[cluster - 1]}", f"SUBSCRIBER={number}")
    addresses = tuple(
        Address(f"{name}_PORT", settings.bind_host, port)
        if port
        else Address(f"{name}_BASE_PORT", settings.bind_host, base_port + 10 * (cluster - 1) + number)
        for name, port, base_port in (
            ("SUBSCRIBER", settings.subscriber_port, settings.subscriber_base_port),
            ("STREAM", settings.stream_port, settings.stream_base_port),
        )
    )
    return Role(f"subscriber_{cluster}_{number}", "subscriber", arguments, addresses, cluster, number)


def local_url(settings: Settings) -> str:
    """Return how the URLs of servers on this machine begin; a colon and the port follow."""
    host = settings.client_host
    return f"http://[{host}]" if ":" in host else f"http://{host}"


def place(settings: Settings, role: Role) -> Place:
    """Return where a subscriber is, by the settings: at ADVERTISED_URL, or else on this machine."""
    numbers = {"{cluster}": str(role.cluster), "{subscriber}": str(role.number)}

    def url(advertised: str, address: Address) -> str:
        for name, number in numbers.items():
            advertised = advertised.replace(name, number)
        return advertised.rstrip("/") or f"{local_url(settings)}:{address.port}"

    own, streams = role.addresses
    stream_url = f"{url(settings.advertised_stream_url, streams)}/stream"
    return Place(role.cluster, role.number, url(settings.advertised_url, own), stream_url)


def brokers(settings: Settings) -> list[Role]:
    """Return every broker on this machine."""
    return [broker(settings, number) for number in range(1, settings.brokers + 1)]


def subscribers(settings: Settings) -> list[Role]:
    """Return every subscriber of every cluster."""
    numbers = range(1, settings.subscribers + 1)
    return [subscriber(settings, cluster, number) for cluster in _clusters(settings) for number in numbers]


def roles(settings: Settings) -> list[Role]:
    """Return every process of the system, in the order of the data."""
    return [
        *brokers(settings),
        app(settings),
        main_publisher(settings),
        *(cluster_publisher(settings, cluster) for cluster in _clusters(settings)),
        *subscribers(settings),
    ]


def named(settings: Settings, only: str) -> list[Role]:
    """Return the processes in a comma-separated list; subscriber_2 is all of cluster 2. Raises SettingError."""
    table = roles(settings)
    wanted = set[str]()
    for name in (part.strip() for part in only.split(",")):
        found = {role.name for role in table if f"{role.name}_".startswith(f"{name}_")}
        if not found:
            raise SettingError(f"--only {name}: expected some of {', '.join(role.name for role in table)}")
        wanted |= found
    return [role for role in table if role.name in wanted]


def _clusters(settings: Settings) -> range:
    return range(1, settings.clusters + 1)
