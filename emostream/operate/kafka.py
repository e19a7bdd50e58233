"""config/ivy.xml → the jars in DATA_DIR; config/kafka.properties → the properties and the storage of each broker.

Each path that Java gets is relative to DATA_DIR, because DATA_DIR may have characters that mean something to Java.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from emostream.operate.java import java, java_environment
from emostream.operate.terminal import OperatingError, log_tail, run_step
from emostream.process import MARK, fresh_directory, own_directory
from emostream.roles import brokers
from emostream.settings import CONFIG_DIR, SettingError, Settings

IVY_FILE = CONFIG_DIR / "ivy.xml"
NETWORK_WORDS = ("connection", "resolve", "timed out", "unreachable", "unknownhost", "certificat")
FETCHING = "fetching the Kafka broker and Spark's connector"


def ensure_jars(settings: Settings) -> None:
    """Fetch the jars that config/ivy.xml names into DATA_DIR/jars if they are missing. Raises OperatingError."""
    jars, data = settings.data_path / "jars", settings.data_path
    # ivy.xml is copied last. If it is there, all jars are.
    complete = jars / IVY_FILE.name
    if complete.exists() and complete.read_bytes() == IVY_FILE.read_bytes():
        return
    own_directory(jars)
    partial = fresh_directory(data / "jars.partial")
    _fetch(settings, partial, own_directory(data / "log") / "ivy.log")
    complete.unlink(missing_ok=True)
    for fetched in partial.iterdir():
        if fetched.name not in (MARK, "cache"):
            shutil.rmtree(jars / fetched.name, ignore_errors=True)
            fetched.rename(jars / fetched.name)
    shutil.rmtree(partial)
    shutil.copy(IVY_FILE, jars)


def _fetch(settings: Settings, directory: Path, log: Path) -> None:
    """Run Ivy, which comes with pyspark."""
    pyspark = find_spec("pyspark")  # does not import it, which takes a second
    if pyspark is None or pyspark.origin is None:
        raise OperatingError("pyspark is not installed: install EmoStream with what it requires")
    command = [
        java(), "-XX:-UsePerfData", *proxy_options(), f"-Divy.default.ivy.user.dir={directory / 'cache'}",
        "-jar", str(next((Path(pyspark.origin).parent / "jars").glob("ivy-2*.jar"))), "-ivy", str(IVY_FILE),
        # Not the cache in the home directory: Ivy fails if another program has filled that one only in part.
        "-cache", "cache", "-retrieve", "[conf]/[artifact]-[revision](-[classifier]).[ext]",
    ]  # fmt: skip
    if not run_step(FETCHING, command, directory, settings.environment | java_environment(), log):
        raise OperatingError(_failure(log))


def proxy_options() -> list[str]:
    """Return the proxies of the environment (https_proxy and the like) as options of Java."""
    named = getproxies()
    options = [f"-Dhttp.nonProxyHosts={named['no'].replace(',.', '|*.').replace(',', '|')}"] if "no" in named else []
    for scheme in {"http", "https"} & set(named):
        url = named[scheme]
        proxy = urlsplit(url if "//" in url else f"//{url}")
        options += [f"-D{scheme}.proxyHost={proxy.hostname}", f"-D{scheme}.proxyPort={proxy.port or 80}"]
    return options


def _failure(log: Path) -> str:
    text = log.read_text(errors="replace")
    if "No space left" in text:
        advice = f"the disk of {log.parent.parent} is full. Make room, then run this again."
    elif any(word in text.lower() for word in NETWORK_WORDS):
        advice = f"Check the network, the proxy and the certificates, then run this again. Log: {log}"
    else:
        advice = f"see {log}. Mend the cause, then run this again."
    return f"{log_tail(log)}\n{FETCHING} failed: {advice}"


def prepare_brokers(settings: Settings) -> None:
    """Write the properties of each broker, and format its storage the first time.

    Raises OperatingError, or SettingError if our brokers cannot be what the settings ask for.
    """
    if settings.kafka_security_protocol != "PLAINTEXT":
        raise SettingError(
            f"KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol}: expected BROKERS=0, which uses the brokers "
            "that are there already; those that are run here know no passwords and no certificates"
        )
    data, directory = settings.data_path, own_directory(settings.data_path / "kafka")
    shutil.copy(CONFIG_DIR / "kafka-log4j2.properties", directory / "log4j2.properties")
    cluster_id = directory / "cluster.id"
    if not cluster_id.exists():
        # Kafka wants 16 bytes in base64. The command below would take one that begins with - for an option.
        cluster_id.write_text("E" + secrets.token_urlsafe(16)[1:])
    voters = ",".join(f"{role.number}@{role.addresses[1]}" for role in brokers(settings))
    for role in brokers(settings):
        values = {
            "NODE": role.number,
            "LISTENERS": "PLAINTEXT://{},CONTROLLER://{}".format(*role.addresses),
            "VOTERS": voters,
            "DATA": f"kafka/{role.name.replace('kafka', 'broker')}",
            "REPLICAS": settings.brokers,
            "MIN_INSYNC": 2 if settings.brokers == 3 else 1,
        }
        text = (CONFIG_DIR / "kafka.properties").read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        properties = f"{values['DATA']}.properties"
        (data / properties).write_text(text)
        if (data / str(values["DATA"]) / "meta.properties").exists():
            continue
        formatted = subprocess.run(
            [java(), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-cp", "jars/broker/*",
             "kafka.tools.StorageTool", "format", "--cluster-id", cluster_id.read_text(), "--config", properties,
             "--ignore-formatted"],
            cwd=data, env=settings.environment | java_environment(), capture_output=True, text=True,
        )  # fmt: skip
        if formatted.returncode != 0:
            raise OperatingError(f"the broker's storage could not be formatted: {formatted.stderr or formatted.stdout}")
