"""Arguments, environment, .env and config/emostream.env → one frozen, validated Settings.

The only reader of configuration. As a command it prints settings for shell scripts:

    python -m emostream.settings                 every setting as an export statement, quoted for a shell
    python -m emostream.settings DATA_DIR ...    the values of these, one a line
"""

from __future__ import annotations

import base64
import difflib
import ipaddress
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from dotenv import dotenv_values
from msgspec import Meta

PROJECT_DIR = Path(__file__).resolve().parent.parent
DEFAULTS_FILE = PROJECT_DIR / "config" / "emostream.env"
LOCAL_FILE = PROJECT_DIR / ".env"
CLUSTER_TOPICS = ("cluster1-emoji-topic", "cluster2-emoji-topic", "cluster3-emoji-topic")
SUBSCRIBERS_PER_CLUSTER = 3
# What the seed's client sends, and the buttons of the viewer's page where nobody has chosen others.
SEED_EMOJIS = ("😊", "😂", "😍", "🔥", "👏")
# Where subscribers keep their registrations; ours alone, no part of the contract.
REGISTRY_TOPIC = "subscriber-registry"

MAX_PORT = 65_535

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
TopicName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,249}\Z")]
HostPorts = Annotated[str, Meta(pattern=r"^[^\s:,]+:[0-9]{1,5}(,[^\s:,]+:[0-9]{1,5})*\Z")]
RateLimit = Annotated[str, Meta(pattern=r"^([1-9][0-9]{0,8}/(second|minute|hour))?\Z")]
Origins = Annotated[str, Meta(pattern=r"^(\*|https?://[^\s,/*]+(,https?://[^\s,/*]+)*)?\Z")]
# As records.py has it: 1 to 64 bytes, here characters, none of which steers a terminal.
Emojis = Annotated[str, Meta(pattern=r"^([^\x00-\x1f\x7f-\x9f,]{1,64}(,[^\x00-\x1f\x7f-\x9f,]{1,64})*)?\Z")]
TcpPort = Annotated[int, Meta(ge=1, le=MAX_PORT)]


class SettingError(ValueError):
    """A setting that cannot be used; the text names it, what was expected and what came."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=str.upper):
    """All settings. config/emostream.env says what each means and holds its default; units are in the names."""

    kafka_bootstrap_servers: HostPorts
    brokers: Literal[0, 1, 3]
    emoji_topic: TopicName
    main_topic: TopicName
    cluster_topic: Literal["", "cluster1-emoji-topic", "cluster2-emoji-topic", "cluster3-emoji-topic"]
    bind_host: Annotated[str, Meta(min_length=1)]
    cors_origins: Origins
    app_port: TcpPort
    app_workers: Annotated[int, Meta(ge=1, le=64)]
    ack: Literal["buffer", "broker"]
    linger_ms: Annotated[int, Meta(ge=0, le=60_000)]
    max_buffered_events: Annotated[int, Meta(ge=1)]
    max_concurrent_requests: Annotated[int, Meta(ge=1)]
    emojis: Emojis
    rate_limit_user: RateLimit
    rate_limit_address: RateLimit
    trusted_proxies: str
    api_key: str
    spark_master: Annotated[str, Meta(min_length=1)]
    batch_seconds: Annotated[float, Meta(gt=0, le=3600)]
    events_per_emoji: Annotated[int, Meta(ge=1)]
    rounding: Literal["ceil", "floor"]
    max_events_per_batch: Annotated[int, Meta(ge=1)]
    max_emojis_per_batch: Annotated[int, Meta(ge=1, le=100_000)]
    subscriber: Annotated[int, Meta(ge=1, le=9)]
    subscriber_base_port: Annotated[int, Meta(ge=1, le=65_500)]
    stream_base_port: Annotated[int, Meta(ge=1, le=65_500)]
    max_clients: Annotated[int, Meta(ge=1)]
    max_streams: Annotated[int, Meta(ge=0)]
    max_age_seconds: Annotated[float, Meta(gt=0, le=3600)]
    evict_after_seconds: Annotated[float, Meta(gt=0, le=86_400)]
    client_networks: Annotated[str, Meta(min_length=1)]
    verify_clients: Literal[0, 1]
    push_secret: str
    port: TcpPort
    metrics_base_port: Annotated[int, Meta(ge=1, le=65_500)]
    log_format: Literal["text", "json"]
    data_dir: Annotated[str, Meta(min_length=1)]
    drain_seconds: Annotated[float, Meta(ge=0, le=600)]

    @property
    def data_path(self) -> Path:
        """DATA_DIR as an absolute path."""
        return (PROJECT_DIR / self.data_dir).resolve()

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic, in the order of the data."""
        return (self.emoji_topic, self.main_topic, *CLUSTER_TOPICS, REGISTRY_TOPIC)

    @property
    def bootstrap_servers(self) -> list[str]:
        """host:port of every broker: those that were named, or all that ./start.sh runs."""
        named = self.kafka_bootstrap_servers.split(",")
        if self.brokers > len(named):
            return [f"{host}:{port}" for host, port in map(self.broker_address, range(1, self.brokers + 1))]
        return named

    def broker_address(self, number: int) -> tuple[str, int]:
        """Host and TCP port of a broker that ./start.sh runs, counted from 1; its controller has the next port."""
        host, port = self.kafka_bootstrap_servers.split(",")[0].rsplit(":", 1)
        return host, int(port) + 2 * (number - 1)

    @property
    def allowed_emojis(self) -> tuple[str, ...]:
        """What EMOJIS lists; empty where every emoji is allowed."""
        return tuple(emoji.strip() for emoji in self.emojis.split(",") if emoji.strip())

    @property
    def trusted_networks(self) -> tuple[Network, ...]:
        """What TRUSTED_PROXIES lists. Raises ValueError."""
        return tuple(ipaddress.ip_network(part.strip()) for part in self.trusted_proxies.split(",") if part.strip())

    @property
    def push_key(self) -> bytes:
        """The bytes of PUSH_SECRET; none where it is not set. Raises SettingError."""
        name, _, key = self.push_secret.partition("whsec_")
        try:
            decoded = base64.b64decode(key, validate=True)
        except ValueError:
            decoded = b""
        if self.push_secret and (name or not 24 <= len(decoded) <= 64):
            raise SettingError("PUSH_SECRET=...: expected whsec_ and 24 to 64 bytes in base64")
        return decoded

    def required_cluster_topic(self) -> str:
        """CLUSTER_TOPIC; raises SettingError where it was not given."""
        if not self.cluster_topic:
            raise SettingError(f"CLUSTER_TOPIC is not set: expected one of {', '.join(CLUSTER_TOPICS)}")
        return self.cluster_topic

    def subscriber_port(self, cluster_topic: str, subscriber: int) -> int:
        """TCP port of a cluster's subscriber, which counts from 1."""
        return self.subscriber_base_port + 10 * CLUSTER_TOPICS.index(cluster_topic) + subscriber

    def stream_port(self, cluster_topic: str, subscriber: int) -> int:
        """TCP port of the event streams of a cluster's subscriber."""
        return self.stream_base_port + 10 * CLUSTER_TOPICS.index(cluster_topic) + subscriber

    def metrics_port(self, cluster: int = 0) -> int:
        """TCP port of the metrics of a cluster's publisher; of the main publisher for 0."""
        return self.metrics_base_port + cluster

    @property
    def subscriber_ports(self) -> tuple[int, ...]:
        """The ports of all subscribers that ./start.sh runs."""
        numbers = range(1, SUBSCRIBERS_PER_CLUSTER + 1)
        return tuple(self.subscriber_port(topic, number) for topic in CLUSTER_TOPICS for number in numbers)

    @property
    def client_host(self) -> str:
        """The address at which a process on this machine reaches the servers bound to BIND_HOST."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.bind_host, self.bind_host)


SETTING_NAMES = tuple(field.encode_name for field in msgspec.structs.fields(Settings))


def load(arguments: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from KEY=VALUE arguments (`-` and `_` alike), the environment, .env and the defaults, strongest first.

    Raises SettingError for an unknown name or a value out of bounds.
    """
    values: dict[str, str | None] = {}
    for source in (DEFAULTS_FILE, LOCAL_FILE):
        # interpolate=False: a `$` in a value is that character, as it is for every other source.
        for name, value in dotenv_values(source, interpolate=False).items():
            values[_known(name, source.name)] = value
    values |= {name: environ[name] for name in SETTING_NAMES if name in environ}
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator:
            raise SettingError(f"argument {argument!r}: expected KEY=VALUE, for example LINGER_MS=500")
        values[_known(name.replace("-", "_").upper(), f"argument {argument!r}")] = value
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingError(_sentence(str(error), values)) from None
    if len(set(settings.topics)) < len(settings.topics):
        raise SettingError(f"EMOJI_TOPIC and MAIN_TOPIC: expected two topics of their own, got {settings.topics[:2]}")
    settings.push_key  # noqa: B018 - raises where it cannot be used
    try:
        for network in settings.client_networks.split(","):
            ipaddress.ip_network(network)
    except ValueError as error:
        raise SettingError(f"CLIENT_NETWORKS={settings.client_networks!r}: expected networks ({error})") from None
    if any(int(server.rsplit(":", 1)[1]) > MAX_PORT for server in settings.bootstrap_servers):
        raise SettingError(
            f"KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers!r}: expected ports to {MAX_PORT}"
        )
    try:
        _ = settings.trusted_networks
    except ValueError as error:
        raise SettingError(
            f"TRUSTED_PROXIES={settings.trusted_proxies!r}: expected addresses and networks, for example "
            f"127.0.0.1,10.0.0.0/8, got one that is none ({error})"
        ) from None
    return settings


def _known(name: str, where: str) -> str:
    if name in SETTING_NAMES:
        return name
    close = difflib.get_close_matches(name, SETTING_NAMES, n=1)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(SETTING_NAMES)}"
    raise SettingError(f"{where}: there is no setting {name}; {hint}")


def _sentence(error: str, values: Mapping[str, str | None]) -> str:
    """What msgspec says of a value, in the words of the one who set it."""
    named = re.search(r"`\$\.(\w+)`", error)
    if not named:
        missing = re.search(r"required field `(\w+)`", error)
        return f"{missing[1]} is not set: {DEFAULTS_FILE} should hold its default" if missing else error
    name = named[1]
    expected = error.split(" - at ")[0].split(", got")[0].replace("Expected", "expected").replace("`", "")
    if expected.startswith("Invalid enum value"):
        field = next(field for field in msgspec.structs.fields(Settings) if field.encode_name == name)
        choices = [str(choice) for choice in _choices(field.type) if choice != ""]
        expected = f"expected one of {', '.join(choices)}"
    return f"{name}={values[name]!r}: {expected}"


def _choices(literal: object) -> tuple[object, ...]:
    return tuple(getattr(literal, "__args__", ()))


def main() -> None:
    """Print settings for a shell; exits 2 with one sentence where they cannot be used."""
    wanted = [name for name in sys.argv[1:] if "=" not in name]
    try:
        settings = load([argument for argument in sys.argv[1:] if "=" in argument])
        shown = {name: str(value) for name, value in msgspec.to_builtins(settings).items()}
        if wanted:
            print("\n".join(shown[_known(name, "settings")] for name in wanted))
        else:
            print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in shown.items()))
    except SettingError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
