"""The Kafka brokers of this machine: their properties and their storage under DATA_DIR."""

from __future__ import annotations

import base64
import subprocess
import uuid

from emostream.operate.java import java
from emostream.operate.terminal import OperatingError
from emostream.roles import brokers
from emostream.settings import CONFIG_DIR, Settings

TEMPLATE = CONFIG_DIR / "kafka.properties"


def prepare_broker(settings: Settings, number: int) -> None:
    """Write the properties of a broker, and format its storage the first time. Raises OperatingError."""
    directory = settings.data_path / "kafka"
    directory.mkdir(parents=True, exist_ok=True)
    properties = directory / f"broker_{number}.properties"
    properties.write_text(_properties(settings, number))
    cluster_id = directory / "cluster.id"
    if not cluster_id.exists():
        cluster_id.write_text(new_cluster_id())
    if (directory / f"broker_{number}" / "meta.properties").exists():
        return
    jars = settings.data_path / "jars" / "broker" / "*"
    formatted = subprocess.run(
        [java(), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", str(jars), "kafka.tools.StorageTool", "format",
         "--cluster-id", cluster_id.read_text(), "--config", str(properties), "--ignore-formatted"],
        capture_output=True, text=True,
    )  # fmt: skip
    if formatted.returncode != 0:
        raise OperatingError(f"the broker's storage could not be formatted: {formatted.stderr or formatted.stdout}")


def _properties(settings: Settings, number: int) -> str:
    addresses = {role.number: role.addresses for role in brokers(settings)}
    broker, controller = addresses[number]
    voters = (f"{voter}@{at.host}:{at.port}" for voter, (_, at) in addresses.items())
    values = {
        "NODE": number,
        "HOST": broker.host,
        "PORT": broker.port,
        "CONTROLLER_PORT": controller.port,
        "VOTERS": ",".join(voters),
        "DATA": settings.data_path / "kafka" / f"broker_{number}",
        "REPLICAS": settings.brokers,
        "MIN_INSYNC": 2 if settings.brokers == 3 else 1,
    }
    text = TEMPLATE.read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    return text


def new_cluster_id() -> str:
    """Return a random id as Kafka makes them: 16 bytes in base64, of which the first character is no `-`."""
    while (made := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass  # the command that formats the storage would take it for an option
    return made
