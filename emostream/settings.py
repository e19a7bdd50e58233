"""Arguments, environment, .env and config/emostream.env → one frozen, validated Settings.

Nothing else reads configuration. As a command it prints settings for shell scripts:

    python -m emostream.settings                 every setting as an export statement, quoted for a shell
    python -m emostream.settings DATA_DIR ...    the values of these settings, one per line
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

PACKAGE_DIR = Path(__file__).resolve().parent
PROJECT_DIR = PACKAGE_DIR.parent
# A wheel has config/ inside the package; a checkout has it beside the package.
INSTALLED = (PACKAGE_DIR / "config").is_dir()
CONFIG_DIR = (PACKAGE_DIR if INSTALLED else PROJECT_DIR) / "config"


def user_dir(environ: Mapping[str, str]) -> Path:
    """Return where an installed EmoStream keeps a user's data; this follows the XDG Base Directory convention."""
    base = Path(environ.get("XDG_DATA_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "share") / "emostream"


# Where .env is, and what a relative DATA_DIR starts from.
HOME_DIR = user_dir(os.environ) if INSTALLED else PROJECT_DIR
DEFAULTS_FILE = CONFIG_DIR / "emostream.env"
LOCAL_FILE = HOME_DIR / ".env"
# How messages name the commands.
START_COMMAND, TOPICS_COMMAND = ("emostream", "emostream topics") if INSTALLED else ("./start.sh", "./topic.sh")
CLUSTER_TOPICS = ("cluster1-emoji-topic", "cluster2-emoji-topic", "cluster3-emoji-topic")
SUBSCRIBERS_PER_CLUSTER = 3
# The emojis that the client sends, and the buttons of the viewer's page if EMOJIS is empty.
SEED_EMOJIS = ("😊", "😂", "😍", "🔥", "👏")
# Where subscribers keep their registrations. It is no part of the contract with other people's processes.
REGISTRY_TOPIC = "subscriber-registry"

MAX_PORT = 65_535

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
TopicName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,249}\Z")]
HostPorts = Annotated[str, Meta(pattern=r"^[^\s:,]+:[0-9]{1,5}(,[^\s:,]+:[0-9]{1,5})*\Z")]
RateLimit = Annotated[str, Meta(pattern=r"^([1-9][0-9]{0,8}/(second|minute|hour))?\Z")]
Origins = Annotated[str, Meta(pattern=r"^(\*|https?://[^\s,/*]+(,https?://[^\s,/*]+)*)?\Z")]
HostNames = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._*, -]*\Z")]
# 1 to 64 characters each, without control characters; records.py checks the same of every emoji that comes.
Emojis = Annotated[str, Meta(pattern=r"^([^\x00-\x1f\x7f-\x9f,]{1,64}(,[^\x00-\x1f\x7f-\x9f,]{1,64})*)?\Z")]
TcpPort = Annotated[int, Meta(ge=1, le=MAX_PORT)]


class SettingError(ValueError):
    """A setting cannot be used. The text names the setting, what was expected and what came."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=str.upper):
    """All settings. config/emostream.env explains each one and holds its default; names include the unit."""

    kafka_bootstrap_servers: HostPorts
    brokers: Literal[0, 1, 3]
    emoji_topic: TopicName
    main_topic: TopicName
    cluster_topic: Literal["", "cluster1-emoji-topic", "cluster2-emoji-topic", "cluster3-emoji-topic"]
    bind_host: Annotated[str, Meta(min_length=1)]
    allowed_hosts: HostNames
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
    operator_key: str
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
        return (HOME_DIR / self.data_dir).resolve()

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic, in the order of the data."""
        return (self.emoji_topic, self.main_topic, *CLUSTER_TOPICS, REGISTRY_TOPIC)

    @property
    def bootstrap_servers(self) -> list[str]:
        """host:port of every broker: the named ones, or all that ./start.sh runs if these are more."""
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
        """The emojis in EMOJIS; empty if every emoji is allowed."""
        return tuple(emoji.strip() for emoji in self.emojis.split(",") if emoji.strip())

    @property
    def trusted_networks(self) -> tuple[Network, ...]:
        """The networks in TRUSTED_PROXIES. Raises ValueError."""
        return tuple(ipaddress.ip_network(part.strip()) for part in self.trusted_proxies.split(",") if part.strip())

    @property
    def push_key(self) -> bytes:
        """The bytes of PUSH_SECRET; empty if it is not set. Raises SettingError."""
        name, _, key = self.push_secret.partition("whsec_")
        try:
            decoded = base64.b64decode(key, validate=True)
        except ValueError:
            decoded = b""
        if self.push_secret and (name or not 24 <= len(decoded) <= 64):
            raise SettingError("PUSH_SECRET=...: expected whsec_ and 24 to 64 bytes in base64")
        return decoded

    def required_cluster_topic(self) -> str:
        """CLUSTER_TOPIC. Raises SettingError if it is not set."""
        if not self.cluster_topic:
            raise SettingError(f"CLUSTER_TOPIC is not set: expected one of {', '.join(CLUSTER_TOPICS)}")
        return self.cluster_topic

    @property
    def cluster(self) -> int:
        """Number of the cluster that CLUSTER_TOPIC belongs to, from 1. Raises SettingError if it is not set."""
        return CLUSTER_TOPICS.index(self.required_cluster_topic()) + 1

    def subscriber_port(self, cluster_topic: str, subscriber: int) -> int:
        """TCP port of one subscriber of a cluster; subscribers count from 1."""
        return self.subscriber_base_port + 10 * CLUSTER_TOPICS.index(cluster_topic) + subscriber

    def stream_port(self, cluster_topic: str, subscriber: int) -> int:
        """TCP port of the event streams of one subscriber of a cluster."""
        return self.stream_base_port + 10 * CLUSTER_TOPICS.index(cluster_topic) + subscriber

    def metrics_port(self, cluster: int = 0) -> int:
        """TCP port of the metrics of a cluster's publisher; 0 stands for the main publisher."""
        return self.metrics_base_port + cluster

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this process with every setting in it: a child process gets the same settings."""
        return {**os.environ, **{name: str(value) for name, value in msgspec.to_builtins(self).items()}}

    @property
    def client_host(self) -> str:
        """The address at which processes on this machine reach servers that listen on BIND_HOST."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.bind_host, self.bind_host)


SETTING_NAMES = tuple(field.encode_name for field in msgspec.structs.fields(Settings))


def load(arguments: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> Settings:
    """Read KEY=VALUE arguments (`-` and `_` alike), the environment, .env and the defaults; the first is the strongest.

    Raises SettingError for an unknown name or a value out of bounds.
    """
    values: dict[str, str | None] = _read(DEFAULTS_FILE)
    if INSTALLED:
        values["DATA_DIR"] = str(HOME_DIR)
    values |= _read(LOCAL_FILE)
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
        raise SettingError(f"EMOJI_TOPIC and MAIN_TOPIC: expected two different topics, got {settings.topics[:2]}")
    _ = settings.push_key  # raises SettingError
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
            f"127.0.0.1,10.0.0.0/8 ({error})"
        ) from None
    return settings


def _read(path: Path) -> dict[str, str | None]:
    # interpolate=False: a `$` in a value is that character, as in every other source.
    found = dotenv_values(path, interpolate=False)
    return {_known(name, path.name): value for name, value in found.items()}


def _known(name: str, where: str) -> str:
    if name in SETTING_NAMES:
        return name
    close = difflib.get_close_matches(name, SETTING_NAMES, n=1)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(SETTING_NAMES)}"
    raise SettingError(f"{where}: there is no setting {name}; {hint}")


def _sentence(error: str, values: Mapping[str, str | None]) -> str:
    """Translate a message of msgspec into one that names the setting and its value."""
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
    """Print settings for a shell. A setting that cannot be used ends it with one sentence and exit status 2."""
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
