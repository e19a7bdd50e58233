"""Arguments, environment, .env and config/emostream.env → one frozen, validated Settings. Nothing else reads them."""

from __future__ import annotations

import difflib
import ipaddress
import logging
import os
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from dotenv import dotenv_values
from msgspec import Meta

from emostream.setting_types import (
    MAX_PORT,
    BasePort,
    DirectoryPath,
    Emojis,
    FilePath,
    HostNames,
    HostPorts,
    NumberOrNone,
    Origins,
    PortOrNone,
    RateLimit,
    RoomName,
    Rooms,
    Secret,
    TcpPort,
    Text,
    TopicName,
    WebAddress,
    WebAddressOrPath,
    as_written,
    expectation,
    webhook_key,
)

PACKAGE_DIR = Path(__file__).resolve().parent
PROJECT_DIR = PACKAGE_DIR.parent
# A wheel has config/ inside the package; a checkout has it beside the package.
INSTALLED = (PACKAGE_DIR / "config").is_dir()
CONFIG_DIR = (PACKAGE_DIR if INSTALLED else PROJECT_DIR) / "config"


def user_dir(environ: Mapping[str, str]) -> Path:
    """Return where an installed EmoStream keeps a user's data; this follows the XDG Base Directory convention."""
    base = Path(environ.get("XDG_DATA_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".local" / "share") / "emostream"
    except RuntimeError:
        raise SystemExit("This user has no home directory: set HOME or XDG_DATA_HOME.") from None


# Where .env is, and what a relative DATA_DIR starts from.
HOME_DIR = user_dir(os.environ) if INSTALLED else PROJECT_DIR
DEFAULTS_FILE = CONFIG_DIR / "emostream.env"
LOCAL_FILE = HOME_DIR / ".env"
# How messages name the commands.
START_COMMAND, TOPICS_COMMAND = ("emostream", "emostream topics") if INSTALLED else ("./start.sh", "./topic.sh")
# The emojis that the client sends, and the buttons of the viewer's page if EMOJIS is empty.
SEED_EMOJIS = ("😊", "😂", "😍", "🔥", "👏")
# Where subscribers keep their registrations. It is no part of the contract with other people's processes.
REGISTRY_TOPIC = "subscriber-registry"
# If a name in .env is this similar to the name of a setting, it is a typing error. Other names are another program's.
NEAR_MISS = 0.8

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class SettingError(ValueError):
    """A setting cannot be used. The text names the setting, what was expected and what came."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=str.upper):
    """All settings. config/emostream.env explains each one and holds its default; names include the unit."""

    kafka_bootstrap_servers: HostPorts
    brokers: Literal[0, 1, 3]
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
    kafka_sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    kafka_sasl_username: str
    kafka_sasl_password: Secret
    kafka_ssl_ca: FilePath
    kafka_ssl_certificate: FilePath
    kafka_ssl_key: FilePath
    kafka_ssl_key_password: Secret
    emoji_topic: TopicName
    main_topic: TopicName
    partitions: Annotated[int, Meta(ge=1, le=10_000)]
    clusters: Annotated[int, Meta(ge=1, le=99)]
    cluster_topic: str
    bind_host: Text
    allowed_hosts: HostNames
    cors_origins: Origins
    app_port: TcpPort
    app_workers: Annotated[int, Meta(ge=1, le=64)]
    ack: Literal["buffer", "broker"]
    linger_ms: Annotated[int, Meta(ge=0, le=60_000)]
    max_buffered_events: Annotated[int, Meta(ge=1)]
    max_concurrent_requests: Annotated[int, Meta(ge=1)]
    emojis: Emojis
    rooms: Rooms
    rate_limit_user: RateLimit
    rate_limit_address: RateLimit
    trusted_proxies: str
    api_key: str
    operator_key: str
    spark_master: Text
    spark_driver_host: Text
    spark_driver_bind: str
    batch_seconds: Annotated[float, Meta(gt=0, le=3600)]
    events_per_emoji: Annotated[int, Meta(ge=1)]
    rounding: Literal["ceil", "floor"]
    max_events_per_batch: Annotated[int, Meta(ge=1)]
    max_emojis_per_batch: Annotated[int, Meta(ge=1, le=100_000)]
    max_rooms_per_batch: Annotated[int, Meta(ge=1, le=100_000)]
    max_taps_per_user: NumberOrNone
    subscribers: Annotated[int, Meta(ge=1, le=99)]
    subscriber: Annotated[int, Meta(ge=1, le=999)]
    subscriber_base_port: BasePort
    subscriber_port: PortOrNone
    stream_base_port: BasePort
    stream_port: PortOrNone
    advertised_url: WebAddress
    advertised_stream_url: WebAddressOrPath
    max_clients: Annotated[int, Meta(ge=1)]
    max_streams: Annotated[int, Meta(ge=0)]
    max_age_seconds: Annotated[float, Meta(gt=0, le=3600)]
    evict_after_seconds: Annotated[float, Meta(gt=0, le=86_400)]
    client_networks: Text
    verify_clients: Literal[0, 1]
    push_secret: str
    port: TcpPort
    room: RoomName
    metrics_base_port: BasePort
    log_format: Literal["text", "json"]
    data_dir: DirectoryPath
    drain_seconds: Annotated[float, Meta(ge=0, le=600)]

    @property
    def data_path(self) -> Path:
        """DATA_DIR as an absolute path. Raises RuntimeError or OSError if there is none."""
        return (HOME_DIR / Path(self.data_dir).expanduser()).resolve()

    def file(self, path: str) -> str:
        """A path in a setting as an absolute one; a relative one starts where a relative DATA_DIR does."""
        return os.path.join(HOME_DIR, os.path.expanduser(path))

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic, in the order of the data."""
        return (self.emoji_topic, self.main_topic, *self.cluster_topics, REGISTRY_TOPIC)

    @property
    def cluster_topics(self) -> tuple[str, ...]:
        """The topic of each cluster."""
        return tuple(f"cluster{number}-emoji-topic" for number in range(1, self.clusters + 1))

    @property
    def bootstrap_servers(self) -> list[str]:
        """host:port of every broker: the named ones, or all that ./start.sh runs if these are more."""
        named = self.kafka_bootstrap_servers.split(",")
        host, port = named[0].rsplit(":", 1)
        run_here = [f"{host}:{int(port) + 2 * number}" for number in range(self.brokers)]
        return named if len(named) >= self.brokers else run_here

    @property
    def allowed_emojis(self) -> tuple[str, ...]:
        """The emojis in EMOJIS; empty if every emoji is allowed."""
        return tuple(emoji for emoji in self.emojis.split(",") if emoji)

    @property
    def open_rooms(self) -> tuple[str, ...]:
        """The rooms in ROOMS; empty if every room is open. The default room always is."""
        return tuple(room for room in self.rooms.split(",") if room)

    @property
    def trusted_networks(self) -> tuple[Network, ...]:
        """The networks in TRUSTED_PROXIES."""
        return networks("TRUSTED_PROXIES", self.trusted_proxies)

    @property
    def push_key(self) -> bytes:
        """The bytes of PUSH_SECRET; empty if it is not set. Raises SettingError."""
        if self.push_secret and not webhook_key(self.push_secret):
            raise SettingError("PUSH_SECRET=...: expected whsec_ and 24 to 64 bytes in base64")
        return webhook_key(self.push_secret)

    def required_cluster_topic(self) -> str:
        """CLUSTER_TOPIC. Raises SettingError if it is not set."""
        if not self.cluster_topic:
            raise SettingError(f"CLUSTER_TOPIC is not set: expected one of {', '.join(self.cluster_topics)}")
        return self.cluster_topic

    @property
    def cluster(self) -> int:
        """Number of the cluster that CLUSTER_TOPIC belongs to, from 1. Raises SettingError if it is not set."""
        return self.cluster_topics.index(self.required_cluster_topic()) + 1

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this process with every setting in it: a child process gets the same settings."""
        kept = {name: value for name, value in os.environ.items() if name not in SECRET_FILES}
        return {**kept, **{name: str(value) for name, value in msgspec.to_builtins(self).items()}}

    @property
    def client_host(self) -> str:
        """The address at which processes on this machine reach servers that listen on BIND_HOST."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.bind_host, self.bind_host)


FIELDS = {field.encode_name: field.type for field in msgspec.structs.fields(Settings)}
SETTING_NAMES = tuple(FIELDS)
LISTS = ("KAFKA_BOOTSTRAP_SERVERS", "CORS_ORIGINS", "EMOJIS", "ROOMS", "TRUSTED_PROXIES", "CLIENT_NETWORKS",
         "ALLOWED_HOSTS")  # fmt: skip
SECRETS = ("API_KEY", "OPERATOR_KEY", "PUSH_SECRET", "KAFKA_SASL_PASSWORD", "KAFKA_SSL_KEY_PASSWORD")
SECRET_FILES = tuple(f"{name}_FILE" for name in SECRETS)
NAMES = SETTING_NAMES + SECRET_FILES


def load(arguments: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> Settings:
    """Read KEY=VALUE arguments (`-` and `_` alike), the environment, .env and the defaults; the first is the strongest.

    Raises SettingError for an unknown name or a value out of bounds.
    """
    texts: dict[str, str | None] = {**dotenv_values(DEFAULTS_FILE, interpolate=False, encoding="utf-8")}
    if INSTALLED:
        texts["DATA_DIR"] = str(HOME_DIR)
    given = {name: environ[name] for name in NAMES if name in environ}
    # One of our processes may have started this one. Then every setting is in the environment, and .env is not needed.
    if not given.keys() >= set(SETTING_NAMES):
        texts |= _with_secrets(_local())
    texts |= _with_secrets(given)
    named: dict[str, str] = {}
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator:
            raise SettingError(f"argument {argument!r}: expected KEY=VALUE, for example LINGER_MS=500")
        name = name.replace("-", "_").upper()
        if name not in NAMES:
            hint = _meant(name, cutoff=0.6) or f"expected one of {', '.join(SETTING_NAMES)}"
            raise SettingError(f"argument {name}=...: there is no setting {name}; {hint}")
        named[name] = value
    texts |= _with_secrets(named)
    settings = Settings(**{name.lower(): _value(name, texts.get(name)) for name in SETTING_NAMES})
    if settings.cluster_topic not in ("", *settings.cluster_topics):
        raise SettingError(
            f"CLUSTER_TOPIC={settings.cluster_topic!r}: expected one of {', '.join(settings.cluster_topics)}"
        )
    last = 10 * (settings.clusters - 1) + settings.subscribers
    for name, port in (
        ("SUBSCRIBER_BASE_PORT", settings.subscriber_base_port + last),
        ("STREAM_BASE_PORT", settings.stream_base_port + last),
        ("METRICS_BASE_PORT", settings.metrics_base_port + settings.clusters),
    ):
        if port > MAX_PORT:
            raise SettingError(f"{name}: expected ports to {MAX_PORT} for all CLUSTERS and SUBSCRIBERS, got {port}")
    if len(set(settings.topics)) < len(settings.topics):
        raise SettingError(f"EMOJI_TOPIC and MAIN_TOPIC: expected two different topics, got {settings.topics[:2]}")
    _ = settings.push_key, settings.trusted_networks, networks("CLIENT_NETWORKS", settings.client_networks)
    if any(int(server.rsplit(":", 1)[1]) > MAX_PORT for server in settings.bootstrap_servers):
        raise _refusal("KAFKA_BOOTSTRAP_SERVERS", settings.kafka_bootstrap_servers)
    try:
        if "," in str(settings.data_path):
            raise OSError("Spark takes a comma for the end of a path")
    except (RuntimeError, OSError) as error:
        raise SettingError(f"DATA_DIR={settings.data_dir!r}: expected a path that can be followed ({error})") from None
    return settings


def from_environment(environ: Mapping[str, str] = os.environ) -> str:
    """Return which settings this environment holds, without the values of secret ones."""
    found = [name for name in NAMES if name in environ]
    return ", ".join(f"{name}=(not shown)" if name in SECRETS else f"{name}={environ[name]}" for name in found)


def _with_secrets(source: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the settings of one source, in which a secret may also be in the file that <NAME>_FILE names."""
    found = dict(source)
    for name, file_name in zip(SECRETS, SECRET_FILES, strict=True):
        if not (path := found.pop(file_name, None)):
            continue
        if found.get(name):
            raise SettingError(f"{name} and {file_name} are both set: expected one of them")
        try:
            found[name] = (HOME_DIR / Path(path).expanduser()).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise SettingError(f"{file_name}={path!r}: expected a readable file in UTF-8 ({error})") from None
    return found


def _local() -> dict[str, str | None]:
    """Return the settings in .env, which may hold names of other programs, too. Raises SettingError."""
    try:
        text = LOCAL_FILE.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{LOCAL_FILE}: expected a readable file of KEY=VALUE lines in UTF-8 ({error})") from None
    # interpolate=False: a `$` in a value is that character, as in every other source.
    found = dotenv_values(stream=StringIO(text), interpolate=False)
    foreign = [name for name in found if name not in NAMES]
    for name in foreign:
        if hint := _meant(name.replace("-", "_").upper(), NEAR_MISS):
            raise SettingError(f"{LOCAL_FILE.name}: there is no setting {name}; {hint}")
    if foreign:
        logging.getLogger("emostream").warning("%s: ignored, no settings: %s", LOCAL_FILE, ", ".join(foreign))
    return {name: value for name, value in found.items() if name in NAMES}


def _meant(name: str, cutoff: float) -> str:
    close = difflib.get_close_matches(name, NAMES, n=1, cutoff=cutoff)
    return f"did you mean {close[0]}?" if close else ""


def _value(name: str, text: str | None) -> Any:
    """Return the value of a setting. Spaces around it, and empty parts of a list, do not count. Raises SettingError."""
    if text is None:
        raise SettingError(f"{name} is not set: expected {name}=VALUE; {DEFAULTS_FILE} should hold its default")
    value = text.strip(" \t")
    if name in LISTS:
        value = ",".join(part.strip(" \t") for part in value.split(",") if part.strip(" \t"))
    if name == "CORS_ORIGINS":
        # As browsers write an origin: lower case, no slash at the end, no default port.
        parts = (part.rstrip("/") for part in value.lower().split(","))
        value = ",".join(re.sub(r"^(http://.+):80$|^(https://.+):443$", r"\1\2", part) for part in parts)
    try:
        value.encode()
        return msgspec.convert(as_written(value, FIELDS[name]), FIELDS[name], strict=False)
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise _refusal(name, text) from None


def networks(name: str, text: str) -> tuple[Network, ...]:
    """Return the networks in the value of a setting. Raises SettingError."""
    try:
        return tuple(ipaddress.ip_network(part) for part in text.split(",") if part)
    except ValueError as error:
        raise SettingError(f"{name}={text!r}: expected networks such as 127.0.0.1,10.0.0.0/8 ({error})") from None


def _refusal(name: str, text: str) -> SettingError:
    return SettingError(f"{name}={'...' if name in SECRETS else repr(text)}: expected {expectation(FIELDS[name])}")
